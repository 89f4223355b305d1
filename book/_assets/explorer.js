// The explorer: the runs of an experiment as curves or as dots, and their values at a point (curves.js). What is shown stands
// in the address. The data of an experiment is a script of its own (normcore/lab/book/explorer.py), so that this works from a
// disk.
(() => {
  const { element, number, lines: follow } = window.normcore;
  const place = document.querySelector("#nc-explorer");
  const files = { waiting: {}, there: {} };
  window.normcoreRuns = (name, data) => files.waiting[name](data);

  const X = {
    step: ["optimizer steps", () => 1],
    samples: ["samples seen", (line) => line.batch],
    epoch: ["epochs", (line) => 1 / line.epoch],
    seconds: ["seconds, as they were measured", (line) => line.seconds],
  };
  const HEIGHT = 420;
  let WIDTH = 760; // as wide as the page, so that a unit is a pixel
  const BOX = { left: 62, right: 14, top: 12, bottom: 46 };
  const state = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  let move = null; // takes the values of another point of the axis
  const off = new Set((state.off ?? "").split("|").filter(Boolean));

  const drawn = (name, attributes = {}, ...children) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };

  // --- data ---

  const load = (name) =>
    (files.there[name] ??= new Promise((done, failed) => {
      files.waiting[name] = done;
      const script = element("script", { src: `${place.dataset.runs}/${name}.js` });
      script.addEventListener("error", () => failed(new Error(`The runs of ${name} cannot be loaded.`)));
      document.head.append(script);
    }));

  /** The value that most normalizers share: a first view of few lines that can be compared. */
  function usual(lines, field) {
    const norms = {};
    for (const line of lines) (norms[line.facets[field]] ??= new Set()).add(line.variant);
    return Object.entries(norms).sort((a, b) => b[1].size - a[1].size)[0]?.[0] ?? "all";
  }

  const sorted = (values) => [...new Set(values)].sort((a, b) => Number(a) - Number(b) || a.localeCompare(b));

  /** The lines of the view, each with its name, its points along the axis and the name of BN beside it. */
  function view(profile) {
    const fields = Object.keys(profile.fields);
    const free = fields.filter((field) => state[`f.${field}`] === "all");
    const chosen = profile.lines.filter((line) =>
      fields.every((field) => free.includes(field) || line.facets[field] === state[`f.${field}`]));
    const lines = chosen.filter((line) => line.curves[state.measure]).map((line) => {
      const points = line.curves[state.measure];
      const names = free.map((field) => `${profile.fields[field]} ${line.facets[field]}`);
      const scale = X[state.x][1](line);
      const at = points.x.map((step) => step * scale);
      const look = profile.looks[line.variant];
      return { ...line, look, swatch: swatch(look), panels: [{ ...points, x: at }],
        name: [profile.looks[line.variant].label, ...names].join(", "), others: JSON.stringify(fields.map((f) => line.facets[f])) };
    });
    for (const line of lines) line.rival = lines.find((other) => other.variant === "bn" && other.others === line.others)?.name;
    return lines;
  }

  // --- drawing ---

  function ticks(low, high, log) {
    if (log) {
      const found = [];
      for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
        for (const times of high < 1000 * low ? [1, 2, 5] : [1]) found.push(times * 10 ** power);
      return found.filter((tick) => tick >= low && tick <= high);
    }
    const rough = (high - low) / (WIDTH < 500 ? 3 : 5);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].find((times) => times * power >= rough) * power;
    const found = [];
    for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-6; tick += step) found.push(Number(tick.toPrecision(10)));
    return found;
  }

  const scaled = (low, high, from, to, log) => {
    const map = log ? Math.log : (v) => v;
    return (v) => from + ((map(v) - map(low)) / (map(high) - map(low) || 1)) * (to - from);
  };

  /** A marker as matplotlib calls it. */
  function marker(kind, x, y, color, size = 4.5) {
    if (kind === "o") return drawn("circle", { cx: x, cy: y, r: size * 0.85, fill: color });
    const star = "*PX".includes(kind);
    const corners = { s: 4, D: 4, d: 4, "^": 3, v: 3, "<": 3, ">": 3, p: 5, h: 6, H: 6, 8: 8, "*": 5, P: 4, X: 4 }[kind] ?? 4;
    const turn = { s: 45, "^": -90, v: 90, "<": 180, p: -90, h: -90, "*": -90, X: 45 }[kind] ?? 0;
    const points = [];
    for (let i = 0; i < corners * (star ? 2 : 1); i++) {
      const angle = ((turn + (i * 360) / (corners * (star ? 2 : 1))) * Math.PI) / 180;
      const radius = size * (star && i % 2 ? 0.45 : 1.1);
      points.push(`${x + Math.cos(angle) * radius * (kind === "d" ? 0.6 : 1)},${y + Math.sin(angle) * radius}`);
    }
    return drawn("polygon", { points: points.join(" "), fill: color });
  }

  function axes(picture, xs, ys, x, y, labels, logs) {
    const bottom = HEIGHT - BOX.bottom;
    for (const tick of ticks(...ys, logs.y)) {
      picture.append(drawn("line", { x1: BOX.left, x2: WIDTH - BOX.right, y1: y(tick), y2: y(tick), class: "nc-grid" }),
        drawn("text", { x: BOX.left - 7, y: y(tick) + 4, "text-anchor": "end" }, number(tick)));
    }
    for (const tick of ticks(...xs, logs.x))
      picture.append(drawn("text", { x: x(tick), y: bottom + 18, "text-anchor": "middle" }, tick >= 10000 ? `${tick / 1000}k` : number(tick)));
    picture.append(drawn("text", { x: (BOX.left + WIDTH) / 2, y: HEIGHT - 8, "text-anchor": "middle" }, labels.x),
      drawn("text", { transform: `translate(14 ${(BOX.top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, labels.y),
      drawn("path", { d: `M${BOX.left},${BOX.top}V${bottom}H${WIDTH - BOX.right}`, class: "nc-axis" }));
  }

  function curves(shown, at, end) {
    const log = state.measure.endsWith("loss");
    const all = shown.flatMap((line) => [...line.panels[0].mean, ...line.panels[0].low, ...line.panels[0].high]).filter((v) => v !== null && (!log || v > 0));
    const picture = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
    if (!all.length) return picture;
    const [low, high] = [Math.min(...all), Math.max(...all)];
    const pad = log ? 1 : 0.03 * (high - low || 1);
    const ys = log ? [low * 0.97, high * 1.03] : [low - pad, high + pad];
    const x = scaled(0, end, BOX.left, WIDTH - BOX.right);
    const y = scaled(...ys, HEIGHT - BOX.bottom, BOX.top, log);
    axes(picture, [0, end], ys, x, y, { x: X[state.x][0], y: state.measure }, { x: false, y: log });
    for (const line of shown) picture.append(curve(line, x, y, log));
    picture.append(drawn("line", { x1: x(at), x2: x(at), y1: BOX.top, y2: HEIGHT - BOX.bottom, class: "nc-cursor" }));
    picture.addEventListener("click", (event) => {
      const box = picture.getBoundingClientRect();
      const px = ((event.clientX - box.left) / box.width) * WIDTH;
      move(Math.min(end, Math.max(0, ((px - BOX.left) / (WIDTH - BOX.left - BOX.right)) * end)));
    });
    return picture;
  }

  function curve(line, x, y, log) {
    const { look, panels: [points] } = line;
    const group = drawn("g", { "data-line": line.name });
    const kept = points.x.map((_, i) => i).filter((i) => points.mean[i] !== null && (!log || points.mean[i] > 0));
    const whole = kept.filter((i) => points.low[i] !== null && (!log || points.low[i] > 0));
    if (whole.length > 1) {
      const edge = [...whole.map((i) => [i, points.high[i]]), ...whole.toReversed().map((i) => [i, points.low[i]])];
      group.append(drawn("path", { d: `M${edge.map(([i, v]) => `${x(points.x[i]).toFixed(1)},${y(v).toFixed(1)}`).join("L")}Z`, fill: look.color, opacity: 0.15 }));
    }
    const path = kept.map((i) => `${x(points.x[i]).toFixed(1)},${y(points.mean[i]).toFixed(1)}`).join("L");
    group.append(drawn("path", { d: `M${path}`, fill: "none", stroke: look.color, "stroke-width": 2,
      "stroke-dasharray": look.dash.map((part) => 2 * part).join(" ") }));
    const every = Math.max(1, Math.round(kept.length / 8));
    for (const i of kept.filter((_, k) => k % every === (every >> 1))) group.append(marker(look.marker, x(points.x[i]), y(points.mean[i]), look.color));
    return group;
  }

  function dots(lines) {
    const shown = lines.map((line) => ({ ...line, ...line.found[0] })).filter((line) => line.mean !== null);
    const height = 60 + 24 * shown.length;
    const left = Math.min(220, 20 + 7 * Math.max(0, ...shown.map((line) => line.name.length)));
    const all = shown.flatMap((line) => [line.mean, line.low, line.high]).filter((v) => v !== null);
    const picture = drawn("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img" });
    if (!all.length) return picture;
    const pad = 0.05 * (Math.max(...all) - Math.min(...all) || 1);
    const xs = [Math.min(...all) - pad, Math.max(...all) + pad];
    const x = scaled(...xs, left, WIDTH - BOX.right);
    for (const tick of ticks(...xs, false))
      picture.append(drawn("line", { x1: x(tick), x2: x(tick), y1: 8, y2: height - 44, class: "nc-grid" }),
        drawn("text", { x: x(tick), y: height - 26, "text-anchor": "middle" }, number(tick)));
    picture.append(drawn("text", { x: (left + WIDTH) / 2, y: height - 6, "text-anchor": "middle" }, state.measure));
    shown.forEach((line, row) => {
      const y = 22 + 24 * row;
      const group = drawn("g", { "data-line": line.name }, drawn("text", { x: left - 12, y: y + 4, "text-anchor": "end" }, line.name));
      if (line.low !== null) group.append(drawn("line", { x1: x(line.low), x2: x(line.high), y1: y, y2: y, stroke: line.look.color, "stroke-width": 2 }));
      group.append(marker(line.look.marker, x(line.mean), y, line.look.color, 6));
      picture.append(group);
    });
    return picture;
  }

  // --- what is chosen and read ---

  function choice(name, asks, options) {
    const select = element("select", { name });
    for (const [value, words] of options) select.append(new Option(words, value, false, value === state[name]));
    select.addEventListener("change", () => {
      state[name] = select.value;
      if (name === "experiment") for (const key of Object.keys(state)) if (key !== "experiment" && key !== "x") delete state[key];
      if (name === "profile") for (const key of Object.keys(state)) if (key.startsWith("f.")) delete state[key];
      delete state.at;
      if (name !== "view" && name !== "x") off.clear();
      render().then(() => place.querySelector(`select[name="${name}"]`)?.focus());
    });
    return element("label", {}, `${asks} `, select);
  }

  function form(data, profile) {
    const fields = Object.entries(profile.fields).map(([field, asks]) =>
      choice(`f.${field}`, asks, [...sorted(profile.lines.map((line) => line.facets[field])).map((v) => [v, v]), ["all", "all"]]));
    const measures = sorted(profile.lines.flatMap((line) => Object.keys(line.curves))).map((m) => [m, m]);
    return element("div", { class: "nc-select" },
      choice("experiment", "experiment", Object.entries(JSON.parse(place.dataset.experiments))),
      choice("profile", "profile", Object.keys(data.profiles).map((p) => [p, p])), choice("measure", "measure", measures), ...fields,
      choice("x", "against", Object.entries(X).map(([key, [words]]) => [key, words])),
      choice("view", "drawn as", [["curves", "curves"], ["dots", "dots at the point"]]));
  }

  const swatch = (look) => drawn("svg", { viewBox: "0 0 36 14", width: 36, height: 14, "aria-hidden": "true" },
    drawn("line", { x1: 1, x2: 35, y1: 7, y2: 7, stroke: look.color, "stroke-width": 2, "stroke-dasharray": look.dash.map((part) => 2 * part).join(" ") }),
    marker(look.marker, 18, 7, look.color));

  function code(profile) {
    const fields = Object.keys(profile.fields).filter((field) => state[`f.${field}`] !== "all");
    const tests = fields.map((field) => `    & (frame["${field}"].astype(str) == "${state[`f.${field}`]}")`);
    const [split, metric] = state.measure.replace("training", "train").split(" ");
    const text = ["from normcore import lab", "", `runs = lab.Store("${state.experiment}").runs("${state.profile}")`, "frame = lab.curves(runs)",
      "frame = frame[", `    (frame["split"] == "${split}")`, ...tests, "]", `print(lab.intervals(frame, ["norm", "step"], "${metric}"))`].join("\n");
    const button = element("button", { type: "button" }, "copy");
    button.addEventListener("click", () => navigator.clipboard?.writeText(text).then(() => (button.textContent = "copied")));
    return element("details", {}, element("summary", {}, "As code"), element("pre", {}, text), button);
  }

  async function render() {
    const names = Object.keys(JSON.parse(place.dataset.experiments));
    if (!names.includes(state.experiment)) state.experiment = names[0];
    let data;
    try {
      data = await load(state.experiment);
    } catch (error) {
      place.replaceChildren(error.message);
      return;
    }
    if (!(state.profile in data.profiles)) state.profile = Object.keys(data.profiles)[0];
    const profile = data.profiles[state.profile];
    const measures = new Set(profile.lines.flatMap((line) => Object.keys(line.curves)));
    if (!measures.has(state.measure)) {
      const long = ["test accuracy", "test loss"].find((m) => profile.lines.some((line) => (line.curves[m]?.x.length ?? 0) > 2));
      state.measure = long ?? (measures.has("training loss") ? "training loss" : [...measures][0]);
    }
    let left = profile.lines;
    for (const field of Object.keys(profile.fields).sort((a, b) => (`f.${b}` in state) - (`f.${a}` in state))) {
      state[`f.${field}`] ??= usual(left, field);
      if (state[`f.${field}`] !== "all") left = left.filter((line) => line.facets[field] === state[`f.${field}`]);
    }
    if (!(state.x in X)) state.x = "step";
    if (state.view !== "dots") state.view = "curves";
    WIDTH = Math.min(900, Math.max(320, place.clientWidth));
    const seen = view(profile);
    const picture = element("div", { class: "nc-picture" });
    const link = element("a", { href: data.page }, data.title);
    const below = [element("p", {}, "From ", link, "."), code(profile)];
    if (!seen.length) {
      place.replaceChildren(form(data, profile), "No run is all of this: choose another value, or all.", ...below);
      return;
    }
    const end = Math.max(...seen.map((line) => line.panels[0].x.at(-1)));
    const { parts, move: moved } = follow({ place: picture, axis: X[state.x][0], panels: [state.measure], lines: seen,
      lower: state.measure.endsWith("loss"), off, at: state.at === undefined ? undefined : Number(state.at),
      draw(at, shown) {
        const svg = state.view === "dots" ? dots(shown) : curves(shown, at, end);
        svg.setAttribute("aria-label", `${state.measure} of ${shown.map((line) => line.name).join(", ")}; the table has the values.`);
        picture.querySelector(":scope > svg")?.remove();
        picture.prepend(svg);
        if (at < end) state.at = number(at);
        else delete state.at;
        keep();
      } });
    move = moved;
    picture.append(...parts);
    place.replaceChildren(form(data, profile), picture, ...below);
  }

  /** What is shown, in the address. */
  function keep() {
    if (off.size) state.off = [...off].join("|");
    else delete state.off;
    history.replaceState(null, "", `#${new URLSearchParams(state)}`);
  }

  addEventListener("hashchange", () => location.reload());
  render();
})();
