/* The jobs that run, with their progress and preview, and those that wait, with the reason; their order can be changed by buttons and by
   dragging. A line that is dragged is a move like any other: the daemon says where the job stands then. */

import { post } from "./api.js";
import { el, fill, icon, iconButton, keep, say, set } from "./el.js";
import { cancel, move, titleOf, workflowTitle } from "./jobs.js";
import { readLine } from "./live.js";
import { model, on, put, running, waiting } from "./model.js";
import { tell, trouble } from "./says.js";
import { ago, some } from "./words.js";

const section = document.getElementById("queue");
const [count, pauseButton, note, now, later, more] = ["queue-count", "pause", "queue-note", "running", "waiting", "queue-more"].map(id => document.getElementById(id));
const SHOWN = 50; // waiting jobs with a line of their own
const PICTURE = new Set(["image/jpeg", "image/png", "image/webp"]);
let dragged = null;

export function begin() {
  on(["jobs", "status", "line", "workflows"], draw);
  on(["live"], drawLive);
  pauseButton.onclick = turn;
}

const paused = () => (model.status?.queue?.state ?? "open") !== "open";

async function turn() {
  const going = paused() ? "resume" : "pause";
  try {
    const queue = await post(`/v1/queue/${going}`);
    put("status", { ...model.status, queue });
    tell(going === "pause" ? "The queue is paused. What ComfyUI has already goes on." : "The queue goes on.");
  } catch (error) {
    trouble(error);
  }
}

function draw() {
  const line = waiting();
  const jobs = running();
  const state = model.status?.queue?.state ?? "open";
  section.hidden = !line.length && !jobs.length && state === "open";
  const total = line.length + Math.max(0, model.line.unread);
  say(count, [jobs.length && some(jobs.length, "job") + (jobs.length > 1 ? " run" : " runs"), total && `${jobs.length ? total : some(total, "job")} ${total === 1 ? "waits" : "wait"}`].filter(Boolean).join(", "));
  fill(pauseButton, icon(paused() ? "play" : "pause"), paused() ? "Resume" : "Pause");
  const notes = { paused: "Paused: nothing more is given to ComfyUI until you resume.", draining: "Draining: what runs comes to its end, nothing new is taken.", drained: "Drained: every output is here, nothing runs. Resume to go on." };
  say(note, notes[state] ?? "");
  note.hidden = !notes[state];
  keep(now, jobs, job => job.id, makeRunning, updateRunning);
  keep(later, line.slice(0, SHOWN), job => job.id, makeWaiting, (row, job) => updateWaiting(row, job, line));
  more.hidden = total <= SHOWN;
  say(more, `and ${total - SHOWN} more`);
  drawLive();
}

// --- what runs ------------------------------------------------------------------------------------------------------

function makeRunning(job) {
  return el("li.job", {},
    el("div.preview", {}, el("img", { alt: "", hidden: true }), icon("picture")),
    el("div.told", {}, el("h3"), el("div.bar", { role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100, "aria-label": "Progress" }, el("span")), el("p.quiet.step"), el("p.why")),
    iconButton("close", "Cancel", event => { event.currentTarget.disabled = true; cancel(model.jobs.get(job.id) ?? job); }));
}

function updateRunning(card, job) {
  const [, told, button] = card.children;
  const [title, bar, , why] = told.children;
  const name = titleOf(job);
  set(say(title, name), { title: name });
  bar.setAttribute("aria-label", `Progress of ${name}`);
  set(button, { "aria-label": `Cancel ${name}`, disabled: job.status === "canceling" });
  const waits = job.comfytunnel.waits_for;
  say(why, waits ? `${waits.message} ${waits.hint}`.trim() : "");
  why.hidden = !waits;
}

function drawLive() {
  for (const card of now.children) {
    const job = model.jobs.get(card.dataset.key);
    if (!job) continue;
    const { progress = job.progress, preview } = model.live.get(job.id) ?? {};
    const [, told] = card.children;
    const [, bar, step] = told.children;
    const done = Math.round((progress?.value ?? 0) * 100);
    bar.firstElementChild.style.setProperty("inline-size", `${done}%`);
    bar.setAttribute("aria-valuenow", done);
    const node = progress?.current_node_class ? `${progress.current_node_class}${progress.steps ? ` ${progress.step ?? 0}/${progress.steps}` : ""}` : "";
    const nodes = progress?.nodes_total ? `node ${Math.min(progress.nodes_done + 1, progress.nodes_total)} of ${progress.nodes_total}` : "";
    const said = job.status === "canceling" ? "Stopping between two steps" : job.outputs.length && done === 100 ? "Bringing the pictures home" : [`${done} %`, node, nodes].filter(Boolean).join(" · ");
    say(step, said);
    drawPreview(card.firstElementChild, preview);
  }
  const first = running()[0];
  const value = first && (model.live.get(first.id)?.progress ?? first.progress)?.value;
  document.title = first ? `${Math.round((value ?? 0) * 100)} % · comfytunnel` : "comfytunnel";
}

