/* The page begins here: each part is started once, then the connections. Parts know the model, not each other. */

import * as form from "./form.js";
import * as gallery from "./gallery.js";
import * as live from "./live.js";
import { model, on } from "./model.js";
import * as outages from "./outages.js";
import * as queue from "./queue.js";
import { tell } from "./says.js";
import * as token from "./token.js";
import * as tunnel from "./tunnel.js";
import * as viewer from "./viewer.js";

for (const part of [tunnel, outages, form, queue, gallery, viewer, token]) part.begin();

let version;
on(["status"], () => {
  const now = model.status?.version;
  if (version && now && now !== version) {
    tell(`comfytunnel ${now} runs now; this page is of ${version}.`, { action: { name: "Reload", stays: true, run: () => location.reload() } });
  }
  version = now ?? version;
});

live.begin(token.ask);
