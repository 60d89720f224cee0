// The live page. State comes as server-sent events, an incident's vectors when it is opened. Whatever others have named
// goes in as text, never as markup.

import { Chart } from "./charts.js";
import { ago, clock, count, duration, moment, odds, part, plural, share, short, significant } from "./words.js";

const FIRST_PAST = 50, MORE_PAST = 200, MOST = 700, ROWS = 200;
const $ = (id) => document.getElementById(id);

const state = {
  about: null, now: null, reading: true, problem: false,
  history: { time: [], rate: [], lag: [] }, swaps: [], decisions: [],
  incidents: new Map(), past: FIRST_PAST, skew: 0, heard: 0, opened: null, shown: null, blind: false,
};
const now = () => Date.now() / 1000 + state.skew;  // by the worker's clock

/** An element with text; `more` are attributes. */
function el(name, text, more = {}, ...children) {
  const made = document.createElement(name);
  if (text != null) made.textContent = text;
  for (const [key, value] of Object.entries(more)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function put(id, text) {
  const place = $(id);
  if (place.textContent !== text) place.textContent = text;
}

const named = (incident) => incident.entity ?? "(no name)";

// -- the stream

let source = null, retry = 0;

function connect() {
  source = new EventSource("/page/stream");
  source.onmessage = (event) => take(JSON.parse(event.data));
  source.onerror = async () => {
    link("reconnecting…", false);
    if (source.readyState !== EventSource.CLOSED) return;
    // Refused: too many look, or the cookie is no longer good, which the form behind / tells.
    clearTimeout(retry);
    retry = setTimeout(connect, 5000);
    try {
      const asked = await fetch("/page/incident", { cache: "no-store" });
      if (asked.status === 401) location.reload();
      else if (asked.status === 400) link("too many viewers; trying again…", false);
    } catch { /* it is away */ }
  };
}

function link(text, live) {
  put("link-text", text);
  document.body.classList.toggle("stale", !live);
}

function take(told) {
  state.heard = performance.now();
  const first = Boolean(told.about);
  if (first) {
    state.about = told.about;
    state.history = told.history;
    state.incidents = new Map(told.incidents.map((each) => [each.id, each]));
  }
  const opened = [];
  if (!first) {
    const h = state.history;
    h.time.push(told.now.time), h.rate.push(told.now.rate), h.lag.push(told.now.lag);
    if (h.time.length > state.about.kept) for (const column of Object.values(h)) column.shift();
    for (const each of told.incidents) {
      const before = state.incidents.get(each.id);
      if (!state.reading && each.open && !before?.open) opened.push(each);
      state.incidents.set(each.id, each);
    }
    for (const id of told.gone) state.incidents.delete(id);
    if (state.incidents.size > MOST) {
      const old = [...state.incidents.values()].sort((a, b) => a.open - b.open || a.latest - b.latest);
      for (const each of old.slice(0, state.incidents.size - MOST)) state.incidents.delete(each.id);
    }
  }
  const wasReading = state.reading;
  state.now = told.now;
  state.skew = told.now.time - Date.now() / 1000;
  state.reading = told.reading;
  state.problem = told.problem;
  if (told.swaps) state.swaps = told.swaps;
  if (told.decisions) state.decisions = told.decisions;
  link("live", true);
  showNow(first);
  if (first || told.incidents.length || told.gone?.length || wasReading !== state.reading) showIncidents();
  showProblem();
  if (told.decisions) showDecisions();
  if (state.opened && (first || told.incidents.some((each) => each.id === state.opened))) showFacts();
  if (state.opened && state.blind && state.incidents.has(state.opened)) read(state.opened);  // now its end is known
  if (opened.length) {
    const open = [...state.incidents.values()].filter((each) => each.open).length;
    say(`${opened.slice(0, 3).map((each) => `${each.severity}: an incident of ${named(each)} has opened`).join("; ")}. ${plural(open, "incident")} open.`);
  }
  if (first) route();
}

const say = (text) => put("said", text);

setInterval(() => {
  if (!state.heard) return;
  if (performance.now() - state.heard > 6000) link(`no news for ${duration((performance.now() - state.heard) / 1000)}; reconnecting…`, false);
}, 1000);

// -- now

let rateChart = null, lagChart = null;

function showNow(first) {
  const { now: n, about, history: h } = state;
  put("whose", `group ${about.group}, ${about.sensors}`);
  put("rate", short(n.rate));
  put("rate-more", `vectors a second; ${short(n.vectors)} in all`);
  put("lag", short(n.lag));
  put("lag-more", n.lag <= 0 ? "all is committed" : n.rate > 0 ? `records, ${duration(n.lag / n.rate)} of work` : "records not yet committed");
  const [model, ...others] = n.models;
  put("model", model ? model.version : "none yet");
  const age = model && model.made ? `made ${ago(model.made, now())}` : "";
  const since = model && model.since ? `, in service since ${clock(model.since)}` : "";
  const more = others.length ? `; and ${others.map((each) => `${each.name} ${each.version}`).join(", ")}` : "";
  put("model-more", model ? `${model.name}, ${model.kind}, ${plural(model.sensors, "sensor")}; ${age}${since}${more}` : "`python -m training` makes one");
  const recent = n.recent.vectors ? n.recent.events / n.recent.vectors : null, all = n.vectors ? n.events / n.vectors : null;
  put("observed", recent == null ? "–" : share(recent));
  const bound = model && model.at_most != null ? `, ${share(model.expected)} expected, with 90 % not above ${share(model.at_most)}` : "";
  put("observed-more", `${model ? `of normal ones ${share(model.budget)} asked for${bound}` : "no model yet"}; ${all == null ? "–" : share(all)} in all`);
  put("dead", count(n.dead));
  const unmatched = n.unmatched ? `; ${count(n.unmatched)} records had no feature, or not the field of entity or time` : "";
  put("dead-more", (n.dead === 0 ? "every record was read" : `${count(n.recent.dead)} in the last ten minutes`) + unmatched);
  $("dead").classList.toggle("bad", n.recent.dead > 0 || n.unmatched > 0);
  put("state", n.refused.length ? "model refused" : n.ready ? "ready" : n.live ? "waiting" : "stuck");
  put("state-more", n.refused.length ? n.refused.join(", ") : n.waits_for ? `for ${n.waits_for}` : n.live ? "reads, scores, publishes" : "its main loop makes no progress");
  $("state-tile").classList.toggle("bad", !n.ready || n.refused.length > 0);

  const end = h.time[h.time.length - 1] ?? n.time, from = end - about.kept * about.every;
  const marks = state.swaps.filter((swap) => swap.time >= from).map((swap) => ({ time: swap.time, text: "swap", told: `swap to ${swap.version}` }));
  $("rate-chart").setAttribute("aria-label", `Vectors a second, last ten minutes: now ${short(n.rate)}, at most ${short(Math.max(0, ...h.rate))}`);
  $("lag-chart").setAttribute("aria-label", `Lag in records, last ten minutes: now ${short(n.lag)}, at most ${short(Math.max(0, ...h.lag))}`);
  put("marks-note", marks.length ? `Dotted: ${marks.map((mark) => `${clock(mark.time)} ${mark.told}`).join(", ")}` : "");
  $("marks-note").hidden = !marks.length;
  if (!$("overview").hidden) drawNow(marks, from, end);
}

function drawNow(marks, from, end) {
  rateChart ??= nowChart("rate", "accent");
  lagChart ??= nowChart("lag", "second");
  for (const [chart, column] of [[rateChart, "rate"], [lagChart, "lag"]]) {
    chart.told.marks = marks;
    chart.plot.batch(() => {
      chart.set([state.history.time, state.history[column]]);
      chart.plot.setScale("x", { min: from, max: end });
    });
  }
}

function nowChart(column, tint) {
  return new Chart($(`${column}-chart`), $(`${column}-read`), {
    data: [state.history.time, state.history[column]], height: 120,
    series: [{ colour: tint, fill: `${tint}-fill` }],
    y: { range: (u, least, most) => [0, Math.max(most * 1.1, 10)] },
    values: (u, splits) => splits.map(short),
    read: (i) => `${clock(state.history.time[i])}  ${short(state.history[column][i])}`,
  });
}

// -- incidents

function tag(severity, open) {
  const made = el("span", severity, { class: `tag ${severity === "alarm" ? "alarm" : "warning"}` });
  return open ? made : (made.classList.add("past"), made);
}

function verdictTag(label) {
  return el("span", label.verdict, { class: `tag said ${label.verdict}`, ...(label.who ? { title: `by ${label.who}` } : {}) });
}

const HEADS = ["Machine", "Severity", "Started", "Lasts", "Vectors", "At its peak", "Leading sensors"];
const rows = new Map();  // id -> row

function table(place) {
  const head = el("div", null, { role: "row", class: "row heads" }, ...HEADS.map((text) => el("span", text, { role: "columnheader" })));
  place.setAttribute("role", "table");
  place.append(el("div", null, { role: "rowgroup" }, head), el("div", null, { role: "rowgroup", class: "rows" }));
}

function fill(row, incident) {
  const cell = (head, ...children) => el("span", null, { role: "cell", "data-head": head }, ...children);
  const sensors = incident.sensors.slice(0, 3).map((each) => el("span", null, { class: "sensor" },
    el("span", each.name, { class: "sensor-name" }), " ", el("span", part(each.share), { class: "num" })));
  const seconds = (incident.latest - incident.started) / 1000;
  const focused = row.contains(document.activeElement);
  row.replaceChildren(
    cell("Machine", el("a", named(incident), { href: `#incident/${encodeURIComponent(incident.id)}`, class: "name" })),
    cell("Severity", tag(incident.severity, incident.open), ...(incident.label ? [" ", verdictTag(incident.label)] : [])),
    cell("Started", el("time", moment(incident.started / 1000, now()), { class: "num" })),
    cell(incident.open ? "Lasts" : "Lasted", el("span", duration(seconds), { class: "num" })),
    cell("Vectors", el("span", count(incident.vectors), { class: "num" })),
    cell("At its peak", el("span", odds(incident.p), { class: "num" })),
    cell("Leading sensors", el("span", null, { class: "sensors" }, ...sensors)),
  );
  row.classList.toggle("open", incident.open);
  if (focused) row.querySelector("a").focus({ preventScroll: true });
}

/** The place's rows are these incidents, in this order. A row that did not change is left as it is, focus and all. */
function list(place, incidents) {
  if (!place.firstChild) table(place);
  const body = place.querySelector(".rows"), focused = document.activeElement;
  place.hidden = !incidents.length;
  const wanted = incidents.map((incident) => {
    let row = rows.get(incident.id);
    const told = JSON.stringify(incident);
    if (!row) rows.set(incident.id, (row = el("div", null, { role: "row", class: "row" })));
    if (row.told !== told) fill(row, incident), (row.told = told);
    return row;
  });
  const keep = new Set(wanted);
  for (const row of [...body.children]) if (!keep.has(row)) row.remove();
  wanted.forEach((row, i) => body.children[i] !== row && body.insertBefore(row, body.children[i] ?? null));
  if (focused !== document.activeElement && body.contains(focused)) focused.focus({ preventScroll: true });
}

function showIncidents() {
  const all = [...state.incidents.values()].sort((a, b) => b.started - a.started || (a.id < b.id ? 1 : -1));
  const wanted = $("filter").value.trim().toLowerCase();
  const seen = wanted ? all.filter((each) => named(each).toLowerCase().includes(wanted)) : all;
  const open = seen.filter((each) => each.open), past = seen.filter((each) => !each.open);
  list($("open"), open);
  list($("past"), past.slice(0, state.past));
  for (const id of [...rows.keys()]) if (!state.incidents.has(id)) rows.delete(id);
  put("open-count", open.length ? count(open.length) : "");
  put("past-count", past.length ? count(past.length) : "");
  for (const [id, some, none] of [["open-empty", open.length, "No incidents are open."], ["past-empty", past.length, "There are no past incidents."]]) {
    $(id).hidden = some > 0;
    put(id, state.reading ? "Loading incidents…" : wanted && all.length ? "No incidents match the filter." : none);
  }
  $("more").hidden = past.length <= state.past;
  const total = all.filter((each) => each.open).length;
  document.title = total ? `(${total}) Offnormal` : "Offnormal";
}

function showProblem() {
  $("problem").hidden = !state.problem;
  put("problem", state.problem ? "Incidents cannot be read from Kafka at the moment, so this list may be outdated. The worker's log says why." : "");
}

function showDecisions() {
  $("decisions-empty").hidden = state.decisions.length > 0;
  $("decisions").replaceChildren(...state.decisions.slice(0, 12).map((each) => el("li", null, {},
    el("time", each.time ? moment(each.time, now()) : "–", { class: "num" }),
    el("span", each.what, { class: "what" }),
    el("span", `${each.model} ${each.version}`, { class: "name" }),
    el("span", [each.why, each.who ? `by ${each.who}` : ""].filter(Boolean).join("; "), { class: "small" }),
  )));
}

// -- one incident

let charts = [], asking = null;

function route() {
  const found = location.hash.match(/^#incident\/(.+)$/);
  let id = null;
  try {
    id = found && decodeURIComponent(found[1]);
  } catch { /* no id */ }
  if (id === state.opened) return;
  const left = state.opened;
  state.opened = id;
  $("overview").hidden = Boolean(id);
  $("detail").hidden = !id;
  clearDetail();
  if (id) {
    showFacts();
    read(id);
    scrollTo(0, 0);
    $("detail-title").focus({ preventScroll: true });
  } else {
    showNow(false);
    const row = rows.get(left);
    row?.querySelector("a")?.focus();
  }
}

function clearDetail() {
  asking?.abort();
  charts.forEach((chart) => chart.destroy());
  charts = [];
  state.shown = null;
  for (const id of ["detail-charts", "detail-notes", "detail-state"]) $(id).replaceChildren();
  for (const id of ["detail-title", "detail-summary", "detail-wait", "detail-id", "label-said"]) put(id, "");
  $("detail-table").hidden = true;
  $("detail-table").open = false;
}

function showFacts() {
  const incident = state.incidents.get(state.opened);
  $("detail-label").hidden = !state.about?.labels;
  put("detail-id", state.opened);
  if (!incident) {
    put("detail-title", state.shown?.entity ?? "An incident");
    put("detail-summary", state.reading ? "" : "This incident is not in the list. Its vectors may still be in Kafka.");
    return;
  }
  const seconds = (incident.latest - incident.started) / 1000;
  put("detail-title", named(incident));
  $("detail-state").replaceChildren(tag(incident.severity, incident.open), " ", el("span", incident.open ? "open" : "closed", { class: "tag past" }),
    ...(incident.label ? [" ", verdictTag(incident.label)] : []));
  const sensors = incident.sensors.slice(0, 3).map((each) => `${each.name} (${part(each.share)})`).join(", ");
  put("detail-summary", `Since ${moment(incident.started / 1000, now())}, ${incident.open ? "for" : "lasted"} ${duration(seconds)}: `
    + `${plural(incident.vectors, "vector")} over the threshold. The highest score is reached by ${odds(incident.p).replace("<", "fewer than")} normal vectors. Leading sensors: ${sensors}. Flagged by model ${incident.models.join(", ")}.`);
  for (const [id, verdict] of [["confirm", "confirmed"], ["dismiss", "dismissed"]])
    $(id).setAttribute("aria-pressed", String(incident.label?.verdict === verdict));
  if (incident.label && !$("label-said").textContent)
    put("label-said", `${incident.label.verdict}${incident.label.who ? ` by ${incident.label.who}` : ""}`);
}

const WHY = {
  busy: "Another incident is being loaded.", model: "There is no model yet to score it with.", id: "This id is not an incident of this topic.",
  kafka: "Kafka does not answer in time.", token: "Enter the token again.", failed: "The incident could not be scored. The worker's log says why.",
};

async function read(id) {
  asking?.abort();
  state.blind = !state.incidents.has(id);
  const mine = (asking = new AbortController());
  put("detail-wait", "Loading its vectors from Kafka…");
  for (let tries = 0; ; tries++) {
    try {
      const answer = await fetch(`/page/incident?id=${encodeURIComponent(id)}`, { signal: mine.signal, cache: "no-store" });
      const told = await answer.json();
      if (mine.signal.aborted) return;
      if (answer.status === 401) return location.reload();
      if (answer.ok && !told.busy) return showDetail(told);
      if (!told.busy || tries > 20) return put("detail-wait", WHY[told.error ?? "busy"] ?? "It could not be read.");
    } catch (error) {
      if (mine.signal.aborted) return;
      return put("detail-wait", "The worker does not answer.");
    }
    await new Promise((done) => setTimeout(done, 500));
    if (mine.signal.aborted) return;
  }
}

function note(text) {
  $("detail-notes").append(el("p", text, { class: "note" }));
}

function showDetail(told) {
  put("detail-wait", "");
  $("detail-notes").replaceChildren();
  if (told.gone) note(told.time?.length ? "Retention has deleted the first vectors of this incident. The rest is shown." : "Retention has deleted the vectors of this incident. Only the summary above is left.");
  if (!told.time?.length) {
    if (!told.gone) note("No vectors of this incident were found.");
    return;
  }
  if (told.cut) note(`This incident is too long to load completely. The first ${count(told.records)} records were read.`);
  if (told.named_by.length && !told.named_by.includes(told.model.version)) note(`Scored again by ${told.model.version}, the current model. The incident was flagged by ${told.named_by.join(", ")}, so scores may differ.`);
  if (told.absent.length) note(`The model in service does not know ${told.absent.join(", ")}.`);
  const order = told.time.map((_, i) => i).sort((a, b) => told.time[a] - told.time[b]);
  const by = (column) => order.map((i) => column[i]);
  const time = by(told.time).map((t) => t / 1000), score = by(told.score), p = by(told.p), within = by(told.within);
  const inside = time.filter((_, i) => within[i]);
  const band = inside.length ? [inside[0], inside[inside.length - 1]] : null;
  const over = score.map((s) => (s != null && s >= told.threshold ? s : null));
  const marks = state.decisions.filter((each) => each.version && each.time && ["promoted", "rolled back", "taken back", "pinned"].includes(each.what)
    && each.model === told.model.name && each.time >= time[0] && each.time <= time[time.length - 1])
    .map((each) => ({ time: each.time, text: each.what, told: `${each.what} ${each.version}` })).sort((a, b) => a.time - b.time);
  state.shown = { time, score, p, over, sensors: told.sensors.map((each) => ({ name: each.name, actual: by(each.actual), expected: by(each.expected) })) };
  charts.forEach((chart) => chart.destroy());
  charts = [];
  $("detail-charts").replaceChildren();
  const thin = time.length > 800 ? 1 : 1.5;
  const named = over.filter((each) => each != null).length;
  const most = score.reduce((a, b) => (b > a ? b : a), 0);
  figure("Score", "dots: over the threshold; shaded: the incident; drag to zoom, double-click to reset",
    `Score over time: ${plural(named, "vector")} of ${count(time.length)} over the threshold of ${significant(told.threshold)}, at most ${significant(most)}.`, {
      data: [time, score.map((s) => (s == null ? null : Math.max(s, 1e-3))), over], height: 220, band, marks,
      level: { value: told.threshold, text: `threshold ${significant(told.threshold)}` },
      series: [{ colour: "accent", width: thin }, { colour: "alarm", width: 0, points: true }],
      y: { distr: 3, log: 10, range: (u, least, top) => logRange(least, Math.max(top ?? 1, told.threshold * 1.5)) },
      values: (u, splits) => splits.map((s) => significant(s)),
      read: (i) => `${clock(time[i])}  score ${significant(score[i])}, ${odds(p[i])}`,
    });
  const grid = el("div", null, { class: "grid" });
  $("detail-charts").append(grid);
  for (const each of state.shown.sensors) {
    const weight = told.sensors.find((one) => one.name === each.name).share;
    const at = within.map((w, i) => (w && over[i] != null && each.actual[i] != null ? i : -1)).filter((i) => i >= 0);
    const worst = at.reduce((a, i) => (a < 0 || Math.abs(each.actual[i] - each.expected[i]) > Math.abs(each.actual[a] - each.expected[a]) ? i : a), -1);
    const farthest = worst < 0 ? "" : ` Farthest at ${clock(time[worst])}: ${significant(each.actual[worst])}, expected ${significant(each.expected[worst])}.`;
    figure(each.name, `${part(weight)} of the evidence; solid: read, dashed: expected`, `${each.name}, read and expected.${farthest}`, {
      data: [time, each.actual, each.expected], height: 150, band, marks: marks.map((mark) => ({ ...mark, text: "" })),
      series: [{ colour: "accent", width: thin }, { colour: "second", width: thin, dash: [5, 4] }],
      values: (u, splits) => splits.map((s) => significant(s)),
      read: (i) => `${clock(time[i])}  ${each.actual[i] == null ? "missing" : significant(each.actual[i])}, expected ${significant(each.expected[i])}`,
    }, grid);
  }
  if (marks.length) note(`Dotted: ${marks.map((mark) => `${clock(mark.time)} ${mark.told}`).join(", ")}.`);
  $("detail-table").hidden = named === 0;
  $("detail-table").open = false;
  showFacts();
}

const logRange = (least, most) => [10 ** Math.floor(Math.log10(Math.max(least || 1e-2, 1e-2))), 10 ** Math.ceil(Math.log10(most * 1.05))];

function figure(title, told, summary, chart, place = $("detail-charts")) {
  const output = el("output"), canvas = el("div", null, { role: "img", "aria-label": summary });
  const head = el("span", null, {}, el("strong", title), " ", el("span", told, { class: "small" }));
  place.append(el("figure", null, { class: "chart" }, el("figcaption", null, {}, head, output), canvas));
  charts.push(new Chart(canvas, output, { ...chart, zoomed: (x) => charts.forEach((each) => each.plot && each.zoom(x)) }));
}

$("detail-table").addEventListener("toggle", () => {
  if (!$("detail-table").open || !state.shown) return;
  const { time, score, p, over, sensors } = state.shown;
  const heads = ["Time", "Score", "As rare as", ...sensors.flatMap((each) => [each.name, "expected"])];
  const found = time.map((_, i) => i).filter((i) => over[i] != null).slice(0, ROWS);
  const body = found.map((i) => el("tr", null, {}, el("th", clock(time[i]), { scope: "row" }), el("td", significant(score[i])), el("td", odds(p[i])),
    ...sensors.flatMap((each) => [el("td", each.actual[i] == null ? "missing" : significant(each.actual[i])), el("td", significant(each.expected[i]))])));
  const head = el("tr", null, {}, ...heads.map((text) => el("th", text, { scope: "col" })));
  $("detail-table").querySelector(".scroll").replaceChildren(el("table", null, {}, el("thead", null, {}, head), el("tbody", null, {}, ...body)));
});

// -- what people say

async function label(verdict) {
  const id = state.opened, who = $("who").value.trim();
  try {
    localStorage.setItem("who", who);
  } catch { /* not kept */ }
  for (const button of [$("confirm"), $("dismiss")]) button.disabled = true;
  put("label-said", "Writing…");
  let told = "The worker does not answer: nothing was written.";
  try {
    const answer = await fetch("/page/label", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ id, verdict, who }),
    });
    if (answer.status === 401) return location.reload();
    const said = await answer.json();
    told = answer.ok ? `${said.verdict}: the next training uses this label.` : said.error === "busy" ? "Somebody else is labelling: try again." : WHY[said.error] ?? "It was not taken.";
  } catch { /* as said */ } finally {
    for (const button of [$("confirm"), $("dismiss")]) button.disabled = false;
  }
  if (state.opened === id) put("label-said", told);
}

try {
  $("who").value = localStorage.getItem("who") ?? "";
} catch { /* not kept */ }
$("confirm").addEventListener("click", () => label("confirmed"));
$("dismiss").addEventListener("click", () => label("dismissed"));
$("again").addEventListener("click", () => state.opened && read(state.opened));
$("more").addEventListener("click", () => ((state.past += MORE_PAST), showIncidents()));
$("filter").addEventListener("input", showIncidents);
document.querySelector(".back").addEventListener("click", (event) => (event.preventDefault(), (location.hash = "")));
document.querySelector(".skip").addEventListener("click", (event) => (event.preventDefault(), $("main").focus()));
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && state.opened && !event.defaultPrevented) location.hash = "";
});
addEventListener("hashchange", () => state.about && route());
connect();
