/* The connections that keep the model true: one stream for the daemon, one for each running job that is watched. A stream that ends is
   opened again with a growing pause, and told from where on. A browser gives all tabs together six connections to one host: so one
   tab alone watches a job for all of them, and a tab that is hidden for a while lets go of its streams. */

import { Refused, events, get } from "./api.js";
import { ENDED, model, poke, put, putJobs, running, waiting } from "./model.js";

const PAUSES = [300, 1000, 2000, 4000, 8000]; // ms between two tries
const WATCHED = 2; // running jobs with a stream of their own
const HIDDEN = 60_000; // ms until a hidden tab lets go
const SETTLE = 150; // ms in which changes of the line are gathered before it is read again
const LINE_PAGES = 3; // of 100 waiting jobs each; what stands behind them is counted only
const PAGE = 40; // jobs on a page of the gallery

let since; // the last revision that was told
let wake = () => {};
let hiding;
let reading;
let askToken = () => {};
let visible = true;

/** Begin, and go on for ever. `onToken` is called when the daemon wants one; go() continues then. */
export function begin(onToken) {
  askToken = onToken;
  const seen = () => {
    clearTimeout(hiding);
    if (document.hidden) hiding = setTimeout(() => { visible = false; current?.abort(); endJobs(); }, HIDDEN);
    else {
      visible = true;
      go();
      rereadWorkflows().catch(() => {}); // one may have been added meanwhile; when that fails the stream has failed too
    }
  };
  document.addEventListener("visibilitychange", seen);
  if (document.hidden) seen(); // opened behind another tab
  addEventListener("online", go);
  follow();
}

/** Try now, whatever the pause. */
export function go() { wake(); }

let current;
let fresh; // whether this stream has told nothing yet

async function follow() {
  for (let tries = 0; ; tries += 1) {
    current = new AbortController();
    fresh = true;
    try {
      for await (const event of events("/v1/events", { signal: current.signal, since })) {
        tries = 0;
        take(event);
      }
      lost("The daemon has stopped, or starts again.", tries);
    } catch (error) {
      if (error instanceof Refused && error.status === 401) {
        put("link", { state: "refused", until: 0, message: "This page needs the token of the config." });
        askToken(error);
        await new Promise(done => { wake = done; });
        tries = -1;
        continue;
      }
      lost(error instanceof Refused && error.status ? `${error.message} ${error.hint}` : "The daemon does not answer.", tries);
    }
    endJobs();
    await pause(tries);
  }
}

function lost(message, tries) {
  if (!visible) return;
  put("link", { state: tries ? "lost" : "connecting", until: Date.now() + wait(tries), message });
}

const wait = tries => PAUSES[Math.min(tries, PAUSES.length - 1)];

function pause(tries) {
  return new Promise(done => {
    const timer = visible ? setTimeout(done, wait(tries)) : undefined;
    wake = () => { clearTimeout(timer); done(); };
  });
}

function take({ name, id, data }) {
  if (id !== undefined) since = id;
  if (name === "status") {
    put("status", data);
    if (fresh) opened();
    else readLine();
    fresh = false;
  } else if (name === "tunnel" && model.status) {
    const tunnels = { ...model.status.tunnels, [data.name]: data.tunnel };
    put("status", { ...model.status, tunnels });
    readLine(); // what jobs wait for changes with it, and no event says so
    readOutages();
  } else if (name === "job") {
    const had = model.jobs.get(data.id);
    putJobs([data]);
    watch();
    if (had?.status !== data.status || data.status === "queued") readLine();
  } else if (name === "outage") readOutages();
}

async function opened() {
  put("link", { state: "open", until: 0, message: "" });
  readLine();
  readOutages();
  await rereadWorkflows().catch(() => {}); // as above
  if (model.cursor === undefined) await older();
}

/** Read the next older page of jobs; true when there was one. */
export async function older() {
  const from = model.cursor ? `&cursor=${encodeURIComponent(model.cursor)}` : "";
  const found = await get(`/api/v2/jobs?limit=${PAGE}${from}`).catch(() => null);
  if (!found) return false;
  put("cursor", found.next_cursor);
  putJobs(found.jobs);
  watch();
  return true;
}

const rereadWorkflows = async () => put("workflows", (await get("/v1/workflows")).workflows);

/** Read all that waits or runs: who stands where, and why. */
export function readLine() {
  reading ??= setTimeout(async () => {
    reading = undefined;
    await line().catch(() => {}); // the stream says so when the daemon is away
  }, SETTLE);
}

async function line() {
  const seen = new Set();
  let more = false;
  for (const status of ["running", "canceling", "queued"]) {
    let from = "";
    for (let page = 0; page < LINE_PAGES; page += 1) {
      const found = await get(`/api/v2/jobs?status=${status}&limit=100${from}`);
      for (const job of found.jobs) seen.add(job.id);
      putJobs(found.jobs);
      if (!found.next_cursor) break;
      from = `&cursor=${encodeURIComponent(found.next_cursor)}`;
      more ||= page === LINE_PAGES - 1;
    }
  }
  for (const job of model.jobs.values()) {
    if (!ENDED.has(job.status) && !seen.has(job.id) && !more) await get(`/api/v2/jobs/${job.id}`).then(now => putJobs([now]), error => forget(error, job.id));
  }
  const status = await get("/v1/status");
  put("status", status);
  const queued = status.jobs.queued; // one snapshot gives both: a job that has just come is not taken for one that was given away
  put("line", { given: Math.max(0, queued - (status.queue?.waiting ?? 0)), unread: more ? queued - waiting().length : 0 });
  watch();
}

function forget(error, id) {
  if (error.status !== 404) return;
  model.jobs.delete(id);
  poke("jobs");
}

async function readOutages() {
  const found = await get("/v1/outages?limit=1000").catch(() => null);
  if (found) put("outages", found.outages);
}

// --- running jobs ---------------------------------------------------------------------------------------------------

const watched = new Map();

function watch() {
  if (!visible) return;
  const now = running().slice(0, WATCHED).map(job => job.id);
  for (const [id, controller] of watched) if (!now.includes(id)) { controller.abort(); watched.delete(id); }
  for (const id of now) if (!watched.has(id)) {
    const controller = new AbortController();
    watched.set(id, controller);
    listen(id, controller);
  }
}

/** One tab listens to a job and tells the others; when it goes, the next takes over. */
const tabs = new BroadcastChannel("comfytunnel.live");
tabs.onmessage = ({ data: { id, name, data } }) => heard(id, name, data);

function heard(id, name, data) {
  if (ENDED.has(model.jobs.get(id)?.status)) return; // late: nobody would ever forget it
  model.live.set(id, { ...model.live.get(id), [name]: data });
  poke("live");
}

async function listen(id, controller) {
  const { signal } = controller;
  try {
    await navigator.locks.request(`comfytunnel.live ${id}`, { signal }, async () => {
      for await (const { name, data } of events(`/api/v2/jobs/${id}/events`, { signal })) {
        if (name !== "progress" && name !== "preview") continue;
        heard(id, name, data);
        tabs.postMessage({ id, name, data });
      }
    });
  } catch {
    // the daemon's stream says what has become of it; this one is opened again with the next look at the line
  } finally {
    if (watched.get(id) === controller) watched.delete(id);
  }
}

function endJobs() {
  for (const controller of watched.values()) controller.abort();
  watched.clear();
}
