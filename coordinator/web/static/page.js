// Keeps the page up to date: takes server-sent events and replaces the sections that changed.
// Sections are HTML that the server has escaped; nothing else is ever put into the page as HTML.

import { drawChart } from "./chart.js";

const RETRY_MS = 10_000;
const AGES_MS = 5_000;
const live = document.getElementById("live");
const holder = document.getElementById("chart");
let chart = JSON.parse(document.body.dataset.chart);
let behindMs = 0; // how far the server's clock is ahead of this one

function ago(seconds) {
  if (seconds < 5) return "just now";
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= 2 * size) return `${Math.round(seconds / size)} ${unit} ago`;
  }
  return `${Math.round(seconds)} s ago`;
}

function tellAges() {
  const now = (Date.now() + behindMs) / 1000;
  for (const time of document.querySelectorAll("time[data-at]")) {
    const text = ago(Math.max(0, now - Number(time.dataset.at)));
    if (time.textContent !== text) time.textContent = text;
  }
}

function say(text, state) {
  live.textContent = text;
  live.className = `live ${state}`;
}

function redraw() {
  if (chart.lines.train.length + chart.lines.candidate.length === 0) return;
  holder.hidden = false;
  drawChart(holder, document.getElementById("readout"), chart);
}

function showButtons() {
  for (const button of document.querySelectorAll("button[data-act]")) button.hidden = false;
}

// What was scrolled, picked or focused stays so, when it is still there.
function replace(element, html) {
  const along = element.querySelector(".scroll")?.scrollLeft ?? 0;
  const picked = element.querySelector("select")?.value;
  const focused = element.contains(document.activeElement) ? document.activeElement : null;
  element.innerHTML = html;
  if (along) element.querySelector(".scroll").scrollLeft = along;
  const select = element.querySelector("select");
  if (select && picked !== undefined) select.value = picked;
  if (select && select.selectedIndex < 0) select.selectedIndex = 0;
  if (!focused) return;
  const { act, agent } = focused.dataset;
  for (const again of element.querySelectorAll("button, select")) {
    const same = again.id ? again.id === focused.id
      : again.dataset.act === act && again.dataset.agent === agent;
    if (same) again.focus();
  }
}

function take(news) {
  behindMs = news.now * 1000 - Date.now();
  document.title = news.title;
  for (const [name, html] of Object.entries(news.sections)) {
    const element = document.getElementById(name);
    if (element) replace(element, html);
  }
  if (news.chart) {
    chart = news.chart;
    redraw();
  }
  showButtons();
  tellAges();
  say("live", "up");
}

function listen() {
  const source = new EventSource("/events");
  source.addEventListener("view", (event) => take(JSON.parse(event.data)));
  source.addEventListener("trouble", (event) => say(JSON.parse(event.data).reason, "down"));
  source.addEventListener("error", () => {
    say("no connection to the page's server; trying again", "down");
    if (source.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
    setTimeout(listen, RETRY_MS);
  });
}

async function act(path, body) {
  const said = document.getElementById("said");
  const token = document.getElementById("token").value.trim();
  said.textContent = "…";
  try {
    const answer = await fetch(path, {
      method: "POST",
      headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
    said.textContent = (await answer.json()).said;
    said.className = answer.ok ? "note" : "note bad";
  } catch {
    said.textContent = "the page's server did not answer";
    said.className = "note bad";
  }
}

function pressed(button) {
  const { act: what, training, agent, order } = button.dataset;
  if (what === "training") act("/act/training", { training });
  if (what === "agent") act("/act/agent", { agent, order });
  if (what === "rollback") {
    const version = Number(document.getElementById("version").value);
    if (confirm(`Serve version ${version} again, at every site?`)) act("/act/rollback", { version });
  }
}

const panel = document.getElementById("panel");
if (panel) {
  panel.hidden = false;
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-act]");
    if (button) pressed(button);
  });
  document.getElementById("act").addEventListener("submit", (event) => event.preventDefault());
}
behindMs = Number(document.body.dataset.now) * 1000 - Date.now();
say("connecting", "wait");
redraw();
showButtons();
new ResizeObserver(redraw).observe(holder.parentElement);
setInterval(tellAges, AGES_MS);
listen();
