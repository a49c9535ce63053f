// Draws quality over versions as SVG: the newest version's line, what is served as steps, candidates
// and their verdicts as marks, abandoned lineages as shade.  Text keeps its size at any width.

const NS = "http://www.w3.org/2000/svg";
const HEIGHT = 300;
const ROOM = { top: 26, right: 14, bottom: 30, left: 46 };
const VERDICTS = ["promoted", "kept back", "no quorum"];
const BACK = { abandoned: "✕", "rolled back": "↶" }; // what begins a new lineage

function make(parent, name, attributes, text) {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

// A step of 1, 2 or 5 times a power of ten that gives about `wanted` ticks.
function step(span, wanted) {
  const raw = span / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 5, 10].map((m) => m * power).find((size) => size >= raw);
}

function ticks(low, high, wanted) {
  const size = step(high - low || 1, wanted);
  const found = [];
  for (let at = Math.ceil(low / size - 1e-9) * size; at <= high + size * 1e-9; at += size) found.push(at);
  return { found, digits: Math.max(0, -Math.floor(Math.log10(size) + 1e-9)) };
}

function bounds(chart) {
  const values = [...chart.lines.train, ...chart.lines.candidate].map((point) => point[1]);
  for (const [, , value] of chart.served) if (value !== null) values.push(value);
  let low = Math.min(...values), high = Math.max(...values);
  const room = (high - low) * 0.08 || Math.abs(high) * 0.05 || 1;
  return [low - room, high + room];
}

function figure(chart, value) {
  return chart.isRelative ? String(Number(value.toPrecision(4))) : value.toFixed(3);
}

function scales(chart, width) {
  const [low, high] = bounds(chart);
  const last = Math.max(chart.last, chart.first + 1);
  const wide = width - ROOM.left - ROOM.right, tall = HEIGHT - ROOM.top - ROOM.bottom;
  return {
    low, high, last,
    x: (version) => ROOM.left + ((version - chart.first) / (last - chart.first)) * wide,
    y: (value) => ROOM.top + (1 - (value - low) / (high - low)) * tall,
    floor: HEIGHT - ROOM.bottom,
  };
}

function drawAxes(svg, chart, at, width) {
  const rows = ticks(at.low, at.high, 5);
  for (const value of rows.found) {
    make(svg, "line", { class: "grid", x1: ROOM.left, x2: width - ROOM.right, y1: at.y(value), y2: at.y(value) });
    make(svg, "text", { class: "tick", x: ROOM.left - 8, y: at.y(value) + 4, "text-anchor": "end" }, value.toFixed(rows.digits));
  }
  const columns = ticks(chart.first, at.last, Math.max(2, width / 90));
  for (const version of columns.found) {
    if (!Number.isInteger(version)) continue;
    make(svg, "text", { class: "tick", x: at.x(version), y: at.floor + 20, "text-anchor": "middle" }, `v${version}`);
  }
  make(svg, "line", { class: "axis", x1: ROOM.left, x2: width - ROOM.right, y1: at.floor, y2: at.floor });
}

function drawAbandoned(svg, chart, at) {
  for (const [first, last, lineage] of chart.abandoned) {
    const left = at.x(Math.max(first - 0.5, chart.first)), right = at.x(Math.min(last + 0.5, at.last));
    make(svg, "rect", { class: "gone", x: left, width: Math.max(right - left, 2), y: ROOM.top, height: at.floor - ROOM.top });
    if (right - left > 72) make(svg, "text", { class: "name", x: left + 5, y: at.floor - 7 }, `lineage ${lineage}`);
  }
}

function path(points, at) {
  return points.map(([version, value], n) => `${n ? "L" : "M"}${at.x(version).toFixed(1)} ${at.y(value).toFixed(1)}`).join("");
}

function drawServed(svg, chart, at) {
  let d = "";
  let open = false;
  chart.served.forEach(([since, , value], n) => {
    const until = n + 1 < chart.served.length ? chart.served[n + 1][0] : at.last;
    if (value === null || value === undefined) {
      open = false;
      return;
    }
    d += `${open ? "L" : "M"}${at.x(since).toFixed(1)} ${at.y(value).toFixed(1)}H${at.x(until).toFixed(1)}`;
    open = true;
  });
  if (d) make(svg, "path", { class: "served", d });
}

