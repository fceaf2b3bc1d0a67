// Shows a report. All numbers come from Python, in one block of JSON; here the
// reader selects an objective, trials, rows and curves. Texts from a study become
// text nodes, never markup. Parts: this file (result and checks),
// report.figures.js, report.page.js; the page joins them into one script.

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
  importance: "importance: ", max_train_steps: "best step", compute_bound: "best step",
};
const FIRST_ROWS = 200;
const COLOURED = 6;  // number of trials with a colour of their own in curves
const MOST_NODES = 2000;  // a figure with more rows is a canvas, not SVG
const MOST_POINTS = 5000;  // of curves with tooltips
const RELOAD_MS = 15000;

const state = {
  metric: report.metric, select: report.select, few: "5", words: "",
  status: "", sort: "objective", down: isMaximized(report.metric), picked: null, all: false,
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

// Whether more is better, for a metric, or for a family such as "accuracy".
function isMaximized(metric) {
  return report.maximized?.includes(metric.split("/").at(-1)) ?? false;
}

function rank() {
  if (isPlain) { trials = ranked = []; byIndex = new Map(); return; }
  derived = report.objectives[state.metric]?.[state.select] ?? {};
  const columns = {...report.trials, objective: derived.objective, at: derived.at};
  trials = rowsOfColumns(columns);
  const sign = isMaximized(state.metric) ? -1 : 1;
  ranked = trials.filter((t) => t.objective != null)
    .sort((a, b) => sign * (a.objective - b.objective) || a.index - b.index);
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
        el("div", {class: "soft"}, `${objectiveTitle()}, ${
          isMaximized(state.metric) ? "higher" : "lower"} is better`),
        el("div", {class: "value", id: "best-value"}, text(best.objective)),
        isOwnObjective() ? el("p", {id: "expected"}, `${report.expected}.`) : null,
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
        "95% interval", "noise of the validation set", "verdict"].map((head) => el("th", {}, head)))),
      el("tbody", {}, report.comparisons.map((pair) => el("tr", {},
        [pair.best, pair.other, pair.improvement,
          pair.interval.map(text).join(" to "), pair.data_from, verdict(pair)]
          .map((cell) => el("td", {}, text(cell))))))));
}

function verdict(pair) {
  return pair.more_seeds
    ? `${pair.verdict}; it would take ${pair.more_seeds} seeds of each`
    : pair.verdict;
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
