/* The results, newest first: a tile for each output, one for each job that has none and ended badly. Older ones come page by page. */

import { el, fill, icon, keep, say, set } from "./el.js";
import { kindOf, seedOf, tiles, titleOf } from "./jobs.js";
import { older } from "./live.js";
import { model, on } from "./model.js";
import { thumbnail } from "./pictures.js";
import { open } from "./viewer.js";
import { moment, size } from "./words.js";

const [list, empty, button] = ["pictures", "gallery-empty", "older"].map(id => document.getElementById(id));

/** Pictures are there while somebody is about to see them, small ones always: a page with thousands of tiles holds no more than one with few. */
const near = new IntersectionObserver(seen => {
  for (const { target, isIntersecting } of seen) if (target.near !== isIntersecting) target.turn(isIntersecting);
}, { rootMargin: "600px" });

export function begin() {
  on(["jobs", "cursor", "workflows"], draw);
  button.onclick = async () => {
    button.disabled = true;
    await older();
    button.disabled = false;
  };
}

function draw() {
  const all = tiles();
  keep(list, all, tile => tile.key, make, update);
  button.hidden = !model.cursor;
  empty.hidden = all.length > 0 || model.cursor === undefined;
  if (!empty.hidden && !empty.firstChild) fill(empty, icon("picture"), el("p", {}, "Your pictures will appear here."));
}

function make({ key, job, output }) {
  const kind = output ? kindOf(output) : "none";
  const view = el("span.view");
  if (kind === "image") {
    const picture = el("img", { alt: "", decoding: "async", draggable: false });
    picture.onload = () => view.classList.add("here");
    picture.onerror = () => { near.unobserve(view); fill(view, icon("file"), el("span", {}, "cannot be shown")); };
    view.append(picture);
    view.turn = now => {
      view.near = now;
      if (now) return thumbnail(output.id, () => view.near).then(url => { if (view.near) picture.src = url; }, error => { if (view.near && error.code !== "unreachable") picture.onerror(); });
      view.classList.remove("here");
      picture.removeAttribute("src");
    };
    near.observe(view);
  } else if (kind === "none") fill(view, icon("alert"), el("span.why"));
  else fill(view, icon(kind === "file" ? "file" : "play"), el("span", {}, output.name), el("span.quiet", {}, size(output.size_bytes)));
  return el("li", { className: `tile ${kind} ${job.status}` },
    el("button", { type: "button", onclick: () => open(key) }, view, el("span.caption", {}, el("span.title"), el("span.quiet"))));
}

function update(tile, { job, output }) {
  const [view, caption] = tile.firstElementChild.children;
  const [title, quiet] = caption.children;
  const name = titleOf(job);
  const seed = seedOf(job);
  say(title, name);
  say(quiet, [moment(job.completed_at ?? job.created_at), seed !== undefined && `seed\u00a0${seed}`].filter(Boolean).join(" · "));
  const why = job.error?.message ?? "It ended without a file.";
  if (!output) say(view.lastElementChild, why);
  set(tile.firstElementChild, { "aria-label": `${output ? "Open" : "Failed"}: ${name}, ${quiet.textContent}${output ? "" : `. ${why}`}` });
}
