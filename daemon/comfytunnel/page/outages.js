/* The outages as a picture: a strip of the last day or week, one mark for each, with the same told in words beside it and in a list. */

import { el, fill, say, set, svg } from "./el.js";
import { model, on } from "./model.js";
import { exactly, some, span } from "./words.js";

const root = document.getElementById("outages");
const RANGES = [["24 hours", 24 * 3600], ["7 days", 7 * 24 * 3600]];
const WIDTH = 1000;
const HEIGHT = 26;
const LEAST = 3; // of WIDTH: an outage of a second is to be seen too
const LISTED = 12;
const REDRAW = 60_000;
let range = Number(localStorage.getItem("comfytunnel.outages")) || 0;

const strip = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", class: "strip" });
const words = el("p.quiet");
const scale = el("p.scale", { "aria-hidden": "true" });
const list = el("ul");
const details = el("details", { hidden: true }, el("summary", {}, "Show each"), list);
const buttons = RANGES.map(([name], index) => el("button.plain.small", { type: "button", onclick: () => choose(index) }, name));

export function begin() {
  fill(root, el("div.head", {}, words, el("div.choice", { role: "group", "aria-label": "Time shown" }, buttons)), strip, scale, details);
  on(["outages", "status"], draw);
  setInterval(draw, REDRAW);
}

function choose(index) {
  range = index;
  localStorage.setItem("comfytunnel.outages", String(index));
  draw();
}

function draw() {
  root.hidden = !model.outages || !model.status || !Object.keys(model.status.tunnels).length;
  if (root.hidden) return;
  const [name, seconds] = RANGES[range] ?? RANGES[0];
  const now = Date.now();
  const begin = now - seconds * 1000;
  const end = outage => outage.ended ? Date.parse(outage.ended) : now;
  const shown = model.outages.filter(outage => end(outage) > begin);
  buttons.forEach((button, index) => set(button, { "aria-pressed": String(index === range) }));
  const tunnels = [...new Set([...Object.keys(model.status.tunnels), ...shown.map(outage => outage.tunnel)])];
  const height = HEIGHT / tunnels.length;
  const place = at => Math.max(0, Math.min(WIDTH, ((at - begin) / 1000 / seconds) * WIDTH));
  const gap = tunnels.length > 1 ? 1.5 : 0;
  strip.replaceChildren(...tunnels.map((_, row) => svg("rect", { class: "well", x: 0, y: row * height + gap, width: WIDTH, height: height - 2 * gap, rx: 3 })),
    ...shown.map(outage => {
      const from = place(Date.parse(outage.began));
      const width = Math.max(LEAST, place(end(outage)) - from);
      const drawn = svg("rect", { class: outage.ended ? "gone" : "gone now", x: Math.min(from, WIDTH - width), y: tunnels.indexOf(outage.tunnel) * height + gap, width, height: height - 2 * gap });
      const title = svg("title");
      title.textContent = sentence(outage, tunnels.length > 1);
      drawn.append(title);
      return drawn;
    }));
  const total = shown.reduce((sum, outage) => sum + (end(outage) - Math.max(begin, Date.parse(outage.began))) / 1000, 0);
  const longest = Math.max(0, ...shown.map(outage => (end(outage) - Date.parse(outage.began)) / 1000));
  const lengths = `, ${roughly(total)}${shown.length > 1 ? ` in all, the longest ${roughly(longest)}` : ""}`;
  say(words, shown.length ? `${some(shown.length, "outage")}${lengths}` : "No outage");
  strip.setAttribute("aria-label", `${words.textContent}; the last ${name}`);
  fill(scale, el("span", {}, `${name} ago`), el("span", {}, "now"));
  details.hidden = !shown.length;
  if (details.hidden) details.open = false;
  fill(list, shown.slice(0, LISTED).map(outage => el("li", {}, sentence(outage, tunnels.length > 1))), shown.length > LISTED && el("li", {}, "More: comfytunnel status --history"));
}

const roughly = seconds => span(seconds < 600 ? seconds : Math.round(seconds / 60) * 60);

function sentence(outage, named) {
  const length = outage.ended ? `for ${span((Date.parse(outage.ended) - Date.parse(outage.began)) / 1000)}` : "until now";
  return `${named ? `${outage.tunnel}: ` : ""}${exactly(outage.began)}, ${length}. ${outage.cause.message}`;
}
