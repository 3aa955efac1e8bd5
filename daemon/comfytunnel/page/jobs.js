/* What can be said of one job, wherever it is shown, and what can be done with it. Knows the model and the API, no place on the screen. */

import { get, post } from "./api.js";
import { ended, model, putJobs } from "./model.js";
import { trouble } from "./says.js";
import { written } from "./stored.js";

const SHOWABLE = new Set(["image/png", "image/jpeg", "image/webp", "image/gif", "image/avif"]);
const MOVING = new Set(["video/mp4", "video/webm"]);
const SOUNDING = new Set(["audio/mpeg", "audio/flac", "audio/ogg", "audio/wav", "audio/x-wav", "audio/mp4"]);

/** image, video, audio, or file: what may be shown. Anything that could run (html, svg, js) is a file, offered as a download only. */
export function kindOf({ content_type: type }) {
  return SHOWABLE.has(type) ? "image" : MOVING.has(type) ? "video" : SOUNDING.has(type) ? "audio" : "file";
}

const infoOf = job => model.workflows?.find(info => info.name === job.comfytunnel.generated?.workflow);

/** The settings behind a job as [{name, label, kind, value}], the way they were asked for; [] for one that came another way. */
export function settings(job) {
  const params = job.comfytunnel.generated?.params ?? {};
  const known = infoOf(job)?.parameters ?? [];
  const order = name => { const at = known.findIndex(parameter => parameter.name === name); return at < 0 ? known.length : at; };
  return Object.entries(params)
    .sort(([one], [other]) => order(one) - order(other))
    .map(([name, value]) => {
      const parameter = known.find(each => each.name === name);
      const kind = parameter?.kind ?? (/seed/i.test(name) ? "seed" : typeof value === "string" ? "text" : "number");
      return { name, kind, label: parameter?.label ?? name.charAt(0).toUpperCase() + name.slice(1).replaceAll("_", " "), value };
    });
}

export const workflowTitle = job => infoOf(job)?.title ?? job.comfytunnel.generated?.workflow ?? "";
export const seedOf = job => settings(job).find(({ kind }) => kind === "seed")?.value;

/** What a person would call it: its label, its prompt, its workflow. */
export function titleOf(job) {
  const prompt = settings(job).find(({ kind, value }) => kind === "text" && value);
  return job.comfytunnel.label || String(prompt?.value ?? "") || workflowTitle(job) || `Job ${job.id.slice(0, 8)}`;
}

/** Every tile as {key, job, output}; output null for a job that has none. */
export function tiles() {
  return ended().flatMap(job => job.outputs.length
    ? job.outputs.map(output => ({ key: output.id, job, output }))
    : job.status === "canceled" ? [] : [{ key: job.id, job, output: null }]);
}

/** Run `deed`, take in the Job that it answers, say what went wrong. */
async function act(deed) {
  try {
    const job = await deed();
    putJobs([job]);
    return job;
  } catch (error) {
    trouble(error);
    return null;
  }
}

export const cancel = job => act(() => post(`/api/v2/jobs/${job.id}/cancel`));
export const retry = job => act(() => post(`/v1/jobs/${job.id}/retry`));
export const move = (job, where) => act(() => post(`/v1/jobs/${job.id}/move`, where));
let unheard = null; // {body, claim} of what was sent last, while nobody knows whether it arrived

/** Ask for a job; `wrong` hears of a refusal besides. The same asked again after an answer that never came is one job, not two. */
export async function generate(asked, wrong = () => {}) {
  return act(async () => {
    const body = written(asked);
    const claim = unheard?.body === body ? unheard.claim : crypto.randomUUID();
    unheard = null;
    try {
      return await post("/api/generate", asked, { "Idempotency-Key": claim });
    } catch (error) {
      if (error.code === "idempotency_key_reuse") return get(`/api/v2/jobs/${error.details.job_id}`);
      if (error.code === "unreachable") unheard = { body, claim };
      wrong(error);
      throw error;
    }
  });
}

export const graphOf = async job => (await get(`/api/v2/jobs/${job.id}/workflow`)).workflow;

export const timesOf = async job => (await get(`/api/v2/jobs/${job.id}`)).comfytunnel.node_times ?? [];

/** Of a graph, for a job that came another way than the form: its seeds and prompts, as settings() gives them. */
export function settingsIn(graph) {
  const found = [];
  for (const [id, node] of Object.entries(graph)) {
    for (const [name, value] of Object.entries(node?.inputs ?? {})) {
      const kind = /seed$/i.test(name) && ["number", "bigint"].includes(typeof value) ? "seed" : /^(text|prompt|positive|negative)/i.test(name) && typeof value === "string" ? "text" : "";
      if (kind) found.push({ name: `${id}.${name}`, label: `${node._meta?.title ?? node.class_type}: ${name}`, kind, value });
    }
  }
  return found.slice(0, 20);
}

/** The same once more, with every seed drawn anew: by the name of its workflow where that still takes these values and they are all there is to it, else by its graph. */
export async function again(job) {
  const { label, generated, tunnel } = job.comfytunnel;
  const tunnels = Object.keys(model.status?.tunnels ?? {});
  const info = infoOf(job);
  const known = info && !info.problem && !generated.changed && Object.keys(generated.params).every(name => info.parameters.some(parameter => parameter.name === name));
  const params = known ? Object.fromEntries(settings(job).filter(({ kind }) => kind !== "seed").map(({ name, value }) => [name, value])) : {};
  const comfytunnel = { ...(label ? { label } : {}), ...(tunnels.length > 1 && tunnels.includes(tunnel) ? { tunnel } : {}) };
  return act(async () => post("/api/generate", { workflow: known ? info.name : await graphOf(job), params, comfytunnel }));
}
