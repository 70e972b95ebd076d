// What an operator may do to a model. Each asks first where something is lost by it.

import { ask } from "./api.js";
import { askForKey, keyProblem, question } from "./dialogs.js";
import { toast } from "./dom.js";

const of = (id, verb) => `admin/models/${encodeURIComponent(id)}/${verb}`;

const ACTIONS = {
  load: {
    label: "Load",
    run: (id) => ask("POST", of(id, "load")),
    done: (id) => `${id} is on its way`,
  },
  unload: {
    label: "Unload",
    question: (id) => ({ title: `Unload ${id}?`, text: "Its process ends and its memory is free; the next request loads it again.", yes: "Unload" }),
    run: (id) => ask("POST", of(id, "unload")),
    done: (id) => `${id} leaves`,
  },
  restart: {
    label: "Restart",
    question: (id) => ({ title: `Restart ${id}?`, text: "What runs may finish; what takes too long goes on in the new process.", yes: "Restart" }),
    run: (id) => ask("POST", of(id, "restart")),
    done: (id) => `${id} gets a new process`,
  },
  warm: {
    label: "Warm…",
    question: (id) => ({ title: `Warm ${id}`, text: "The prompt is read now and kept, so that requests that begin with it start at once.", yes: "Warm", withPrompt: true }),
    run: async (id, prompt) => {
      const response = await ask("POST", "cache/warm", { body: { model: id, system_prompt: prompt } });
      return (await response.json()).tokens;
    },
    done: (id, tokens) => `${id} keeps ${tokens} tokens`,
  },
  clear: {
    label: "Clear",
    question: (id) => ({ title: `Clear the cache of ${id}?`, text: "Every cached prompt is forgotten and will be read again.", yes: "Clear" }),
    run: (id) => ask("DELETE", `cache?model=${encodeURIComponent(id)}`),
    done: (id) => `${id} has forgotten its prompts`,
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
