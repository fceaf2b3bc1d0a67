// Shows a report. All numbers come from Python, in one block of JSON; here the
// reader selects an objective, trials, rows and curves. Texts from a study become
// text nodes, never markup.

const report = JSON.parse(document.getElementById("data").textContent);
const page = document.getElementById("page");
const isStudy = report.kind === "study";
const isPlain = report.kind === "plain";  // without an objective or trials to select

const VERDICTS = {
  fail: "✕ fail", warn: "! warn", unknown: "? unknown", ok: "✓ ok",
};
const STATUSES = {
  completed: "✓ completed", infeasible: "✕ infeasible", failed: "▼ failed",
  running: "… running", preempted: "‖ preempted", pending: "· pending",
  excluded: "– excluded",
};
// The figure that shows the evidence of a check.
const SEEN_IN = {
  search_space_boundary: "axis: ", enough_trials: "best of n",
  max_train_steps: "best step", compute_bound: "best step",
};
const FIRST_ROWS = 200;
const COLOURED = 6;  // number of trials with a colour of their own in curves
const MOST_NODES = 2000;  // a figure with more rows is a canvas, not SVG
const MOST_POINTS = 5000;  // of curves with tooltips
const RELOAD_MS = 15000;

const state = {
  metric: report.metric, select: report.select, few: "5", words: "",
  status: "", sort: "objective", down: false, picked: null, all: false,
  ...remembered(),
};

function remembered() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(location.pathname)) ?? {};
    return report.live ? kept : {};
  } catch { return {}; }
}

function remember() {
  try {
    const picked = state.picked && [...state.picked];
    sessionStorage.setItem(location.pathname, JSON.stringify({...state, picked}));
  } catch { /* The browser may refuse; it is only used by a reload. */ }
}

// el("a", {href: "#x", onclick: f}, "text", child, ...): an element.
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child != null));
  return node;
}

function text(value) {
  if (value == null) return "–";
  if (typeof value === "number") {
    return Number.isInteger(value) ? String(value) : String(+value.toPrecision(4));
  }
  if (Array.isArray(value)) return value.map(text).join(", ");
  if (typeof value === "object") {
    return Object.entries(value).map(([k, v]) => `${k}: ${text(v)}`).join("; ");
  }
  return String(value);
}

// Long labels break after a dot, not within a word.
function breakable(label) {
  return label.split(/(?<=\.)/).flatMap((part, i) =>
    i ? [el("wbr"), part] : [part]);
}

function list(pairs) {
  return el("dl", {}, pairs.map(([name, value]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, shown(value)))));
}

function shown(value) {
  if (value instanceof Node) return value;
  if (value == null || typeof value !== "object") return text(value);
  if (!Object.keys(value).length) return "none";
  return Array.isArray(value) ? text(value) : list(Object.entries(value));
}

function copyable(content) {
  const button = el("button", {onclick: async () => {
    try {
      await navigator.clipboard.writeText(content);
    } catch {
      getSelection().selectAllChildren(button.nextSibling);
      document.execCommand("copy");
    }
    button.textContent = "copied";
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  }}, "copy");
  return el("div", {class: "copied"}, button, el("pre", {}, content));
}

// Trials under the current objective, by index; `ranked` are those with a value,
// best first.
let trials, ranked, byIndex, derived;

function rank() {
  if (isPlain) { trials = ranked = []; byIndex = new Map(); return; }
  derived = report.objectives[state.metric]?.[state.select] ?? {};
  const columns = {...report.trials, objective: derived.objective, at: derived.at};
  trials = rowsOfColumns(columns);
  ranked = trials.filter((t) => t.objective != null)
    .sort((a, b) => a.objective - b.objective || a.index - b.index);
  ranked.forEach((trial, i) => { trial.rank = i; });
  byIndex = new Map(trials.map((trial) => [trial.index, trial]));
}

function rowsOfColumns(columns) {
  const names = Object.keys(columns);
  return report.trials.index.map((_, i) =>
    Object.fromEntries(names.map((name) => [name, columns[name]?.[i]])));
}

function point(trial) {
  return report.parameters.map((p) => [p, p.values[trial.place]])
    .filter(([, value]) => value != null);
}

