// Curves: buttons switch lines on and off, a slider reads their values. Without this the figure is the same,
// with its legend and its table.
document.addEventListener("DOMContentLoaded", () => {
  const number = (v) => v.toPrecision(4);
  const place = (v) => Number(v.toPrecision(3)).toString();
  for (const figure of document.querySelectorAll("figure[data-curves]")) {
    const { x, panels } = JSON.parse(figure.dataset.curves);
    const drawings = [...figure.querySelectorAll(".nc-panel svg")];
    const off = new Set();

    for (const entry of figure.querySelectorAll(".nc-legend [data-series]")) {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.series = entry.dataset.series;
      button.append(...entry.childNodes);
      button.setAttribute("aria-pressed", "true");
      button.addEventListener("click", () => {
        const name = button.dataset.series;
        const shown = off.delete(name) || !off.add(name);
        button.setAttribute("aria-pressed", String(shown));
        for (const drawing of drawings)
          for (const line of drawing.querySelectorAll(`[data-series="${name}"]`)) line.classList.toggle("nc-off", !shown);
        read();
      });
      entry.replaceWith(button);
    }

    const lines = panels.flatMap((p) => Object.values(p.series));
    const grid = [...new Set(lines.flatMap((s) => s.x))].sort((a, b) => a - b);
    const step = document.createElement("div");
    step.className = "nc-step";
    step.innerHTML = `<label>${x} <input type="range" min="0" max="${grid.length - 1}" value="${grid.length - 1}"></label><output></output>`;
    const [slider, output] = [step.querySelector("input"), step.querySelector("output")];
    const values = document.createElement("div");
    values.className = "nc-read";
    values.setAttribute("aria-live", "polite");
    figure.querySelector(".nc-legend").after(step, values);

    const cursors = drawings.map((drawing, i) => {
      const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
      line.setAttribute("class", "nc-cursor");
      line.setAttribute("y1", panels[i].line[2]);
      line.setAttribute("y2", panels[i].line[3]);
      drawing.append(line);
      return line;
    });

    function read() {
      const at = grid[slider.value];
      output.textContent = place(at);
      slider.setAttribute("aria-valuetext", `${x} ${place(at)}`);
      values.replaceChildren(...panels.map((panel, i) => {
        const [zero, unit] = panel.line;
        for (const end of ["x1", "x2"]) cursors[i].setAttribute(end, zero + unit * at);
        const row = document.createElement("div");
        row.textContent = `${panel.title}: ` + Object.entries(panel.series).filter(([name]) => !off.has(name))
          .map(([, s]) => {
            const k = s.x.findLastIndex((value) => value <= at + 1e-9);
            if (k < 0 || at > s.x.at(-1) + 1e-9) return `${s.label} –`; // before its first point, or behind its last
            return `${s.label} ${number(s.mean[k])}` + (s.low[k] === null ? "" : ` [${number(s.low[k])}, ${number(s.high[k])}]`);
          }).join(", ");
        return row;
      }));
    }
    slider.addEventListener("input", read);
    read();
  }
});
