// Curves: buttons switch lines on and off, a line that is pointed at stands out, a slider reads the values. Without this
// the figure is the same, with its legend and its table.
document.addEventListener("DOMContentLoaded", () => {
  const number = (v) => v.toPrecision(4);
  const place = (v) => Number(v.toPrecision(3)).toString();
  const element = (name, ...children) => {
    const made = document.createElement(name);
    made.append(...children);
    return made;
  };

  for (const figure of document.querySelectorAll("figure[data-curves]")) {
    const { x, panels } = JSON.parse(figure.dataset.curves);
    const drawings = [...figure.querySelectorAll(".nc-panel svg")];
    const off = new Set();
    const legend = figure.querySelector(".nc-legend");

    for (const entry of legend.querySelectorAll("[data-series]")) {
      const button = element("button", ...entry.childNodes);
      button.type = "button";
      button.dataset.series = entry.dataset.series;
      button.addEventListener("click", () => {
        if (!off.delete(button.dataset.series)) off.add(button.dataset.series);
        show();
      });
      entry.replaceWith(button);
    }
    const buttons = [...legend.querySelectorAll("button")];
    if (buttons.length > 3)
      for (const [words, hidden] of [["all", []], ["none", buttons.map((button) => button.dataset.series)]])
        legend.append(action(words, hidden));

    /** A button that shows all lines but the hidden ones. */
    function action(words, hidden) {
      const button = element("button", words);
      button.type = "button";
      button.addEventListener("click", () => {
        off.clear();
        hidden.forEach((name) => off.add(name));
        show();
      });
      return button;
    }

    function show() {
      for (const button of buttons) button.setAttribute("aria-pressed", String(!off.has(button.dataset.series)));
      for (const line of figure.querySelectorAll(".nc-panel [data-series]")) line.classList.toggle("nc-off", off.has(line.dataset.series));
      read();
    }

    /** The line of the name stands out; with none all do. */
    function point(name) {
      for (const line of figure.querySelectorAll(".nc-panel [data-series]"))
        line.classList.toggle("nc-faint", name !== undefined && line.dataset.series !== name);
    }
    figure.addEventListener("pointerover", (event) => point(event.target.closest?.("[data-series]")?.dataset.series));
    figure.addEventListener("pointerleave", () => point(undefined));

    const lines = panels.flatMap((p) => Object.values(p.series));
    const grid = [...new Set(lines.flatMap((s) => s.x))].sort((a, b) => a - b);
    const step = document.createElement("div");
    step.className = "nc-step";
    step.innerHTML = `<label>${x} <input type="range" min="0" max="${grid.length - 1}" value="${grid.length - 1}"></label><output></output>`;
    const [slider, output] = [step.querySelector("input"), step.querySelector("output")];
    const values = document.createElement("div");
    values.className = "nc-read";
    legend.after(step, values);

    const cursors = drawings.map((drawing, i) => {
      const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
      line.setAttribute("class", "nc-cursor");
      line.setAttribute("y1", panels[i].line[2]);
      line.setAttribute("y2", panels[i].line[3]);
      drawing.append(line);
      return line;
    });

    /** Mean, and the ends of its interval, of a line at a point; nothing before its first and behind its last. */
    function value(series, at) {
      const k = series ? series.x.findLastIndex((point) => point <= at + 1e-9) : -1;
      return k < 0 || at > series.x.at(-1) + 1e-9 ? null : { mean: series.mean[k], low: series.low[k], high: series.high[k] };
    }

    function cell(found) {
      if (!found || found.mean === null) return "–";
      return number(found.mean) + (found.low === null ? "" : ` [${number(found.low)}, ${number(found.high)}]`);
    }

    /** A table of the lines that are shown at the slider's point, the best in the first panel first. */
    function read() {
      const at = grid[slider.value];
      output.textContent = place(at);
      slider.setAttribute("aria-valuetext", `${x} ${place(at)}`);
      panels.forEach(({ line: [zero, unit] }, i) => ["x1", "x2"].forEach((end) => cursors[i].setAttribute(end, zero + unit * at)));
      const names = [...new Set(panels.flatMap((panel) => Object.keys(panel.series)))].filter((name) => !off.has(name));
      const found = Object.fromEntries(names.map((name) => [name, panels.map((panel) => value(panel.series[name], at))]));
      const sign = panels[0].title.includes("loss") ? 1 : -1;
      const rank = (name) => sign * (found[name][0]?.mean ?? sign * Infinity);
      names.sort((a, b) => rank(a) - rank(b));
      const label = (name) => panels.map((panel) => panel.series[name]?.label).find(Boolean);
      const rows = names.map((name) => {
        const row = element("tr", Object.assign(element("th", label(name)), { scope: "row" }), ...found[name].map((one) => element("td", cell(one))));
        row.dataset.series = name;
        if (buttons.length > 3) row.append(element("td", action("only", buttons.map((b) => b.dataset.series).filter((other) => other !== name))));
        return row;
      });
      const head = element("tr", ...["", ...panels.map((panel) => panel.title)].map((words) => Object.assign(element("th", words), { scope: "col" })));
      if (buttons.length > 3) head.append(element("td"));
      values.replaceChildren(element("table", element("thead", head), element("tbody", ...rows)));
    }
    slider.addEventListener("input", read);
    show();
  }
});