function objectiveTitle() { return `${state.metric} (${state.select})`; }

// ---- Result -------------------------------------------------------------

function config(trial) {
  const found = structuredClone(report.config);
  for (const [parameter, value] of point(trial)) {
    const path = parameter.key.split(".");
    const last = path.pop();
    path.reduce((inner, key) => inner[key] ??= {}, found)[last] = value;
  }
  found.seed = trial.seed;
  return JSON.stringify(found, null, 1);
}

function command(trial) {
  const {program, devices, folder} = report.again;
  const other = isStudy ? `${folder}-trial-${trial.index}` : `${folder}-again`;
  return [`${program} train`, quoted(`--config=${trial.path}/config.json`),
    quoted(`--workdir=${other}`), devices].filter(Boolean).join(" \\\n  ");
}

function overrides(trial) {
  const pairs = [...Object.entries(report.overrides),
    ...point(trial).map(([p, value]) => [p.key, value])];
  if (!pairs.length) return null;
  const flags = pairs.map(([key, value]) => quoted(`--config.${key}=${
    typeof value === "object" ? JSON.stringify(value) : value}`));
  return [el("h4", {}, `Overrides of ${report.config_file}`),
    copyable(flags.join("\n"))];
}

function quoted(word) {  // for a shell
  return /^[\w./:=+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

function answer() {
  const best = ranked[0];
  if (!best) return [el("p", {}, noResult())];
  const reruns = rerunValues(best.index);
  return [
    el("div", {class: "answer"},
      el("div", {},
        el("div", {class: "soft"}, `${objectiveTitle()}, lower is better`),
        el("div", {class: "value", id: "best-value"}, text(best.objective)),
        el("p", {id: "best-trial"}, isStudy ? `Trial ${best.index}`
          + `${best.kind === "adaptive" ? " (adaptive)" : ""}; ` : "",
          `best at step ${best.at} of ${best.max_train_steps}`,
          isStudy ? `; ${ranked.length} trials have a value.` : "."),
        numAdaptive() ? el("p", {id: "adaptive"}, `${numAdaptive()} trials were`
          + " adaptive: suggested from the results of earlier trials. One of them"
          + " may be the best, but they are not a fair sample of the space, so"
          + " checks of the space, comparisons, slices and the best of n leave them"
          + " out.") : null,
        reruns.length ? el("p", {}, `Mean over ${reruns.length} other`
          + ` seeds: ${spread(reruns)} (standard deviation).`) : null,
        list(point(best).map(([p, value]) => [p.label, value]))),
      el("div", {},
        el("h4", {}, "Command to train it again"), copyable(command(best)),
        overrides(best),
        el("details", {}, el("summary", {}, "Full config"),
          copyable(config(best))))),
    ...report.parameters.map((p, i) =>
      p.role === "scientific" ? perValue(p, derived.isolation[i]) : null),
    isOwnObjective() ? comparisons() : null,
  ];
}

function numAdaptive() {
  return trials.filter((t) => t.kind === "adaptive").length;
}

// Whether the page shows the objective that the checks are for.
function isOwnObjective() {
  return state.metric === report.metric && state.select === report.select;
}

function comparisons() {
  if (!report.comparisons.length) return null;
  return el("div", {class: "scroll"},
    el("h3", {}, "Comparison with the best"),
    el("table", {id: "comparisons"},
      el("thead", {}, el("tr", {}, ["best", "against", "improvement",
        "95% interval", "verdict"].map((head) => el("th", {}, head)))),
      el("tbody", {}, report.comparisons.map((pair) => el("tr", {},
        [pair.best, pair.other, pair.improvement,
          pair.interval.map(text).join(" to "), verdict(pair)]
          .map((cell) => el("td", {}, text(cell))))))));
}

function verdict(pair) {
  if (pair.better) return "better";
  const none = "no significant difference";
  return pair.more_seeds
    ? `${none}; it would take ${pair.more_seeds} seeds of each` : none;
}

function noResult() {
  if (!trials.length) return "No trials yet.";
  return `No completed trial has logged ${state.metric} yet.`;
}

function rerunValues(index) {
  return report.reruns.filter((r) => r.index === index)
    .map((r) => r.values[state.metric]?.[state.select]).filter((v) => v != null);
}

function spread(values) {
  const mean = values.reduce((a, b) => a + b) / values.length;
  const squares = values.reduce((a, b) => a + (b - mean) ** 2, 0);
  const deviation = Math.sqrt(squares / Math.max(values.length - 1, 1));
  return `${text(mean)} ± ${text(deviation)}`;
}

function perValue(parameter, rows) {
  const heads = [parameter.label, "best", "trial", "trials", "infeasible"];
  const reruns = rows.map((row) => rerunValues(row.index));
  if (reruns.some((values) => values.length)) heads.push("with other seeds");
  return el("div", {class: "scroll"},
    el("h3", {}, `Best for each value of ${parameter.label}`),
    el("table", {class: "per-value"},
      el("thead", {}, el("tr", {}, heads.map((head) => el("th", {}, head)))),
      el("tbody", {}, rows.map((row, i) => el("tr",
        {onclick: () => pick([row.index])},
        [row.label, row.objective, row.index, row.count, row.infeasible,
          reruns[i].length ? spread(reruns[i]) : ""].slice(0, heads.length)
          .map((cell) => el("td", {}, text(cell))))))));
}

// ---- Checks -----------------------------------------------------------------

function checks() {
  const order = Object.keys(VERDICTS);
  const findings = report.findings.filter((f) => f.check !== "fixed_caveats")
    .sort((a, b) => order.indexOf(a.verdict) - order.indexOf(b.verdict));
  if (!findings.length) return [el("p", {}, "No checks were run.")];
  const count = (verdict) => findings.filter((f) => f.verdict === verdict).length;
  const folded = (verdict, words) => count(verdict) && el("details",
    {class: "folded"}, el("summary", {}, `${count(verdict)} ${words}`),
    findings.filter((f) => f.verdict === verdict).map(checkCard));
  return [
    el("p", {id: "verdicts"}, order.filter(count).map((verdict, i) => [
      i ? " · " : "", el("span", {class: verdict}, el("span",
        {class: "verdict"}, `${count(verdict)} ${VERDICTS[verdict]}`))])),
    findings.filter((f) => ["fail", "warn"].includes(f.verdict)).map(checkCard),
    folded("unknown", "inconclusive: not enough data"),
    folded("ok", "passed"),
  ];
}

function checkCard(finding) {
  return el("details", {class: `card check ${finding.verdict}`,
    open: ["fail", "warn"].includes(finding.verdict)},
    el("summary", {},
      el("span", {class: "verdict"}, VERDICTS[finding.verdict]),
      el("strong", {}, finding.check.replaceAll("_", " ")),
      el("span", {class: "soft"}, finding.subject)),
    finding.advice ? el("p", {}, finding.advice) : null,
    evidence(finding),
    el("p", {class: "soft"}, finding.source, " ", figureLink(finding)));
}

function evidence(finding) {
  return list(Object.entries(finding.evidence)
    .map(([name, value]) => [name.replaceAll("_", " "), value]));
}

function figureLink(finding) {
  const start = SEEN_IN[finding.check];
  const name = start?.endsWith(": ") ? start + finding.subject : start;
  const i = report.figures.findIndex((figure) => figure.name === name);
  return i < 0 ? null : el("a", {href: `#figure-${i}`}, "show figure");
}

function caveats() {
  return report.findings.filter((f) => f.check === "fixed_caveats").map((f) => el(
    "div", {class: "card"},
    f.advice ? el("p", {}, f.advice) : null,
    evidence(f),
    el("p", {class: "soft"}, f.source)));
}

// ---- Figures ----------------------------------------------------------------

const views = [];  // of each figure: {node, figure, view, drawing}

function figureSections() {
  return Object.entries(report.groups).map(([key, [title, caption]]) => {
    const cards = report.figures.map((figure, i) =>
      figure.group === key ? figureCard(figure, i) : null);
    if (!cards.some(Boolean)) return null;
    return el("section", {id: `group-${key}`},
      title ? el("h3", {}, title) : null,
      caption ? el("p", {class: "soft"}, caption) : null,
      key === "curves" && isStudy ? fewChooser() : null,
      el("div", {class: "figures"}, cards));
  });
}

function figureCard(figure, i) {
  const node = el("div", {class: "view"});
  views.push({node, figure, view: null, drawing: 0, stale: true});
  return el("div",
    {class: "card", id: `figure-${i}`, "data-name": figure.name}, el("h4", {}, figure.title), node,
    figure.caption ? el("p", {class: "soft"}, figure.caption) : null);
}

function fewChooser() {
  const options = [["5", "best 5"], ["10", "best 10"], ["25", "best 25"],
    ["all", "all trials"]];
  return el("p", {}, el("label", {}, "Curves of ", el("select",
    {id: "few", onchange: (event) => {
      state.few = event.target.value;
      update("curves");
    }},
    options.map(([value, name]) =>
      el("option", {value, selected: value === state.few}, name)))),
    " or of the trials selected in a figure or in the table.");
}

function shownTrials() {
  const begun = trials.filter((trial) => trial.step > 0);
  if (state.picked) {
    const best = ranked.filter((trial) => state.picked.has(trial.index));
    const others = begun.filter((trial) =>
      trial.rank == null && state.picked.has(trial.index));
    return [...best, ...others];
  }
  const pool = ranked.length ? ranked : begun;
  if (state.few !== "all") return pool.slice(0, Number(state.few));
  return [...ranked, ...begun.filter((trial) => trial.rank == null)];
}

function rowsOf(source) {
  const [kind, argument] = source.split(/:(.*)/s);
  if (kind === "trials") return trials;
  if (kind === "best_of") return derived.best_of ?? [];
  if (kind === "isolation") return derived.isolation?.[argument] ?? [];
  const found = [];
  shownTrials().forEach((trial, place) => {
    const label = place < COLOURED ? String(trial.index) : "others";
    for (const [split, steps, values] of report.curves[trial.place][argument] ?? []) {
      report.steps[steps].forEach((step, i) => found.push(
        {index: trial.index, trial: label, split, step, value: values[i]}));
    }
  });
  return found;
}

// As plots.domain and plots.scale do.
function domain(values) {
  const finite = values.filter((value) => value != null);
  if (!finite.length) return [0, 1];
  const low = finite.reduce((a, b) => Math.min(a, b));
  const high = finite.reduce((a, b) => Math.max(a, b));
  const margin = 0.1 * Math.abs(low) || 1;
  return low < high ? [low, high] : [low - margin, high + margin];
}

function scale([low, high]) {
  return low > 0 && 10 * low < high ? "log" : "linear";
}

function filled(figure, rows) {
  const spec = structuredClone(figure.spec);
  const isCurves = figure.source.startsWith("curves:");
  const ends = isCurves ? domain(rows.map((row) => row.value))
    : derived.ends?.[figure.source] ?? [0, 1];
  for (const layer of spec.layer) {
    const y = layer.encoding.y;
    if (y?.scale) {
      y.scale.type = scale(ends);
      if (y.scale.type === "log") delete y.scale.zero;
      if (!isCurves) Object.assign(y, {title: objectiveTitle()}).scale.domain = ends;
    }
    if (isCurves && layer.encoding.color && !isStudy) {
      layer.encoding.color.legend = null;
    }
    if (layer.mark.point && rows.length > MOST_POINTS) layer.mark.point = false;
  }
  // A touch that starts on a figure is meant to scroll, not to select.
  const coarse = matchMedia("(pointer: coarse)").matches;
  spec.params = spec.params.filter((p) => p.name !== "brush" || !coarse)
    .map((p) => p.name === "chosen" ? {...p, value: chosen()}
      : p.name === "top" ? {...p, value: ends[1]} : p);
  spec.datasets = {...spec.datasets, data: rows};
  return {...spec, width: "container"};
}

function chosen() {
  return state.picked
    ? Object.fromEntries([...state.picked].map((index) => [index, true])) : false;
}

// A legend beside a narrow figure would leave no room for the figure.
function withLegendBelow(spec) {
  const below = structuredClone(spec);
  const colours = below.layer.map((layer) => layer.encoding?.color)
    .filter((colour) => colour?.field);
  // Layers share a legend, so its properties must agree.
  if (colours.every((colour) => colour.legend !== null)) {
    for (const colour of colours) {
      colour.legend = {orient: "bottom", columns: 1, ...colour.legend};
    }
  }
  return below;
}

const CONFIG = {
  background: null,
  font: "system-ui, sans-serif",
  view: {stroke: null},
  axis: {labelColor: "currentColor", titleColor: "currentColor",
    titleFontWeight: "normal", gridColor: "#8884", gridOpacity: 0.6,
    domainColor: "#888", tickColor: "#888", labelLimit: 120, titlePadding: 8},
  axisX: {grid: false, labelOverlap: "greedy", labelSeparation: 5},
  legend: {labelColor: "currentColor", titleColor: "currentColor",
    titleFontWeight: "normal", labelLimit: 200},
};

async function draw(item) {
  item.stale = false;
  const turn = ++item.drawing;
  const isOwn = item.figure.source === "own";  // it contains its rows
  const rows = isOwn ? [{}] : rowsOf(item.figure.source);
  item.view?.finalize();
  item.view = null;
  if (!rows.length) {
    item.node.replaceChildren(el("p", {class: "soft empty"}, "No data yet."));
    return;
  }
  const titleLimit = item.node.clientWidth - 80;
  const isNarrow = item.node.clientWidth < 400;
  const spec = !isOwn ? filled(item.figure, rows) : {
    ...(isNarrow ? withLegendBelow(item.figure.spec) : item.figure.spec),
    width: "container",
  };
  const {view} = await vegaEmbed(item.node, spec, {
    config: {...CONFIG, axis: {...CONFIG.axis, titleLimit}},
    tooltip: showTip, logLevel: 1,
    renderer: rows.length > MOST_NODES ? "canvas" : "svg",
    actions: {export: true, source: false, compiled: false, editor: false},
    downloadFileName: item.figure.name,
  });
  if (turn !== item.drawing) return view.finalize();
  item.view = view;
  view.addEventListener("click", (event, mark) => clicked(event, mark?.datum));
  if (item.figure.spec.params?.some((p) => p.name === "brush")) {
    try {
      view.addSignalListener("brush", (_, ranges) => brushed(view, ranges));
    } catch { /* removed for touch screens */ }
  }
}

function clicked(event, datum) {
  if (isPlain) return;
  if (datum?.index != null) {
    pick([datum.index], event.shiftKey || event.ctrlKey || event.metaKey);
  } else if (datum?.to != null && datum.from != null) {
    pick(trials.filter((t) => t.at != null && t.at >= datum.from
      && t.at <= datum.to).map((t) => t.index));
  }
}

let brushing;
function brushed(view, ranges) {
  clearTimeout(brushing);
  const fields = Object.entries(ranges);
  if (!fields.length) return;
  // Trials without a value are drawn on the upper edge.
  const touchesEdge = Math.min(...view.signal("brush_y")) < 12;
  brushing = setTimeout(() => pick(trials.filter((trial) =>
    fields.every(([field, range]) => inside(trial[field], range)
      || (field === "objective" && trial.objective == null && touchesEdge
        && ["infeasible", "failed"].includes(trial.status))))
    .map((trial) => trial.index)), 150);
}

function inside(value, range) {
  if (value == null) return false;
  if (typeof value === "string") return range.includes(value);
  return value >= Math.min(...range) && value <= Math.max(...range);
}

const tip = el("div", {id: "tip", hidden: true});
function showTip(handler, event, mark, value) {
  const trial = byIndex.get(mark?.datum?.index);
  tip.hidden = value == null || value === "";
  if (tip.hidden) return;
  const datum = mark.datum;
  const pairs = trial ? [
    [objectiveTitle(), trial.objective], ["best at step", trial.at],
    ...(datum.step != null && "value" in datum
      ? [[`here, step ${datum.step}`, datum.value]] : []),
    ...point(trial).map(([p, v]) => [p.label, v]),
    ...(trial.reason ? [["reason", trial.reason]] : []),
  ] : Object.entries(value);
  tip.replaceChildren(
    trial ? el("strong", {}, `Trial ${trial.index} `, STATUSES[trial.status],
      trial.kind === "adaptive" ? ", adaptive" : "") : "",
    list(pairs));
  const {width, height} = tip.getBoundingClientRect();
  const left = event.clientX + 14 + width < innerWidth
    ? event.clientX + 14 : Math.max(4, event.clientX - 14 - width);
  const top = Math.min(event.clientY + 14, innerHeight - height - 4);
  tip.style.left = `${left}px`;
  tip.style.top = `${Math.max(4, top)}px`;
}

function idle() {
  const timeout = 100;  // A hidden page may never be idle.
  return new Promise((done) => window.requestIdleCallback
    ? requestIdleCallback(done, {timeout}) : setTimeout(done, 0));
}

// Draws visible figures first, and the rest when the browser is idle, for
// printing and scrolling.
const inSight = new Set();
const watch = new IntersectionObserver((entries) => {
  for (const {target, isIntersecting} of entries) {
    inSight[isIntersecting ? "add" : "delete"](target);
  }
  drawStale();
}, {rootMargin: "200px"});

let drawingAll = false;
async function drawStale() {
  if (drawingAll) return;
  drawingAll = true;
  for (;;) {
    const stale = views.filter((item) => item.stale);
    const next = stale.find((item) => inSight.has(item.node)) ?? stale[0];
    if (!next) break;
    if (!inSight.has(next.node)) {
      await idle();
    }
    await draw(next);
  }
  drawingAll = false;
  document.documentElement.dataset.drawn = "yes";
}

// ---- The table --------------------------------------------------------------

const tableBody = el("tbody");
const tableNote = el("span", {class: "soft"});
let columns;

function table() {
  columns = [
    {name: "trial", of: (t) => t.index, key: "index"},
    {name: "status", of: (t) => t.status, show: (t) => STATUSES[t.status], text: true},
    ...(numAdaptive() ? [{name: "kind", of: (t) => t.kind, text: true}] : []),
    {name: "objective", of: (t) => t.objective, title: objectiveTitle},
    {name: "best at step", of: (t) => t.at},
    ...report.parameters.map((p, i) => ({name: p.label, of: (t) => p.values[t.place]})),
    {name: "steps made", of: (t) => t.step},
    {name: "reason", of: (t) => t.reason, text: true},
  ];
  const statuses = [...new Set(report.trials.status)];
  return [
    el("div", {class: "bar"},
      el("input", {id: "words", type: "search", value: state.words, size: 24,
        placeholder: "filter by words", "aria-label": "filter the trials",
        oninput: (event) => { state.words = event.target.value; fillTable(); }}),
      el("select", {id: "status", "aria-label": "status", onchange: (event) => {
        state.status = event.target.value;
        fillTable();
      }}, ["", ...statuses, "selected"].map((status) => el("option",
        {value: status, selected: status === state.status},
        status ? STATUSES[status] ?? status : "all statuses"))),
      el("button", {id: "pick-shown", onclick: () =>
        pick(shownRows().map((t) => t.index))}, "select these"),
      tableNote),
    el("div", {class: "card scroll"}, el("table", {id: "trials"},
      el("thead", {}, el("tr", {}, columns.map((column) => el("th",
        {class: column.text ? "text" : ""}, el("button", {onclick: () => {
          state.down = state.sort === column.name && !state.down;
          state.sort = column.name;
          fillTable();
        }}))))), tableBody)),
  ];
}

function shownRows() {
  const words = state.words.toLowerCase().split(/\s+/).filter(Boolean);
  const column = columns.find((c) => c.name === state.sort) ?? columns[0];
  return trials.filter((trial) => {
    if (state.status === "selected") {
      if (!state.picked?.has(trial.index)) return false;
    } else if (state.status && trial.status !== state.status) return false;
    const hay = `trial ${trial.index} ${trial.status} ${trial.kind} ${trial.reason} `
      + point(trial).map(([p, value]) => `${p.label}=${text(value)}`).join(" ");
    return words.every((word) => hay.toLowerCase().includes(word));
  }).sort((a, b) => {
    const [x, y] = [column.of(a), column.of(b)];
    // Missing values come last in either order.
    if (x == null || y == null) return (x == null) - (y == null);
    const sign = state.down ? -1 : 1;
    return sign * (typeof x === typeof y && x < y ? -1
      : x === y ? 0 : 1) || a.index - b.index;
  });
}

function fillTable() {
  const rows = shownRows();
  const shown = state.all ? rows : rows.slice(0, FIRST_ROWS);
  document.querySelectorAll("#trials th").forEach((head, i) => {
    const {name, title} = columns[i];
    const sorted = name === state.sort;
    head.setAttribute("aria-sort",
      sorted ? (state.down ? "descending" : "ascending") : "none");
    const arrow = sorted ? (state.down ? " ▼" : " ▲") : "";
    head.firstChild.replaceChildren(...breakable((title?.() ?? name) + arrow));
  });
  tableBody.replaceChildren(...shown.map((trial) => el("tr",
    {class: state.picked?.has(trial.index) ? "picked" : "",
      onclick: () => pick([trial.index], true)},
    columns.map((column) => el("td", column.text ? {class: "text"} : {},
      text(column.show?.(trial) ?? column.of(trial)))))));
  tableNote.replaceChildren(`${rows.length} of ${trials.length} trials`,
    ...(shown.length < rows.length ? [` (${shown.length} shown) `,
      el("button", {onclick: () => { state.all = true; fillTable(); }},
        "show all")] : []));
  remember();
}

// ---- Selection --------------------------------------------------------------

const pickedBar = el("div", {id: "picked", class: "bar", hidden: true});

// Selects trials in all views; `more` adds them, or removes a selected one.
function pick(indices, more = false) {
  const picked = new Set(more ? state.picked ?? [] : []);
  for (const index of indices) {
    if (more && indices.length === 1 && picked.has(index)) picked.delete(index);
    else if (index != null) picked.add(index);
  }
  state.picked = picked.size ? picked : null;
  update("picked");
}

function clearPicked() {
  for (const {view, figure} of views) {
    if (view && figure.spec.params?.some((p) => p.name === "brush")) {
      try { view.data("brush_store", []); } catch { /* removed for touch screens */ }
    }
  }
  pick([]);
}

function showPicked() {
  const picked = [...state.picked ?? []];
  pickedBar.hidden = !picked.length;
  const one = picked.length === 1 ? byIndex.get(picked[0]) : null;
  pickedBar.replaceChildren(
    el("strong", {}, one ? `Trial ${one.index} selected`
      : `${picked.length} trials selected`),
    el("a", {href: "#trials"}, "table"), el("a", {href: "#group-curves"}, "curves"),
    el("button", {id: "clear", onclick: clearPicked}, "clear"));
}

// ---- The page ---------------------------------------------------------------

const answerNode = el("div", {class: "card", id: "answer"});
const otherNote = el("p", {class: "soft", id: "other-objective"});

// Redraws what depends on "objective", "picked" or "curves".
function update(what) {
  if (what === "objective" && !isPlain) {
    rank();
    answerNode.replaceChildren(...answer().filter(Boolean));
    otherNote.textContent = isOwnObjective() ? ""
      : `The checks are for ${report.metric} (${report.select}); to run them`
        + ` for this objective: ${report.again.program} report`
        + ` ${quoted(report.again.folder)}`
        + ` ${quoted(`--objective=${state.select}:${state.metric}`)}`;
  }
  for (const item of views) {
    const isCurves = item.figure.source.startsWith("curves:");
    if (what === "objective" || isCurves) item.stale = true;
    else if (what === "picked" && item.view) {
      item.view.signal("chosen", chosen()).runAsync();
    }
  }
  showPicked();
  if (trials.length && isStudy) fillTable();
  remember();
  drawStale();
}

function objectiveChooser() {
  const choose = (field) => (event) => {
    state[field] = event.target.value;
    update("objective");
  };
  const options = (names, current) => names.map((name) =>
    el("option", {value: name, selected: name === current}, name));
  return el("label", {class: "bar"}, "Objective",
    el("select", {id: "metric", onchange: choose("metric")},
      options(Object.keys(report.objectives), state.metric)),
    el("select", {id: "select", "aria-label": "best or final",
      onchange: choose("select")}, options(["best", "final"], state.select)));
}

function counts() {
  const found = new Map();
  for (const status of report.trials.status) {
    found.set(status, (found.get(status) ?? 0) + 1);
  }
  return Object.keys(STATUSES).filter((status) => found.has(status))
    .map((status) => `${found.get(status)} ${status}`).join(" · ");
}

function section(id, title, children) {
  const nodes = children.flat(3).filter(Boolean);
  return nodes.length ? el("section", {id}, el("h2", {}, title), nodes) : null;
}

// Texts are aligned to the left, numbers to the right; the first column holds
// names.
function plainTable([title, note, heads, rows]) {
  const kinds = heads.map((_, place) => !place ? "text"
    : rows.some((row) => String(row[place]).includes(" ")) ? "words" : "");
  const shown = (cell) => /^[\w./-]+\.html$/.test(cell)
    ? el("a", {href: cell}, cell.split("/")[0]) : text(cell);
  return el("div", {class: "card scroll"}, el("h3", {}, title),
    note ? el("p", {class: "soft"}, note) : null,
    rows.length ? el("table", {},
      el("thead", {}, el("tr", {}, heads.map((head, place) =>
        el("th", {class: kinds[place]}, head)))),
      el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell, place) =>
        el("td", {class: kinds[place]}, shown(cell)))))))
      : el("p", {}, "No results yet."));
}

