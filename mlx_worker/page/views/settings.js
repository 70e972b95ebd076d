// The configuration that the node runs with, read when the section is opened.

import { askJson } from "../lib/api.js";
import { byId, setHidden, setText } from "../lib/dom.js";
import { clock } from "../lib/format.js";

export function showConfiguration() {
  byId("settings").addEventListener("toggle", () => byId("settings").open && read());
}

async function read() {
  setText(byId("settings-note"), "Waiting for the node…");
  try {
    setText(byId("settings-text"), JSON.stringify(await askJson("GET", "admin/config"), null, 2));
    setHidden(byId("settings-text"), false);
    setText(byId("settings-note"), `As of ${clock(Date.now())}; open the section again for the newest.`);
  } catch (error) {
    setText(byId("settings-note"), `The configuration cannot be shown: ${error.message}`);
  }
}