function mark(svg, verdict, x, y) {
  const known = VERDICTS.includes(verdict) ? verdict.replaceAll(" ", "-") : "judged";
  const group = make(svg, "g", { class: `mark ${known}`, transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})` });
  if (known === "promoted") make(group, "circle", { r: 5.5 });
  else make(group, "path", { d: "M0 -5.5L5.5 0L0 5.5L-5.5 0Z" });
  if (known === "promoted") make(group, "path", { class: "tick-mark", d: "M-2.6 .2L-.7 2.2L2.8 -2" });
}

function drawBack(svg, x, verdict, target, at, width) {
  make(svg, "line", { class: "back", x1: x, x2: x, y1: ROOM.top - 4, y2: at.floor });
  const where = target === null ? "back" : width < 560 ? `v${target}` : `back to v${target}`;
  const anchor = x > width - 60 ? "end" : "middle";
  make(svg, "text", { class: "back-name", x, y: ROOM.top - 10, "text-anchor": anchor }, `${BACK[verdict]} ${where}`);
}

function drawMarks(svg, chart, at, width) {
  const verdicts = new Map();
  for (const [since, version, verdict, target] of chart.marks) {
    if (BACK[verdict]) drawBack(svg, at.x(since), verdict, target, at, width);
    else verdicts.set(version, verdict);
  }
  for (const [version, value] of chart.lines.candidate) {
    mark(svg, verdicts.get(version) ?? "judged", at.x(version), at.y(value));
  }
}

// What is known of one version, in words.
function words(chart, version) {
  const parts = [`v${version}`];
  const train = chart.lines.train.find((point) => point[0] === version);
  if (train) parts.push(`newest ${figure(chart, train[1])} (${train[2]} ${train[2] === 1 ? "site" : "sites"})`);
  const candidate = chart.lines.candidate.find((point) => point[0] === version);
  if (candidate) parts.push(`candidate ${figure(chart, candidate[1])}`);
  for (const [since, about, verdict, target] of chart.marks) {
    if (BACK[verdict] && since === version) parts.push(`${verdict}: back to v${target ?? "?"}`);
    if (!BACK[verdict] && about === version) parts.push(verdict);
  }
  const served = chart.served.filter(([since]) => since <= version).at(-1);
  if (served) parts.push(`serving v${served[1]}${served[2] == null ? "" : ` ${figure(chart, served[2])}`}`);
  if (chart.abandoned.some(([first, last]) => first <= version && version <= last)) parts.push("abandoned lineage");
  return parts.filter(Boolean).join(" · ");
}

function point(svg, chart, at, readout) {
  const hair = make(svg, "line", { class: "hair", y1: ROOM.top, y2: at.floor, x1: -9, x2: -9 });
  let version = chart.last;
  const show = (wanted) => {
    version = Math.min(Math.max(Math.round(wanted), chart.first), chart.last);
    hair.setAttribute("x1", at.x(version));
    hair.setAttribute("x2", at.x(version));
    readout.textContent = words(chart, version);
  };
  const leave = () => {
    hair.setAttribute("x1", -9);
    hair.setAttribute("x2", -9);
    readout.textContent = words(chart, chart.last);
  };
  const perPixel = (at.last - chart.first) / (at.x(at.last) - at.x(chart.first));
  svg.addEventListener("pointermove", (event) => {
    show(chart.first + (event.clientX - svg.getBoundingClientRect().left - ROOM.left) * perPixel);
  });
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("blur", leave);
  svg.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!way) return;
    event.preventDefault();
    show(version + way);
  });
  readout.hidden = false;
  leave();
}

export function drawChart(holder, readout, chart) {
  const width = Math.max(Math.floor(holder.clientWidth), 260);
  const at = scales(chart, width);
  const svg = document.createElementNS(NS, "svg");
  for (const [key, value] of Object.entries({
    viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", tabindex: 0,
    "aria-label": `${chart.metric} over versions ${chart.first} to ${chart.last}. ${words(chart, chart.last)}`,
  })) svg.setAttribute(key, value);
  drawAbandoned(svg, chart, at);
  drawAxes(svg, chart, at, width);
  if (chart.lines.train.length) make(svg, "path", { class: "train", d: path(chart.lines.train, at) });
  drawServed(svg, chart, at);
  drawMarks(svg, chart, at, width);
  point(svg, chart, at, readout);
  holder.replaceChildren(svg);
}
