// Figures: which rows they show, how they are drawn, clicked and brushed. A part
// of report.js.

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

function scale([low, high], maximized) {
  return low > 0 && 10 * low < high && !maximized ? "log" : "linear";
}

function filled(figure, rows) {
  const spec = structuredClone(figure.spec);
  const isCurves = figure.source.startsWith("curves:");
  const maximized = isMaximized(isCurves
    ? figure.source.slice("curves:".length) : state.metric);
  const ends = isCurves ? domain(rows.map((row) => row.value))
    : derived.ends?.[figure.source] ?? [0, 1];
  for (const layer of spec.layer) {
    const y = layer.encoding.y;
    if (y?.scale) {
      y.scale.type = scale(ends, maximized);
      if (y.scale.type === "log") delete y.scale.zero;
      if (!isCurves) Object.assign(y, {title: objectiveTitle()}).scale.domain = ends;
    }
    // Lines of a run are its own, or those of its layers.
    if (isCurves && layer.encoding.color?.field === "trial" && !isStudy) {
      layer.encoding.color.legend = null;
    }
    if (layer.mark.point && rows.length > MOST_POINTS) layer.mark.point = false;
  }
  // A touch that starts on a figure is meant to scroll, not to select.
  const coarse = matchMedia("(pointer: coarse)").matches;
  spec.params = spec.params.filter((p) => p.name !== "brush" || !coarse)
    .map((p) => p.name === "chosen" ? {...p, value: chosen()}
      : p.name === "sign" ? {...p, value: maximized ? -1 : 1}
      : p.name === "worst" ? {...p, value: ends[maximized ? 0 : 1]} : p);
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
  // Trials without a value are drawn on the edge of the worst values.
  const [top, bottom] = [Math.min, Math.max].map((end) =>
    end(...view.signal("brush_y")));
  const touchesEdge = isMaximized(state.metric)
    ? bottom > view.height() - 12 : top < 12;
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
