// Two dialogs: the confirmation of an action, and the API key.

import { key } from "./api.js";
import { byId, setHidden, setText } from "./dom.js";

// Resolves to the entered text ("" without a text field), or to null if the dialog was cancelled.
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

// Resolves once a key was entered or forgotten. One dialog serves all callers.
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
  key.get() ? "This node does not accept this API key." : "This node requires an API key.";
