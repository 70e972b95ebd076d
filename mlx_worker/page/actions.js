// The actions of an operator on a model. An action that loses something asks for confirmation.

import { ask } from "./api.js";
import { askForKey, keyProblem, question } from "./dialogs.js";
import { toast } from "./dom.js";

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
    run: async (id, prompt) => {
      const response = await ask("POST", "cache/warm", { body: { model: id, system_prompt: prompt } });
      return (await response.json()).tokens;
    },
    done: (id, tokens) => `${id} keeps ${tokens} tokens in the prompt cache`,
  },
  clear: {
    label: "Clear",
    question: (id) => ({ title: `Clear the cache of ${id}?`, text: "All cached prompts are removed and have to be prefilled again.", yes: "Clear" }),
    run: (id) => ask("DELETE", `cache?model=${encodeURIComponent(id)}`),
    done: (id) => `the prompt cache of ${id} is empty`,
  },
};

export const offered = Object.entries(ACTIONS).map(([name, { label }]) => [name, label]);

export async function press(name, id, button) {
  const action = ACTIONS[name];
  const answer = action.question ? await question(action.question(id)) : "";
  if (answer === null) return;
  button.setAttribute("aria-busy", "true");
  try {
    toast(action.done(id, await action.run(id, answer)));
  } catch (error) {
    toast(`${action.label.replace("…", "")}: ${error.message}`, "bad");
    if (error.status === 401) askForKey(keyProblem());
  } finally {
    button.removeAttribute("aria-busy");
  }
}