function plainAnswer() {
  const [first, ...rest] = report.said;
  return [
    first || report.settings ? el("div", {class: "card"},
      first ? el("p", {}, el("strong", {}, first)) : null,
      rest.map((sentence) => el("p", {}, sentence)),
      report.settings ? copyable(report.settings) : null) : null,
    ...report.tables.map(plainTable),
  ];
}

function counted() {
  if (isPlain) return "";
  if (isStudy) return `${trials.length} trials: ${counts() || "none"}.`;
  return `${counts().slice(2)} at step ${trials[0].step} of`
    + ` ${trials[0].max_train_steps}.`;
}

function build() {
  document.title = report.title;
  const judged = section("checks", "Checks", [otherNote, checks()]);
  const figures = section("figures", "Figures",
    [trials.length || isPlain ? figureSections() : null]);
  const sections = [
    section("the-answer", "Result", isPlain ? plainAnswer() : [answerNode]),
    ...(report.figures_first ? [figures, judged] : [judged, figures]),
    section("numbers", "Numbers", (report.numbers ?? []).map(plainTable)),
    section("table", "Trials", [isStudy && trials.length ? table() : null]),
    section("caveats", "Fixed hyperparameters", [caveats()]),
    section("provenance", "Provenance", [el("div", {class: "card"},
      list(report.provenance.map(([name, value]) =>
        [name, value.includes("\n") ? el("details", {},
          el("summary", {}, `${value.split("\n").length} lines`),
          el("pre", {}, value)) : value])))]),
    section("next", "The next study",
      [report.next_study ? copyable(report.next_study) : null]),
  ].filter(Boolean);
  page.append(
    el("header", {}, el("h1", {}, report.goal || report.title),
      el("p", {class: "soft"}, report.goal ? `${report.title}. ` : "",
        counted(),
        report.live ? " This page reloads while the study runs." : ""),
      report.notes ? el("p", {}, report.notes) : null,
      isPlain || !Object.keys(report.objectives).length ? null
        : objectiveChooser(),
      el("nav", {}, sections.map((node) =>
        el("a", {href: `#${node.id}`}, node.firstChild.textContent)))),
    ...sections, pickedBar, tip);
}

if (Array.isArray(state.picked)) state.picked = new Set(state.picked);
rank();
build();
update("objective");
for (const {node} of views) watch.observe(node);

// Opens collapsed parts for printing.
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")]
    .filter((node) => !node.closest(".vega-embed"));
  for (const node of opened) node.open = true;
});
addEventListener("afterprint", () => {
  for (const node of opened) node.open = false;
});
// A canvas keeps the colours of the scheme that it was drawn in.
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const item of views) item.stale = true;
  drawStale();
});

if (report.live) {
  let held = false;
  addEventListener("pointerdown", () => { held = true; });
  addEventListener("pointerup", () => { held = false; });
  setInterval(() => {
    const typing = document.activeElement?.matches("input, select");
    if (!held && !typing && !document.hidden) location.reload();
  }, RELOAD_MS);
}
