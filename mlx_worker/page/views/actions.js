// The actions of an operator on a model. An action that loses something asks for confirmation.

import { ask, askJson } from "../lib/api.js";
import { toast } from "../lib/dom.js";
import { askForKey, keyProblem, question } from "./dialogs.js";

const PREFILL_PATIENCE = 300000; // ms: a long prompt on a slow machine

const of = (id, verb) => `admin/models/${encodeURIComponent(id)}/${verb}`;

const ACTIONS = {
  load: {
    label: "Load",
    run: (id) => ask("POST", of(id, "load")),
    done: (id) => `${id} is being loaded`,
  },
  unload: {
    label: "Unload",
    question: (id) => ({ title: `Unload ${id}?`, text: "The model's process ends and its memory is freed. The next request loads the model again.", yes: "Unload" }),
    run: (id) => ask("POST", of(id, "unload")),
    done: (id) => `${id} is being unloaded`,
  },
  restart: {
    label: "Restart",
    question: (id) => ({ title: `Restart ${id}?`, text: "Running generations may finish; those that take too long continue in the new process.", yes: "Restart" }),
    run: (id) => ask("POST", of(id, "restart")),
    done: (id) => `${id} is being restarted`,
  },
  warm: {
    label: "Warm…",
    question: (id) => ({ title: `Warm ${id}`, text: "The prompt is prefilled now and kept in the prompt cache. Requests that begin with this prompt then start at once.", yes: "Warm", withPrompt: true }),
    run: async (id, prompt) =>
      (await askJson("POST", "cache/warm", { body: { model: id, system_prompt: prompt }, within: PREFILL_PATIENCE })).tokens,
    done: (id, tokens) => `${id} keeps ${tokens} tokens in the prompt cache`,
  },
  clear: {
    label: "Clear",
    question: (id) => ({ title: `Clear the cache of ${id}?`, text: "All cached prompts are removed, in memory and on disk, and have to be prefilled again.", yes: "Clear" }),
    run: (id) => ask("DELETE", `cache?model=${encodeURIComponent(id)}`),
    done: (id) => `the prompt cache of ${id} is empty, in memory and on disk`,
  },
};

export const offered = Object.entries(ACTIONS).map(([name, { label }]) => [name, label]);

export async function press(name, id, button) {
  const action = ACTIONS[name];
  const answer = action.question ? await question(action.question(id)) : "";
  if (answer === null) return;
  await act(action.label.replace("…", ""), button, async () => action.done(id, await action.run(id, answer)));
}

// Does what a button asks of the node, and says at once that the node was asked, then how it went.
export async function act(label, button, run) {
  button.setAttribute("aria-busy", "true");
  toast(`${label}: waiting for the node…`, "rest");
  try {
    toast(await run());
  } catch (error) {
    toast(`${label}: ${error.message}`, "bad");
    if (error.status === 401) askForKey(keyProblem());
  } finally {
    button.removeAttribute("aria-busy");
  }
}
