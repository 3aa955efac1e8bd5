/* A workflow out of a file: its text stays in this tab, over a reload too, and the daemon says what may be set in it. Nothing of it is kept there;
   what is sent in the end is the graph that the daemon has answered, so one of ComfyUI's page goes in API format. */

import { postText } from "./api.js";
import { tell, trouble } from "./says.js";
import { keep, stored } from "./stored.js";

const KEY = "comfytunnel.file";
const VALUES = "comfytunnel.file.values";

/** {name, text, info}; info is a Workflow as the API has it, with its graph, null until the daemon has told. */
export let file = null;
/** What was typed into its form, by parameter. */
export let values = {};

const told = text => postText("/v1/workflows/parameters", `{"workflow":${text}}`); // as it stands: every number is the file's own

/** What was open in this tab before it was loaded anew; `learn` asks what it is. */
export function restore() {
  const held = stored(sessionStorage, KEY);
  if (typeof held?.text !== "string") return;
  file = { name: String(held.name), text: held.text, info: null };
  values = stored(sessionStorage, VALUES) ?? {};
}

/** Open it; false, with the reason said, when it is nothing that could run. */
export async function open(given) {
  const text = await given.text();
  try {
    JSON.parse(text);
  } catch {
    tell(`${given.name} is no workflow.`, { bad: true, hint: "It takes a workflow, or a picture." });
    return false;
  }
  try {
    file = { name: given.name, text, info: await told(text) };
  } catch (error) {
    tell(`${given.name}: ${error.message}`, { bad: true, hint: error.hint });
    return false;
  }
  values = {};
  sessionStorage.removeItem(VALUES);
  keep(sessionStorage, KEY, { name: file.name, text });
  return true;
}

/** Ask again: a ComfyUI may have told of its nodes meanwhile. */
export async function learn() {
  const asked = file;
  try {
    const info = await told(asked.text);
    if (file === asked) file = { ...asked, info };
  } catch (error) {
    if (file !== asked || asked.info || error.status !== 422) return; // the daemon is away: asked again when it is back
    file = null;
    sessionStorage.removeItem(KEY);
    trouble(error);
  }
}

export function keepValues(now) {
  values = now;
  keep(sessionStorage, VALUES, now);
}
