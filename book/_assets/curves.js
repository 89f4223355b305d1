// Lines that are switched, pointed at and read: of the figures of the experiments, and of the explorer. Without this script
// a figure is the same, with its legend and its numbers as CSV.
(() => {
  const STRONG = 7; // lines at full strength

  const element = (name, attributes = {}, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const number = (value) => (value === null || value === undefined ? "–" : Number(value.toPrecision(4)).toString());

  /** Mean, and the ends of its interval, of a line at a point; nothing before its first and behind its last. */
  function value(points, at) {
    const k = points ? points.x.findLastIndex((x) => x <= at * (1 + 1e-9)) : -1;
    const there = k >= 0 && at <= points.x.at(-1) * (1 + 1e-9);
    return there ? { mean: points.mean[k], low: points.low[k], high: points.high[k] } : { mean: null, low: null, high: null };
  }

  /**
   * What is under drawings of lines: a slider along their axis, and a table of the lines there, the best of the first panel
   * first, in which they are switched. The group of a line in a drawing has its name, data-line.
   *
   * place: of the drawings and of this, whose elements are returned.
   * axis, panels: what stands at the axis, and what each panel measures.
   * lines: { name, swatch, seeds, diverged, panels: [{ x, mean, low, high }], rival: the name of BN beside it }.
   * lower: whether less is better; off: the names that are not shown; at: where on the axis.
   * draw(at, shown, off): called when one of these has changed, with the lines that are shown, the best first.
   */
  const follow = ({ place, axis, panels, lines, lower, off, at, draw }) => {
    const grid = [...new Set(lines.flatMap((line) => line.panels.flatMap((points) => points?.x ?? [])))].sort((a, b) => a - b);
    const nearest = (x) => grid.reduce((best, point, i) => (Math.abs(point - x) < Math.abs(grid[best] - x) ? i : best), 0);
    const slider = element("input", { type: "range", min: 0, max: grid.length - 1, value: at === undefined ? grid.length - 1 : nearest(at) });
    const output = element("output");
    const step = element("div", { class: "nc-step" }, element("label", {}, `${axis} `, slider), output);
    const table = element("div", { class: "nc-read" });

    const button = (words, act) => {
      const made = element("button", { type: "button" }, words);
      made.addEventListener("click", () => { act(); show(); });
      return made;
    };
    const only = (kept) => {
      off.clear();
      for (const { name } of lines) if (name !== kept) off.add(name);
    };
    const buttons = element("p", { class: "nc-buttons" }, button("all", () => off.clear()), button("none", () => only(null)));

    /** The line stands out; with null all do. */
    function point(name) {
      for (const marked of place.querySelectorAll("[data-line]")) {
        marked.classList.toggle("nc-faint", name !== null && marked.dataset.line !== name);
        marked.classList.toggle("nc-near", marked.dataset.line === name);
      }
    }

    place.addEventListener("pointermove", (event) => {
      const drawing = event.target.closest("svg");
      const row = event.target.closest("tr[data-line]");
      point(drawing?.querySelector("[data-line]") ? under(drawing, event) : row?.dataset.line ?? null);
    });
    place.addEventListener("pointerleave", () => point(null));

    /** The name of the line that is nearest to the pointer, up and down more than to the sides. */
    function under(drawing, event) {
      let [least, name] = [25, null];
      for (const group of drawing.querySelectorAll("g[data-line]:not(.nc-off)")) {
        const path = group.querySelector('path[d][style*="fill: none"], path[fill=none]');
        const matrix = path?.getScreenCTM();
        for (const [, x, y] of path?.getAttribute("d").matchAll(/(-?[\d.]+)[ ,](-?[\d.]+)/g) ?? []) {
          const far = Math.hypot((matrix.a * x + matrix.e - event.clientX) * 0.3, matrix.d * y + matrix.f - event.clientY);
          if (far < least) [least, name] = [far, group.dataset.line];
        }
      }
      return name;
    }

    function show() {
      const here = grid[slider.value];
      const read = lines.map((line) => ({ ...line, found: line.panels.map((points) => value(points, here)) }));
      const rank = ({ found: [{ mean }] }) => (mean === null ? Infinity : lower ? mean : -mean);
      read.sort((a, b) => rank(a) - rank(b) || 0);
      const shown = read.filter((line) => !off.has(line.name));
      output.textContent = number(here);
      slider.setAttribute("aria-valuetext", `${axis} ${number(here)}`);
      draw(here, shown, off);
      const weak = new Set(shown.slice(STRONG).map((line) => line.name));
      for (const group of place.querySelectorAll("svg [data-line]")) group.classList.toggle("nc-weak", weak.has(group.dataset.line));
      const compared = read.some((line) => rival(line, read));
      const heads = panels.flatMap((title) => [title, ...(compared ? ["minus BN"] : [])]);
      const head = element("tr", {}, ...["", "", ...heads, "seeds", ""].map((words) => element("th", { scope: "col" }, words)));
      const focused = table.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
      table.replaceChildren(element("table", {}, element("thead", {}, head), element("tbody", {}, ...read.map((line) => row(line, read, compared)))));
      fit();
      if (focused) table.querySelector(`[aria-label="${CSS.escape(focused)}"]`)?.focus();
    }

    /** Where a line's values do not fit beside its name they stand below it. */
    function fit() {
      table.classList.remove("nc-stacked");
      table.classList.toggle("nc-stacked", table.scrollWidth > table.clientWidth + 1);
    }

    const rival = (line, read) => read.find((other) => other.name === line.rival && other.name !== line.name);

    function row(line, read, compared) {
      const box = element("input", { type: "checkbox", "aria-label": `show ${line.name}` });
      box.checked = !off.has(line.name);
      box.addEventListener("change", () => {
        if (!off.delete(line.name)) off.add(line.name);
        show();
      });
      const alone = button("only this", () => only(line.name));
      alone.setAttribute("aria-label", `only this: ${line.name}`);
      const beside = rival(line, read);
      const cells = line.found.flatMap(({ mean, low, high }, i) => {
        const range = line.seeds < 5 ? " range" : "";
        const ends = low === null ? [] : [" ", element("small", {}, `[${number(low)}, ${number(high)}]${range}`)];
        const from = beside?.found[i].mean ?? null;
        const apart = mean === null || from === null ? "" : `${mean > from ? "+" : ""}${number(mean - from)}`;
        const named = { "data-of": panels[i] };
        return [element("td", named, number(mean), ...ends), ...(compared ? [element("td", { "data-of": "minus BN" }, apart)] : [])];
      });
      const seeds = (line.seeds === 1 ? "one run" : String(line.seeds)) + (line.diverged ? `, ${line.diverged} diverged` : "");
      return element("tr", { "data-line": line.name }, element("td", {}, box), element("th", { scope: "row" }, line.swatch, ` ${line.label ?? line.name}`),
        ...cells, element("td", { "data-of": "seeds" }, seeds), element("td", {}, alone));
    }

    slider.addEventListener("input", show);
    show();
    new ResizeObserver(fit).observe(place);
    return { parts: [step, buttons, table], move: (x) => { slider.value = nearest(x); show(); } };
  };
  window.normcore = { element, number, lines: follow };

  /** A figure that was drawn before: its legend becomes the table. */
  function figure(place) {
    const { x, lower, note, seeds, panels } = JSON.parse(place.dataset.curves);
    const drawings = [...place.querySelectorAll(".nc-panel svg")];
    const legend = place.querySelector(".nc-legend");
    for (const group of place.querySelectorAll(".nc-panel [data-series]")) group.dataset.line = group.dataset.series;
    const cursors = drawings.map((drawing, i) => {
      const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
      line.setAttribute("class", "nc-cursor");
      line.setAttribute("y1", panels[i].line[2]);
      line.setAttribute("y2", panels[i].line[3]);
      drawing.append(line);
      return line;
    });
    const lines = [...legend.querySelectorAll("[data-series]")].map((entry) => {
      const name = entry.dataset.series;
      const [swatch, label] = entry.childNodes;
      return { name, label: label.textContent, swatch, seeds: seeds[name], panels: panels.map((panel) => panel.series[name] && { x: panel.x, ...panel.series[name] }),
        rival: `bn${name.match(/-(head|report)$/)?.[0] ?? ""}` };
    });
    const { parts } = follow({ place, axis: x, panels: panels.map((panel) => panel.title), lines, lower, off: new Set(),
      draw(at, _, off) {
        for (const group of place.querySelectorAll("svg [data-line]")) group.classList.toggle("nc-off", off.has(group.dataset.line));
        panels.forEach(({ line: [zero, unit] }, i) => ["x1", "x2"].forEach((end) => cursors[i].setAttribute(end, zero + unit * at)));
      } });
    legend.replaceWith(...parts, numbers(x, note, panels.map((panel) => panel.title), lines));
  }

  /** What is drawn, panel by panel; made when it is asked for. */
  function numbers(axis, note, titles, lines) {
    const cell = (points, at) => {
      const k = points?.x.indexOf(at) ?? -1;
      if (k < 0) return "";
      const ends = points.low[k] === null ? "" : ` [${number(points.low[k])}, ${number(points.high[k])}]`;
      return `${number(points.mean[k])}${ends}`;
    };
    const table = (title, i) => {
      const there = lines.filter((line) => line.panels[i]);
      const places = [...new Set(there.flatMap((line) => line.panels[i].x))].sort((a, b) => a - b);
      const head = [axis, ...there.map((line) => line.label)].map((words) => element("th", { scope: "col" }, words));
      const rows = places.map((at) => element("tr", {}, element("th", { scope: "row" }, at < 1000 ? number(at) : at.toLocaleString("en")), ...there.map((line) => element("td", {}, cell(line.panels[i], at)))));
      return element("table", { tabindex: 0 }, element("caption", {}, title), element("tr", {}, ...head), ...rows);
    };
    const made = element("details", {}, element("summary", {}, "The numbers"));
    made.addEventListener("toggle", () => made.append(element("p", {}, note), element("div", { class: "nc-tables" }, ...titles.map(table))), { once: true });
    return made;
  }

  document.addEventListener("DOMContentLoaded", () => document.querySelectorAll("figure[data-curves]").forEach(figure));
})();
