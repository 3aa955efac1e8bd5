/* The tunnels' state in words: what it is, since when, why, what happens next. What is spoken (the live region) holds no countdown. */

import { el, fill, keep, prose, say, set } from "./el.js";
import { go } from "./live.js";
import { model, on } from "./model.js";
import { comfyuiOf, countdown, moment, nextOf, phaseOf } from "./words.js";

const root = document.getElementById("tunnels");
const pill = document.getElementById("pill");
const told = document.getElementById("told");

export function begin() {
  on(["status", "link"], draw);
  new IntersectionObserver(([seen]) => pill.classList.toggle("away", seen.isIntersecting)).observe(root);
  setInterval(tick, 500);
}

function draw() {
  const shown = states();
  keep(root, shown, state => state.key, make, update);
  const worst = shown.find(state => state.mood === "bad") ?? shown.find(state => state.mood !== "good") ?? shown[0];
  pill.hidden = !worst;
  if (worst) fill(set(pill, { data: { mood: worst.mood } }), el("span.dot"), shown.length > 1 && worst.mood === "good" ? "All tunnels are up" : worst.title);
  say(told, shown.map(state => [state.title, state.why, state.comfyui?.[2]].filter(Boolean).join(". ")).join(". "));
  tick();
}

/** What there is to say, trouble with the daemon itself first. */
function states() {
  const { link, status } = model;
  if (link.state === "lost" || link.state === "refused") {
    const hint = link.state === "lost" ? "This page goes on by itself. To see why: `comfytunnel logs`" : "";
    const title = link.state === "lost" ? "The daemon is away" : "The daemon asks for its token";
    return [{ key: " link", mood: "bad", title, why: link.message, hint, next: link.until ? { what: "Tries again", at: link.until } : null, now: link.state === "lost" }];
  }
  if (!status) return [{ key: " link", mood: "busy", title: "Asking the daemon", why: "" }];
  const found = [];
  if (status.cause) found.push({ key: " daemon", mood: "bad", title: "The daemon has trouble", why: status.cause.message, hint: status.cause.hint });
  const tunnels = Object.entries(status.tunnels);
  for (const [name, tunnel] of tunnels) {
    const [mood, words] = phaseOf(tunnel);
    const calm = tunnel.phase === "up" || tunnel.phase === "down";
    const comfyui = comfyuiOf(tunnel);
    found.push({
      key: name, name: tunnels.length > 1 ? name : "", title: words, since: tunnel.since, comfyui,
      mood: mood === "good" && comfyui && comfyui[0] !== "good" ? "busy" : mood,
      why: calm ? "" : tunnel.cause?.message ?? "", hint: calm ? "" : tunnel.cause?.hint ?? "",
      next: nextOf(tunnel), rtt: mood === "good" ? tunnel.rtt_ms : null,
      road: `${tunnel.listen[0] ?? "not bound"} → ${tunnel.ssh.user ? `${tunnel.ssh.user}@` : ""}${tunnel.ssh.host}${tunnel.ssh.port ? `:${tunnel.ssh.port}` : ""} → ${tunnel.remote}`,
    });
  }
  if (!found.length) found.push({ key: " none", mood: "off", title: "No tunnel is configured", why: "", hint: "Run `comfytunnel setup 'ssh -p ...'`, with the command that the console of your instance shows." });
  return found;
}

function make() {
  return el("article.tunnel", {},
    el("span.dot", { "aria-hidden": "true" }),
    el("div", {}, el("h2"), el("p.facts"), el("p.why"), el("p.hint"), el("p.next", { hidden: true }, el("span"), el("button.plain.small", { type: "button", onclick: go, hidden: true }, "Try now"))));
}

function update(article, state) {
  set(article, { className: `tunnel ${state.mood}` });
  const [title, facts, why, hint, next] = article.lastElementChild.children;
  fill(title, state.name ? el("span.name", {}, state.name) : null, state.title);
  const parts = [
    state.comfyui && el("span", { className: `comfyui ${state.comfyui[0]}` }, state.comfyui[1]),
    state.since && el("span", { title: state.road ?? "" }, "since ", el("time", { dateTime: state.since }, moment(state.since))),
    typeof state.rtt === "number" && el("span", { title: "round trip" }, `${state.rtt < 10 ? state.rtt.toFixed(1) : Math.round(state.rtt)} ms away`),
  ].filter(Boolean);
  fill(facts, parts);
  facts.hidden = !parts.length;
  for (const [line, text] of [[why, state.why], [hint, state.hint]]) { prose(line, text ?? ""); line.hidden = !text; }
  next.hidden = !state.next;
  set(next, { data: state.next ? { what: state.next.what, at: state.next.at } : {} });
  next.lastElementChild.hidden = !state.now;
}

function tick() {
  for (const next of root.querySelectorAll(".next:not([hidden])")) say(next.firstElementChild, `${next.dataset.what} ${countdown(Number(next.dataset.at))}`);
}
