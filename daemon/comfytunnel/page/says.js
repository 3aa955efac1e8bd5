/* Short messages at the foot of the page, read out too; they go by themselves, those about trouble later. */

import { el } from "./el.js";

const root = document.getElementById("says");
const CALM = 4000; // ms
const LONG = 12_000;
const MOST = 3;

document.addEventListener("close", () => document.body.append(root), true);

export function tell(text, { bad = false, hint = "", action = null } = {}) {
  const close = () => said.remove();
  const said = el(bad ? "div.said.bad" : "div.said", {},
    el("p", {}, text.replaceAll("`", ""), hint && el("span.hint", {}, ` ${hint.replaceAll("`", "")}`)),
    action && el("button.plain.small", { type: "button", onclick: () => { close(); action.run(); } }, action.name));
  const above = document.querySelector("dialog[open]") ?? document.body; // what lies outside a modal dialog is neither seen nor read
  if (root.parentElement !== above) above.append(root);
  root.append(said);
  while (root.children.length > MOST) root.firstElementChild.remove();
  if (!action?.stays) setTimeout(close, bad ? LONG : CALM);
}

export function trouble(error) {
  const errors = Object.values(error.details?.node_errors ?? {}).flat().map(each => each?.message).filter(text => typeof text === "string");
  tell(errors[0] ? `${error.message} ${errors[0]}` : error.message, { bad: true, hint: error.hint ?? "" });
}
