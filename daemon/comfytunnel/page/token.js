/* The token of the config: asked for when the daemon wants one, kept for this tab alone. */

import { setToken } from "./api.js";
import { el, fill, say } from "./el.js";
import { go } from "./live.js";

const root = document.getElementById("token");
const input = el("input", { type: "password", id: "token-input", autocomplete: "current-password", required: true });
const wrong = el("p.why", { role: "alert" });
let asked = false;

export function begin() {
  const form = el("form", { method: "dialog" },
    el("h2", { id: "token-title" }, "The token, please"),
    el("p.quiet", {}, "This port wants the token that the config names under [web]. It is kept until this tab is closed."),
    el("input", { type: "text", autocomplete: "username", value: "comfytunnel", hidden: true }), // for who keeps it in a password manager
    el("label", { htmlFor: "token-input" }, "Token"), input, wrong,
    el("button.main", { type: "submit" }, "Open"));
  form.addEventListener("submit", event => {
    event.preventDefault();
    setToken(input.value.trim());
    asked = true;
    root.close();
    go();
  });
  root.addEventListener("cancel", event => event.preventDefault()); // there is nothing behind it to go back to
  fill(root, form);
}

export function ask() {
  say(wrong, asked ? "That is not the token of the config." : "");
  if (!root.open) root.showModal();
  input.select();
}
