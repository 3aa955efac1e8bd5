/* What the page knows: the one place where it is kept, and who wants to hear of changes. Only live.js and the answers to what a
   person did write here; whoever draws, reads. Jobs are replaced by newer revisions only, whatever the order in which they arrive. */

export const ENDED = new Set(["succeeded", "failed", "canceled", "expired"]);

export const model = {
  link: { state: "connecting", until: 0, message: "" }, // to the daemon: connecting, open, lost (until: the next try, ms), refused
  status: null,
  outages: null,
  workflows: null, // null: not known yet
  jobs: new Map(),
  live: new Map(), // job id -> {progress, preview}
  cursor: undefined, // of the next older page of jobs; null: there is none, undefined: nothing has been read yet
  line: { given: 0, unread: 0 }, // how many of the first in line ComfyUI has already (`max_ahead`), and how many stand behind what was read
};

const listeners = [];
const changed = new Set();

/** Have `draw` called after any of the named parts has changed, once for many changes. */
export function on(parts, draw) {
  listeners.push({ parts, draw });
}

export function poke(...parts) {
  if (!changed.size) queueMicrotask(flush);
  for (const part of parts) changed.add(part);
}

function flush() {
  const now = new Set(changed);
  changed.clear();
  for (const { parts, draw } of listeners) if (parts.some(part => now.has(part))) draw();
}

export function put(part, value) {
  model[part] = value;
  poke(part);
}

/** Take in jobs. Equal revisions are taken too: place in line and reasons change without one. */
export function putJobs(jobs) {
  for (const job of jobs) {
    const had = model.jobs.get(job.id);
    if (had && had.comfytunnel.revision > job.comfytunnel.revision) continue;
    model.jobs.set(job.id, job);
    if (ENDED.has(job.status)) model.live.delete(job.id);
  }
  poke("jobs");
}

const byPlace = (one, other) => (one.queue_position ?? Infinity) - (other.queue_position ?? Infinity) || one.created_at.localeCompare(other.created_at);
const newest = (one, other) => (other.completed_at ?? other.created_at).localeCompare(one.completed_at ?? one.created_at);

export const running = () => [...model.jobs.values()].filter(job => job.status === "running" || job.status === "canceling").sort(byPlace);
export const waiting = () => [...model.jobs.values()].filter(job => job.status === "queued").sort(byPlace);
export const ended = () => [...model.jobs.values()].filter(job => ENDED.has(job.status)).sort(newest);

/** Whether jobs run now: some tunnel is up and its ComfyUI serves. */
export const serving = () => Object.values(model.status?.tunnels ?? {}).some(tunnel => ["up", "doubtful"].includes(tunnel.phase) && tunnel.comfyui.state === "serving");
