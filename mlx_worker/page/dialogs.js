// Two questions: is this meant, and with which key.

import { key } from "./api.js";
import { byId, setHidden, setText } from "./dom.js";

// Resolves to what was entered ("" where nothing could be), or null where it was left.
export function question({ title, text, yes, withPrompt = false }) {
  const dialog = byId("ask-dialog");
  setText(byId("ask-title"), title);
  setText(byId("ask-text"), text);
  setText(byId("ask-yes"), yes);
  setHidden(byId("ask-field"), !withPrompt);
  byId("ask-prompt").value = "";
  return new Promise((resolve) => {
    let answer = null;
    byId("ask-form").onsubmit = (event) => {
      event.preventDefault();
      answer = byId("ask-prompt").value;
      dialog.close();
    };
    byId("ask-no").onclick = () => dialog.close();
    dialog.onclose = () => resolve(answer);
    dialog.showModal();
  });
}

let asking = null;

// Resolves once a key was entered or forgotten. Asked once, however many need it.
export function askForKey(problem = "") {
  setText(byId("key-problem"), problem);
  asking ??= new Promise((resolve) => {
    const dialog = byId("key-dialog");
    byId("key").value = key.get();
    byId("key-form").onsubmit = (event) => {
      event.preventDefault();
      key.set(byId("key").value.trim());
      dialog.close();
    };
    byId("key-forget").onclick = () => {
      key.set("");
      dialog.close();
    };
    dialog.onclose = () => {
      asking = null;
      resolve();
    };
    dialog.showModal();
  });
  return asking;
}

export const keyProblem = () =>
  key.get() ? "This node does not know that key." : "This node asks for an API key.";
