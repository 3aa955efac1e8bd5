/* The API on this very port: calls, event streams, files. Nothing here knows what is on the screen.

   With a token every call carries it, so files and streams too go through fetch(): <img> and EventSource send no header. Seeds go
   up to 2^64-1, and JavaScript's numbers to 2^53: larger ones are kept as BigInt, both ways. */

const KEY = "comfytunnel.token";
const SILENCE = 40_000; // ms without a byte after which a stream is given up; the daemon says something every 15 s
let token = sessionStorage.getItem(KEY) ?? "";

/** An answer that is not 2xx; `code` is "unreachable" when there was none at all. */
export class Refused extends Error {
  constructor(status, code, message, details) {
    super(message);
    Object.assign(this, { status, code, details: details ?? {} });
  }
  get hint() { return typeof this.details.hint === "string" ? this.details.hint : ""; }
}

export function setToken(given) {
  token = given;
  sessionStorage.setItem(KEY, given);
}

const parse = text => JSON.parse(text, (_, value, context) =>
  typeof value === "number" && !Number.isSafeInteger(value) && /^-?\d+$/.test(context?.source ?? "") ? BigInt(context.source) : value);
const write = value => JSON.stringify(value, (_, inner) =>
  typeof inner === "bigint" ? (JSON.rawJSON ? JSON.rawJSON(String(inner)) : Number(inner)) : inner);

async function call(method, path, { headers = {}, ...more } = {}) {
  if (token) headers.Authorization = `Bearer ${token}`;
  let answer;
  try {
    answer = await fetch(path, { method, headers, ...more });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "unreachable", "The daemon does not answer.");
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  const { code = "unknown", message = `The daemon answered ${answer.status}.`, details } = told?.error ?? {};
  throw new Refused(answer.status, code, String(message), details);
}

async function read(answer) {
  try {
    return parse(await answer.text());
  } catch {
    throw new Refused(0, "unreachable", "The daemon's answer broke off.");
  }
}

export const get = async path => read(await call("GET", path));
export const post = async (path, body, headers = {}) => (body === undefined ? read(await call("POST", path, { headers })) : postText(path, write(body), headers));
export const postText = async (path, body, headers = {}) => read(await call("POST", path, { headers: { "Content-Type": "application/json", ...headers }, body }));

/** Send a file; the answer is its Asset. */
export async function upload(file) {
  const form = new FormData();
  const name = file.name.replace(/[^\p{L}\p{N} ._()-]/gu, "_").slice(-200) || "picture";
  form.append("content_type", file.type || "application/octet-stream");
  form.append("file_path", name);
  form.append("file", file, name);
  return read(await call("POST", "/api/v2/assets", { body: form }));
}

/** Yield {name, id, data} of an event stream until it ends. */
export async function* events(path, { signal, since } = {}) {
  const silence = new AbortController();
  const headers = since === undefined ? {} : { "Last-Event-ID": String(since) };
  const answer = await call("GET", path, { headers, signal: AbortSignal.any([signal, silence.signal]) });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let timer;
  let rest = "";
  try {
    for (;;) {
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), SILENCE);
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const event = fields(part);
        if (event) yield event;
      }
    }
  } finally {
    clearTimeout(timer);
    reader.cancel().catch(() => {}); // it may be broken already: then there is nothing to end
  }
}

function fields(part) {
  const event = { name: "message", id: undefined, data: "" };
  for (const line of part.split("\n")) {
    const colon = line.indexOf(":");
    if (colon <= 0) continue; // a comment, or nothing
    const value = line.slice(colon + 1).replace(/^ /, "");
    const field = line.slice(0, colon);
    if (field === "event") event.name = value;
    else if (field === "id") event.id = Number(value);
    else if (field === "data") event.data += value;
  }
  return event.data ? { ...event, data: parse(event.data) } : null;
}

/** The bytes of an asset. */
export const bytes = async asset => (await call("GET", contentPath(asset))).blob();
export const contentPath = asset => `/api/v2/assets/${encodeURIComponent(asset)}/content`;
export const hasToken = () => Boolean(token);
