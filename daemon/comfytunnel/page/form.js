/* The form of the chosen workflow, made from its parameters. What is typed is kept in this browser until it is changed; what is sent is a
   job like any other: it waits while there is no tunnel. A workflow out of a file has a form like a named one (file.js). */

import { el, fill, keep, prose, say, set } from "./el.js";
import { chooser, field, sized } from "./fields.js";
import { file, keepValues, learn, open, restore, values } from "./file.js";
import { generate } from "./jobs.js";
import { readLine } from "./live.js";
import { model, on, serving } from "./model.js";
import { tell } from "./says.js";
import { keep as keepStored, stored, written } from "./stored.js";

const root = document.getElementById("form");
const dropping = document.getElementById("dropping");
const KEY = "comfytunnel.draft";
const NAMELESS = " file"; // no workflow's name: those hold no blank
const ASIDE = /^(cfg|guidance|sampler|scheduler|denoise|batch_size)(_|$)/; // what a person seldom sets

const draft = { chosen: "", values: {}, label: "", tunnel: "", ...stored(localStorage, KEY) };
let fields = [];
let drawn = "";
let sending = false;

const select = el("select", { id: "workflow", onchange: () => { draft.chosen = select.value; save(); draw(); } });
const opener = chooser("Open a file", ".json,application/json", take);
const picker = el("div.field", {}, el("div.labels", {}, el("label", { htmlFor: "workflow" }, "Workflow"), opener), select);
const about = el("p.quiet");
const problem = el("p.problem");
const inputs = el("div.fields");
const label = el("input", { id: "label", type: "text", maxLength: 200, autocomplete: "off", placeholder: "For you to find it by" });
const tunnel = el("select", { id: "tunnel" });
const tunnels = el("div.field", {}, el("label", { htmlFor: "tunnel" }, "Tunnel"), tunnel);
const aside = el("div.fields");
const more = el("details", {}, el("summary", {}, "More settings"), aside);
const button = el("button.main", { type: "submit" }, "Generate");
const note = el("p.quiet");
const form = el("form", {}, picker, about, problem, inputs, more, el("div.foot", {}, button, note));
const empty = el("div.empty.bare", { hidden: true }, el("p", {}, "There is no workflow yet."),
  el("p", {}, "Export one in ComfyUI (Workflow > Export (API)), then give it a name:"), el("p", {}, el("code", {}, "comfytunnel workflow add FILE")),
  el("p", {}, "It turns up here with a form of its own. Or drop the file anywhere on this page."), chooser("Choose a file", ".json,application/json", take));

export function begin() {
  fill(root, form, empty);
  restore();
  on(["workflows"], async () => {
    draw();
    if (!file) return;
    await learn();
    draw();
  });
  on(["status", "link"], drawFoot);
  form.addEventListener("submit", event => { event.preventDefault(); submit(); });
  form.addEventListener("keydown", event => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.repeat) form.requestSubmit(); });
  form.addEventListener("invalid", event => { more.open ||= aside.contains(event.target); }, true); // the browser cannot lead to what is folded away
  label.oninput = tunnel.onchange = changed;
  listen();
  draw();
}

/** A parameter may have any name, `constructor` too. */
const own = (object, name) => (Object.hasOwn(object, name) ? object[name] : undefined);

const save = () => keepStored(localStorage, KEY, draft);

function changed() {
  const now = Object.fromEntries(fields.map(({ parameter, read }) => [parameter.name, read()]));
  if (draft.chosen === NAMELESS) keepValues(now);
  else draft.values[draft.chosen] = now;
  draft.label = label.value;
  draft.tunnel = tunnel.value;
  save();
}

// --- drawing --------------------------------------------------------------------------------------------------------

const chosen = () => (draft.chosen === NAMELESS ? file?.info : model.workflows?.find(info => info.name === draft.chosen));

function draw() {
  const known = model.workflows;
  form.hidden = !known || (!known.length && !file);
  empty.hidden = !known || known.length > 0 || Boolean(file);
  if (form.hidden) return;
  const options = [...known.map(({ name, title }) => [name, title || name]), ...(file ? [[NAMELESS, `File: ${file.name}`]] : [])];
  if (!options.some(([name]) => name === draft.chosen)) draft.chosen = (known.find(info => !info.problem) ?? { name: options[0][0] }).name;
  keep(select, options, ([name]) => name, ([name]) => el("option", { value: name }), (option, [, title]) => say(option, title));
  select.value = draft.chosen;
  const info = chosen();
  prose(about, draft.chosen === NAMELESS ? fromFile(info) : info?.description ?? "");
  about.hidden = !about.textContent;
  prose(problem, info?.problem ? `${info.problem.message} ${info.problem.hint}` : "");
  problem.hidden = !info?.problem;
  const now = written([draft.chosen, info?.parameters]);
  if (now !== drawn) build(info?.parameters ?? []); // else leave it alone: somebody may be typing
  drawn = now;
  drawFoot();
}

function fromFile(info) {
  if (!info) return "The daemon has yet to say what can be set in it.";
  return `${info.parameters.length ? "" : "Nothing was found that could be set in it. "}This tab alone holds it. To keep it under a name: \`comfytunnel workflow add FILE\``;
}

