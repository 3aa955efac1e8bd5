/* One result, large: what it is, what is behind it, and what can be done with it. Arrow keys go to the next, Escape closes. */

import { el, fill, icon, iconButton, set } from "./el.js";
import { use } from "./form.js";
import { again, graphOf, kindOf, retry, seedOf, settings, settingsIn, tiles, timesOf, titleOf, workflowTitle } from "./jobs.js";
import { on } from "./model.js";
import { content } from "./pictures.js";
import { tell, trouble } from "./says.js";
import { written } from "./stored.js";
import { brief, exactly, size, some, span } from "./words.js";

const root = document.getElementById("viewer");
const TIMES_MOST = 12; // nodes whose times are shown
const stage = el("div.stage");
const about = el("div.about");
const [before, after] = [iconButton("left", "Newer", () => step(-1)), iconButton("right", "Older", () => step(1))];
let shown = null; // the key of a tile

export function begin() {
  const close = iconButton("close", "Close", () => root.close());
  fill(root, stage, about, el("div.ways", {}, before, after, close));
  root.addEventListener("close", () => { shown = null; fill(stage); });
  root.addEventListener("click", event => { if (event.target === root || event.target === stage) root.close(); });
  root.addEventListener("keydown", event => {
    if (event.target.matches("pre, video, audio")) return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  on(["jobs"], () => shown && ways());
}

export function open(key) {
  const tile = tiles().find(each => each.key === key);
  if (!tile) return;
  shown = key;
  draw(tile);
  if (!root.open) root.showModal();
}

function step(way) {
  const all = tiles();
  const at = all.findIndex(tile => tile.key === shown) + way;
  if (all[at]) open(all[at].key);
}

function ways() {
  const all = tiles();
  const at = all.findIndex(tile => tile.key === shown);
  set(before, { "aria-disabled": String(at <= 0) });
  set(after, { "aria-disabled": String(at === all.length - 1) });
}

function draw({ key, job, output }) {
  const title = titleOf(job);
  set(root, { "aria-label": title });
  const wanted = () => shown === key;
  fill(stage, output ? figure(output, title, wanted) : el("p.failure", {}, icon("alert"), job.error?.message ?? "It ended without a file."));
  const took = job.metrics.execution_ms;
  const named = workflowTitle(job);
  fill(about,
    el("h2", {}, title),
    el("p.quiet", {}, [exactly(job.completed_at ?? job.created_at), typeof took === "number" && `took ${span(took / 1000)}`].filter(Boolean).join(" · ")),
    el("div.deeds", {}, deeds(job, output, wanted)),
    job.comfytunnel.note && el("p.note", {}, job.comfytunnel.note),
    job.comfytunnel.warnings.map(text => el("p.note", {}, text)),
    el("dl", {},
      told(settings(job)),
      named && [el("dt", {}, "Workflow"), el("dd", {}, named)],
      job.comfytunnel.label && [el("dt", {}, "Label"), el("dd", {}, job.comfytunnel.label)],
      job.comfytunnel.tunnel && [el("dt", {}, "Tunnel"), el("dd", {}, job.comfytunnel.tunnel)],
      output && [el("dt", {}, "File"), el("dd", {}, `${output.name}, ${size(output.size_bytes)}`, job.outputs.length > 1 && `, one of ${some(job.outputs.length, "file")}`)],
      [el("dt", {}, "Job"), el("dd.id", {}, job.id)]),
    job.error?.traceback && el("details", {}, el("summary", {}, `Traceback${job.error.node_id ? ` of node ${job.error.node_id}` : ""}`), el("pre", { tabIndex: 0 }, job.error.traceback)),
    times(job),
    graph(job));
  if (!job.comfytunnel.generated) graphOf(job).then(found => { if (shown === key) about.querySelector("dl").prepend(...told(settingsIn(found)).flat()); }, trouble);
  ways();
  about.scrollTop = 0;

}

const told = settings => settings.filter(({ value }) => value !== null && value !== "").map(({ label, kind, value }) =>
  [el("dt", {}, label), el("dd", { className: kind }, kind === "boolean" ? (value ? "yes" : "no") : String(value))]);

function figure(output, title, wanted) {
  const kind = kindOf(output);
  const made = kind === "image" ? el("img", { alt: title })
    : kind === "file" ? el("p.failure", {}, icon("file"), output.name)
    : el(kind, { controls: true, preload: "metadata" });
  if (kind !== "file") content(output.id, wanted).then(url => { if (wanted()) made.src = url; }, error => { if (wanted()) trouble(error); });
  return made;
}

function deeds(job, output, wanted) {
  const verbs = [];
  if (output) {
    const link = el("a.plain", { download: output.name }, icon("save"), "Download");
    content(output.id, wanted).then(url => { link.href = url; }, () => link.remove());
    verbs.push(link);
  }
  if (!output) verbs.push(deed("again", "Try again", () => retry(job), "It was submitted again."));
  else verbs.push(deed("die", "Again with another seed", () => again(job), "Another one is on its way."));
  if (job.comfytunnel.generated?.workflow) verbs.push(el("button.plain", { type: "button", onclick: () => { if (use(job)) root.close(); } }, icon("sliders"), "Use these settings"));
  const seed = seedOf(job);
  if (seed !== undefined && seed !== null) verbs.push(el("button.plain", { type: "button", onclick: () => navigator.clipboard.writeText(String(seed)).then(() => tell("The seed was copied."), trouble) }, icon("copy"), "Copy the seed"));
  return verbs;
}

function deed(drawing, name, what, said) {
  const button = el("button.plain", { type: "button" }, icon(drawing), name);
  button.onclick = async () => {
    button.disabled = true;
    if (await what()) tell(said);
    button.disabled = false;
  };
  return button;
}

/** What is read only when somebody wants to see it. */
function folded(summary, read) {
  const body = el("div");
  let had = false;
  const details = el("details", {}, el("summary", {}, summary), body);
  details.addEventListener("toggle", async () => {
    if (!details.open || had) return;
    try {
      fill(body, await read());
      had = true;
    } catch (error) {
      fill(body, el("p.note", {}, error.message));
    }
  });
  return details;
}

const graph = job => folded("Workflow as it was submitted", async () => el("pre", { tabIndex: 0 }, written(await graphOf(job), 2)));
const times = job => job.started_at && folded("How long each node took", async () => timed(await timesOf(job)));

/** Nodes in the order of their beginnings, of many those that took longest. */
function timed(all) {
  const ran = all.filter(({ cached }) => !cached);
  const longest = new Set([...ran].sort((one, other) => other.seconds - one.seconds).slice(0, TIMES_MOST));
  const most = Math.max(...ran.map(({ seconds }) => seconds), 0.1);
  const row = ({ title, class_type: kind, seconds, steps, whole }) => {
    const bar = el("span");
    bar.style.setProperty("inline-size", `${(seconds / most) * 100}%`);
    const told = [kind !== title && kind, steps && `${some(steps, "step")}`, !whole && "not all of it was heard"].filter(Boolean).join(", ");
    return el("li", {}, el("span.what", {}, title), el("span.quiet", {}, brief(seconds)), el("div.bar", { "aria-hidden": "true" }, bar), told && el("p.quiet", {}, told));
  };
  const rest = [ran.length > longest.size && `${some(ran.length - longest.size, "quicker node")} more`, all.length > ran.length && `${some(all.length - ran.length, "node")} from the cache`].filter(Boolean);
  return [el("ol.times", {}, ran.filter(each => longest.has(each)).map(row)), (!all.length || rest.length > 0) && el("p.quiet", {}, all.length ? rest.join(", ") : "Nothing was heard of its nodes.")];
}
