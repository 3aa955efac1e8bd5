/* What things are called, and how times and sizes are said. Sentences about causes come from the daemon; these are the page's own. */

const PHASES = {
  up: ["good", "The tunnel is up"],
  doubtful: ["busy", "Making sure that the link still lives"],
  connecting: ["busy", "Connecting"],
  waiting: ["busy", "Waiting for the next try"],
  offline: ["busy", "No way to the network"],
  halted: ["bad", "The tunnel needs you"],
  down: ["off", "The tunnel is down, as you asked"],
};

const COMFYUI = {
  serving: ["good", "ready"],
  starting: ["busy", "starting, does not listen yet"],
  down: ["bad", "not running"],
  wrong_port: ["bad", "not on this port"],
  error: ["bad", "answers with errors"],
  unknown: ["off", "not asked yet"],
};

const NEXT = { connect: "Tries again", ask: "Asks whether the link lives", bind: "Takes the port" };
const STATUS = { queued: "Waiting", running: "Running", canceling: "Stopping", succeeded: "Done", failed: "Failed", canceled: "Canceled", expired: "Expired" };

export const phaseOf = tunnel => PHASES[tunnel.phase] ?? ["busy", tunnel.phase];
export const statusWord = job => STATUS[job.status] ?? job.status;

/** [mood, sentence, the same without what changes with each job] of ComfyUI behind a tunnel; null while the tunnel's own state says it all. */
export function comfyuiOf({ phase, comfyui }) {
  if (!["up", "doubtful"].includes(phase)) return null;
  const [mood, word] = COMFYUI[comfyui.state] ?? ["busy", comfyui.state];
  const detail = comfyui.detail && comfyui.state !== "serving" ? `: ${comfyui.detail}` : "";
  const line = comfyui.queue ? `, ${comfyui.queue} in its queue` : "";
  const said = more => `ComfyUI${comfyui.version ? ` ${comfyui.version}` : ""} is ${word}${more}${detail}`.replace("is answers", "answers");
  return [mood, said(line), said("")];
}

/** What happens next, and when (ms, 0: now); null where there is nothing to wait for. An idle link that is asked now and then is no news. */
export function nextOf({ phase, next }) {
  if (!next || (phase === "up" && next.action === "ask")) return null;
  return { what: NEXT[next.action] ?? next.action, at: next.at ? Date.parse(next.at) : 0 };
}

const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

/** 3723 -> "1 h 2 min"; the two largest parts. */
export function span(seconds) {
  let left = Math.round(seconds);
  if (left < 1) return seconds > 0 ? "under a second" : "0 s";
  const parts = [];
  for (const [size, unit] of UNITS) {
    const many = Math.floor(left / size);
    if (many) parts.push(`${many} ${unit}`);
    else if (parts.length) break;
    left -= many * size;
  }
  return parts.slice(0, 2).join(" ");
}

/** 3.42 -> "3.4 s": of what is compared. */
export const brief = seconds => (seconds < 0.05 ? "under 0.1 s" : seconds < 60 ? `${seconds.toFixed(1)} s` : span(seconds));

export const countdown = at => {
  const seconds = Math.ceil((at - Date.now()) / 1000);
  return seconds > 0 ? `in ${span(seconds)}` : "now";
};

export const ago = at => {
  const seconds = (Date.now() - at) / 1000;
  return seconds < 45 ? "just now" : `${span(seconds < 3600 ? Math.round(seconds / 60) * 60 : Math.round(seconds / 3600) * 3600)} ago`;
};

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

/** 14:02 of today, else with its day. */
export function moment(text) {
  const when = new Date(text);
  return (when.toDateString() === new Date().toDateString() ? clock : day).format(when);
}
export const exactly = text => exact.format(new Date(text));

export function size(bytes) {
  for (const unit of ["B", "kB", "MB"]) {
    if (bytes < 1000) return `${bytes < 10 && unit !== "B" ? bytes.toFixed(1) : Math.round(bytes)} ${unit}`;
    bytes /= 1000;
  }
  return `${bytes.toFixed(1)} GB`;
}

export const some = (number, one, many = `${one}s`) => `${number} ${number === 1 ? one : many}`;