function build(parameters) {
  fields = parameters.filter(parameter => !parameter.hidden).map(parameter => field(parameter, changed));
  const typed = draft.chosen === NAMELESS ? values : own(draft.values, draft.chosen) ?? {};
  for (const each of fields) each.write(own(typed, each.parameter.name));
  label.value = draft.label;
  const beside = fields.filter(each => ASIDE.test(each.parameter.name));
  fill(inputs, laidOut(fields.filter(each => !beside.includes(each))));
  fill(aside, laidOut(beside), el("div.field", {}, el("label", { htmlFor: "label" }, "Label"), label), tunnels);
}

/** Elements in their order: width and height together, short ones two in a row. */
function laidOut(all) {
  const placed = [];
  let row = null;
  for (let at = 0; at < all.length; at += 1) {
    const [one, two] = [all[at], all[at + 1]];
    if (one.parameter.name === "width" && two?.parameter.name === "height") {
      placed.push(sized(one, two, changed));
      at += 1;
      row = null;
    } else if (["integer", "number", "choice"].includes(one.parameter.kind)) {
      if (!row) placed.push(row = el("div.pair"));
      row.append(one.element);
    } else {
      placed.push(one.element);
      row = null;
    }
  }
  return placed;
}

function drawFoot() {
  const names = Object.keys(model.status?.tunnels ?? {});
  tunnels.hidden = names.length < 2;
  keep(tunnel, ["", ...names], name => ` ${name}`, name => el("option", { value: name }), (option, name) => say(option, name || "Any"));
  tunnel.value = names.includes(draft.tunnel) ? draft.tunnel : "";
  const away = model.link.state === "lost" || model.link.state === "refused";
  button.disabled = away || sending || !chosen() || Boolean(chosen().problem);
  const queue = model.status?.queue?.state ?? "open";
  const words = away ? "The daemon does not answer: what you type is kept."
    : queue === "paused" ? "The queue is paused: the job waits until you resume it."
    : !model.status || serving() ? "" : "ComfyUI cannot be reached now: the job waits on disk and runs by itself.";
  fill(note, words || ["or press ", el("kbd", {}, "Ctrl"), " ", el("kbd", {}, "Enter")]);
}

// --- sending --------------------------------------------------------------------------------------------------------

async function submit() {
  if (sending) return;
  sending = true;
  set(button, { disabled: true, "aria-busy": "true" });
  const workflow = draft.chosen === NAMELESS ? file.info.workflow : draft.chosen;
  await Promise.all(fields.map(({ settled }) => settled?.())); // pictures that are on their way
  const given = fields.map(({ parameter, read }) => [parameter.name, read()]).filter(([, value]) => value !== undefined && value !== null);
  const comfytunnel = { ...(label.value.trim() ? { label: label.value.trim() } : {}), ...(tunnel.value ? { tunnel: tunnel.value } : {}) };
  const job = await generate({ workflow, params: Object.fromEntries(given), comfytunnel }, wrong);
  sending = false;
  set(button, { "aria-busy": false });
  drawFoot();
  if (!job) return;
  const waits = job.comfytunnel.waits_for;
  tell(waits && waits.code !== "queue" ? `It waits: ${waits.message}` : "It is on its way.");
  readLine();
}

/** Lead to the field that the daemon did not like. */
function wrong(error) {
  const name = /^\$\.(?:params|images)\.([^.[]+)/.exec(error.details.path ?? "")?.[1];
  const found = fields.find(each => each.parameter.name === name);
  more.open ||= Boolean(found && aside.contains(found.element));
  found?.element.querySelector("input, textarea, select")?.focus();
}

/** Put a job's settings into the form, its seed as well; false when its workflow is not there any more. */
export function use(job) {
  const { workflow, params } = job.comfytunnel.generated;
  if (!model.workflows?.some(info => info.name === workflow)) {
    tell("Its workflow is not there any more.", { bad: true, hint: "It can be run again with another seed all the same." });
    return false;
  }
  draft.chosen = workflow;
  draft.values[workflow] = params;
  drawn = "";
  draw();
  changed();
  document.getElementById("create").scrollIntoView({ block: "start" });
  inputs.querySelector("input, textarea, select")?.focus({ preventScroll: true });
  tell("The form holds its settings now.");
  return true;
}

// --- files ----------------------------------------------------------------------------------------------------------

async function take(given, over = null) {
  if (given.type.startsWith("image/")) {
    const field = fields.find(each => each.take && each.element.contains(over)) ?? fields.find(each => each.take && each.free()) ?? fields.find(each => each.take);
    if (field) field.take(given);
    else tell("This workflow takes no picture.", { bad: true });
    return;
  }
  if (!await open(given)) return;
  draft.chosen = NAMELESS;
  drawn = ""; // another file may have the same parameters
  save();
  draw();
}

function listen() {
  const files = event => event.dataTransfer?.types.includes("Files");
  addEventListener("dragover", event => { if (files(event)) { event.preventDefault(); dropping.hidden = false; } });
  addEventListener("dragleave", event => { if (!event.relatedTarget) dropping.hidden = true; });
  addEventListener("drop", event => {
    dropping.hidden = true;
    if (!files(event)) return;
    event.preventDefault();
    let over = event.target;
    for (const given of event.dataTransfer.files) {
      take(given, over);
      over = null; // the others go where nothing is yet
    }
  });
  addEventListener("paste", event => {
    const given = [...(event.clipboardData?.files ?? [])].find(each => each.type.startsWith("image/"));
    if (given) { event.preventDefault(); take(given); }
  });
}
