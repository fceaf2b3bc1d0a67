// The table of trials, the selection, and the page as a whole. The last part of
// report.js: it runs the page.

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
    {name: "steps", of: (t) => t.step},
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
    if (state.sort === "objective") state.down = isMaximized(state.metric);
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
      ...(report.notes || "").split("\n").filter(Boolean)
        .map((line) => el("p", {}, line)),
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
