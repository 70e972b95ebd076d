// Two dialogs: the confirmation of an action, and the API key.

import { byId, setHidden, setText } from "../lib/dom.js";
import { key } from "../lib/key.js";

// Resolves to the entered text ("" without a text field), or to null if the dialog was cancelled.
export function question({ title, text, yes, withPrompt = false }) {
  const dialog = byId("ask-dialog");
  setText(byId("ask-title"), title);
  setText(byId("ask-text"), text);
  setText(byId("ask-yes"), yes);
  setText(byId("ask-problem"), "");
  setHidden(byId("ask-field"), !withPrompt);
  byId("ask-prompt").value = "";
  return new Promise((resolve) => {
    let answer = null;
    byId("ask-form").onsubmit = (event) => {
      event.preventDefault();
      const prompt = byId("ask-prompt").value;
      if (withPrompt && !prompt.trim()) {
        setText(byId("ask-problem"), "The prompt is empty: enter the text that requests begin with.");
        byId("ask-prompt").focus();
        return;
      }
      answer = prompt;
      dialog.close();
    };
    byId("ask-no").onclick = () => dialog.close();
    dialog.onclose = () => resolve(answer);
    dialog.showModal();
  });
}

let isDismissed = false; // closed without a key: opened again by the person only

// Opens the key dialog by itself, unless the person has closed it before.
export function offerKey() {
  if (!isDismissed) askForKey(keyProblem());
}

export function askForKey(problem = "") {
  const dialog = byId("key-dialog");
  setText(byId("key-problem"), problem);
  setText(byId("key-owner"), owner && !problem ? `In use: the key of “${owner}”.` : "");
  if (dialog.open) return;
  byId("key").value = key.get();
  byId("key-form").onsubmit = (event) => {
    event.preventDefault();
    isDismissed = false;
    dialog.close("entered");
    key.set(byId("key").value.trim());
  };
  byId("key-forget").onclick = () => {
    isDismissed = true;
    dialog.close("entered");
    key.forget();
  };
  byId("key-close").onclick = () => dialog.close("");
  dialog.onclose = () => {
    if (dialog.returnValue !== "entered") isDismissed = true;
    dialog.returnValue = "";
  };
  dialog.returnValue = "";
  dialog.showModal();
}

let owner = "";

// Shows the name under which the node knows the key in use; "" where the node wants none.
export function showOwner(name) {
  owner = name;
  setText(byId("key-button"), owner ? `API key: ${owner}` : "API key");
}

// A key that another tab entered closes the question for one.
export function closeKeyDialog() {
  const dialog = byId("key-dialog");
  if (dialog.open && byId("key-problem").textContent) dialog.close("entered");
}

export const keyProblem = () =>
  key.get() ? "This node does not accept this API key." : "This node requires an API key.";
