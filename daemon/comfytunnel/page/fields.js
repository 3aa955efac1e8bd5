/* One field for one parameter of a workflow. Each is {element, read, write}: read() gives what is to be sent, undefined for "as the workflow
   has it", null for a seed that is to be drawn; write(value) shows such a value again; of a picture settled() is when it has been sent.
   Nothing is kept or sent here but pictures. */

import { upload } from "./api.js";
import { el, fill, icon, iconButton, set } from "./el.js";
import { thumbnail } from "./pictures.js";
import { trouble } from "./says.js";

const SEED_MOST = 2 ** 32 - 1; // what the daemon draws too
const PICTURES = "image/png,image/jpeg,image/webp,image/gif,image/avif,image/bmp,image/tiff";

/** `changed` is called whenever a person has changed it. */
export function field(parameter, changed) {
  const id = `p-${parameter.name}`;
  const make = { text, integer: number, number, seed, choice, boolean, image }[parameter.kind] ?? text;
  return { parameter, ...make(parameter, id, changed) };
}

const label = (parameter, id) => el("label", { htmlFor: id }, parameter.label);
const wrap = (parameter, id, ...inner) => el("div.field", { data: { name: parameter.name, kind: parameter.kind } }, label(parameter, id), ...inner);

function text(parameter, id, changed) {
  const long = parameter.multiline;
  const input = el(long ? "textarea" : "input", { id, oninput: changed, spellcheck: long, autocomplete: "off", ...(long ? {} : { type: "text" }) });
  input.classList.toggle("tall", long && !parameter.name.startsWith("negative"));
  const write = value => { input.value = value ?? parameter.default ?? ""; };
  return { element: wrap(parameter, id, input), read: () => input.value, write };
}

function number(parameter, id, changed) {
  const whole = parameter.kind === "integer";
  const limits = { min: parameter.min ?? "", max: parameter.max ?? "", step: whole ? 1 : "any" }; // a step of 8 is advice: the daemon does not insist
  const input = el("input", { id, type: "number", inputMode: whole ? "numeric" : "decimal", oninput: changed, placeholder: String(parameter.default ?? ""), ...limits });
  return {
    element: wrap(parameter, id, input),
    read: () => (input.value === "" ? undefined : Number(input.value)),
    write: value => { input.value = value ?? parameter.default ?? ""; },
  };
}

function seed(parameter, id, changed) {
  const input = el("input", { id, type: "text", inputMode: "numeric", pattern: "[0-9]{1,20}", placeholder: "Random", autocomplete: "off", title: "A number, or empty for another one each time" });
  const die = iconButton("die", `Draw a number for ${parameter.label}`, () => {
    input.value = String(Math.floor(Math.random() * (SEED_MOST + 1)));
    shown();
    changed();
  });
  const random = el("input", { type: "checkbox", checked: true, onchange: () => {
    if (random.checked) { input.value = ""; changed(); } else die.click();
    shown();
  } });
  const shown = () => { random.checked = input.value.trim() === ""; };
  input.oninput = () => { shown(); changed(); };
  return {
    element: el("div.field", { data: { name: parameter.name, kind: "seed" } },
      el("div.labels", {}, label(parameter, id), el("label.check", {}, random, "New each time")), el("div.seed", {}, input, die)),
    read() {
      const given = input.value.trim();
      if (!given) return null;
      if (!/^\d+$/.test(given)) return given; // half typed: the browser lets nobody send it
      return Number.isSafeInteger(Number(given)) ? Number(given) : BigInt(given);
    },
    write(value) { input.value = value === null || value === undefined ? "" : String(value); shown(); },
  };
}

function choice(parameter, id, changed) {
  const choices = parameter.choices ?? [];
  const all = choices.includes(parameter.default) || parameter.default === null ? choices : [parameter.default, ...choices];
  const select = el("select", { id, onchange: changed }, all.map((value, index) => el("option", { value: String(index) }, String(value))));
  return {
    element: wrap(parameter, id, select),
    read: () => all[Number(select.value)],
    write(value) { select.selectedIndex = Math.max(0, all.findIndex(each => String(each) === String(value ?? parameter.default))); },
  };
}

function boolean(parameter, id, changed) {
  const input = el("input", { id, type: "checkbox", onchange: changed });
  const element = el("div.field", { data: { name: parameter.name, kind: parameter.kind } }, el("label.check", { htmlFor: id }, input, parameter.label));
  return { element, read: () => input.checked, write: value => { input.checked = Boolean(value ?? parameter.default); } };
}

function image(parameter, id, changed) {
  let held = null; // the id of an asset
  const input = el("input", { id, type: "file", accept: PICTURES });
  const thumb = el("img", { alt: "", hidden: true });
  const said = el("p.told");
  const remove = iconButton("close", `Remove ${parameter.label}`, () => { write(null); changed(); input.focus(); }, { hidden: true });
  const zone = el("div.drop", {}, thumb, said, input, el("label.plain", { htmlFor: id }, "Choose", el("span.unseen", {}, ` ${parameter.label}`)), remove);
  function write(value) {
    held = typeof value === "string" && value !== parameter.default ? value : null;
    remove.hidden = !held;
    thumb.hidden = true;
    fill(said, held ? "This picture" : "Drop, paste or choose a picture", !held && parameter.default ? el("span.quiet", {}, ` (without one: ${parameter.default})`) : null);
    const its = held;
    if (its) thumbnail(its).then(
      url => its === held && set(thumb, { src: url, hidden: false }),
      error => its === held && error.status === 404 && fill(said, "It is not here any more: choose it again.")); // else it is one that this browser cannot show
  }
  let coming = 0;
  let last = Promise.resolve();
  function take(file) { // one at a time: the last that was given stays
    coming += 1;
    last = last.then(() => send(file)).finally(() => { coming -= 1; });
  }
  async function send(file) {
    fill(said, `Sending ${file.name || "the picture"} …`);
    try {
      const asset = await upload(file);
      write(asset.id);
      fill(said, file.name || "The picture");
      changed();
    } catch (error) {
      write(held);
      trouble(error);
    }
  }
  input.onchange = () => { if (input.files[0]) take(input.files[0]); input.value = ""; };
  const element = el("div.field", { data: { name: parameter.name, kind: "image" } }, el("span.label", {}, parameter.label), zone);
  return { element, read: () => held ?? undefined, write, take, free: () => !held && !coming, settled: () => last };
}

/** Width and height side by side, with a button that swaps them. */
export function sized(width, height, changed) {
  const swap = iconButton("swap", "Swap width and height", () => {
    const [was, is] = [width.read(), height.read()];
    width.write(is);
    height.write(was);
    changed();
  });
  return el("div.size", {}, width.element, swap, height.element);
}

export const chooser = (words, accept, take) => {
  const input = el("input.unseen", { type: "file", accept, id: `c-${words.replace(/\W/g, "")}` });
  input.onchange = () => { if (input.files[0]) take(input.files[0]); input.value = ""; };
  return el("span.chooser", {}, input, el("label.plain.small", { htmlFor: input.id }, icon("file"), words));
};