function drawPreview(frame, preview) {
  if (!preview || !PICTURE.has(preview.content_type) || frame.told === preview) return;
  frame.told = preview;
  const [picture, drawing] = frame.children;
  set(picture, { src: `data:${preview.content_type};base64,${preview.data_base64}`, hidden: false });
  drawing.setAttribute("hidden", "");
}

// --- what waits -----------------------------------------------------------------------------------------------------

function makeWaiting(job) {
  const its = () => model.jobs.get(job.id) ?? job;
  const row = el("li.line", { draggable: true },
    el("span.grip", { "aria-hidden": "true" }, icon("grip")),
    el("div.told", {}, el("h3"), el("p.quiet")),
    el("div.verbs", {},
      iconButton("up", "Earlier", () => step(its(), -1)),
      iconButton("down", "Later", () => step(its(), 1)),
      iconButton("top", "Next of all", () => first(its())),
      iconButton("close", "Cancel", event => { event.currentTarget.disabled = true; cancel(its()); })));
  row.addEventListener("dragstart", event => {
    dragged = job.id;
    event.dataTransfer.effectAllowed = "move";
    event.dataTransfer.setData("text/plain", job.id);
    row.classList.add("lifted");
  });
  row.addEventListener("dragend", () => { dragged = null; for (const each of later.children) each.classList.remove("lifted", "before", "after"); });
  row.addEventListener("dragover", event => {
    if (!dragged || dragged === job.id || row.classList.contains("given")) return;
    event.preventDefault();
    const below = isBelow(event, row);
    row.classList.toggle("after", below);
    row.classList.toggle("before", !below);
  });
  row.addEventListener("dragleave", () => row.classList.remove("before", "after"));
  row.addEventListener("drop", event => {
    if (!dragged || dragged === job.id || row.classList.contains("given")) return;
    event.preventDefault();
    const line = waiting().filter(each => each.id !== dragged);
    const at = line.findIndex(each => each.id === job.id) + (isBelow(event, row) ? 1 : 0);
    place(model.jobs.get(dragged), line[at]);
  });
  return row;
}

const isBelow = (event, row) => { const box = row.getBoundingClientRect(); return event.clientY > box.top + box.height / 2; };

function updateWaiting(row, job, line) {
  const [, told, verbs] = row.children;
  const [title, quiet] = told.children;
  const name = titleOf(job);
  set(say(title, name), { title: name });
  const waits = job.comfytunnel.waits_for;
  const place = line.indexOf(job);
  const first = model.line.given; // the place of those before it is ComfyUI's to give
  const has = place < first;
  row.draggable = !has;
  row.classList.toggle("given", has);
  const why = waits && waits.code !== "queue" ? waits.message : has ? "ComfyUI has it already" : place ? `${some(place, "job")} before it` : "next";
  say(quiet, [why.replace(/\.$/, ""), workflowTitle(job) !== name && workflowTitle(job), ago(Date.parse(job.created_at))].filter(Boolean).join(" · "));
  set(quiet, { title: waits?.hint ?? "" });
  const [up, down, top, close] = verbs.children;
  for (const [button, word, off] of [[up, "Earlier", place <= first], [down, "Later", has || place === line.length - 1], [top, "Next of all", place <= first], [close, "Cancel", false]])
    set(button, { "aria-label": `${word}: ${name}`, "aria-disabled": String(off) });
}

/** One place up (-1) or down (1). */
function step(job, way) {
  const line = waiting();
  const at = line.findIndex(each => each.id === job.id);
  if (at < model.line.given || at + way < model.line.given || at + way >= line.length) return;
  place(job, line[way < 0 ? at - 1 : at + 2]);
}

function first(job) {
  const line = waiting();
  if (line.findIndex(each => each.id === job.id) <= model.line.given) return;
  moved(job, { to: "front" });
}

/** Put `job` right before `other`; without one at the end. */
function place(job, other) {
  if (job) moved(job, other ? { before: other.id } : { to: "back" });
}

async function moved(job, where) {
  if (await move(job, where)) tell(`${titleOf(job)} was moved.`);
  readLine();
}

