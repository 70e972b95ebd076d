// A streamed conversation with one model, and its figures.

import { ask, events } from "./api.js";
import { askForKey, keyProblem } from "./dialogs.js";
import { byId, el, figures, setOptions } from "./dom.js";
import { rate, seconds } from "./format.js";

const optional = (name, value) => (value === "" ? {} : { [name]: Number(value) });

export class Playground {
  #turns = [];
  #stream = null;
  #set = figures(byId("measures"), [
    ["first", "first token"],
    ["speed", "tokens/s"],
    ["tokens", "tokens"],
    ["cached", "prompt tokens cached"],
    ["seed", "seed"],
    ["finish", "ended by"],
  ]);

  constructor() {
    byId("playground").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    byId("message").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("playground").requestSubmit();
    });
    byId("stop").addEventListener("click", () => this.#stream?.abort());
    byId("new-chat").addEventListener("click", () => this.#forget());
  }

  offer(ids) {
    setOptions(byId("playground-model"), ids.map((id) => [id, id]));
  }

  #forget() {
    this.#stream?.abort();
    this.#turns = [];
    byId("transcript").replaceChildren();
    byId("message").focus();
  }

  #body() {
    const system = byId("system").value;
    return {
      model: byId("playground-model").value,
      messages: [...(system ? [{ role: "system", content: system }] : []), ...this.#turns],
      stream: true,
      stream_options: { include_usage: true },
      ...optional("temperature", byId("temperature").value),
      ...optional("max_tokens", byId("max-tokens").value),
      ...optional("seed", byId("seed").value),
    };
  }

  async #send() {
    if (this.#stream) return;
    const text = byId("message").value;
    const turns = this.#turns;
    turns.push({ role: "user", content: text });
    this.#say("You", text);
    byId("message").value = "";
    const answer = new Answer(this.#say(byId("playground-model").value, ""), this.#set);
    this.#stream = new AbortController();
    this.#busy(true);
    try {
      await answer.read(this.#body(), this.#stream.signal);
    } catch (error) {
      if (error.name === "AbortError") answer.stopped();
      else answer.failed(error);
    } finally {
      this.#stream = null;
      this.#busy(false);
    }
    if (answer.text) turns.push({ role: "assistant", content: answer.text });
    else turns.pop(); // a message without an answer is removed from the conversation
  }

  #say(speaker, text) {
    const words = el("span", {}, text);
    const transcript = byId("transcript");
    transcript.append(el("div", { class: "turn" }, el("b", {}, speaker), words));
    transcript.scrollTop = transcript.scrollHeight;
    return words;
  }

  #busy(busy) {
    byId("send").disabled = busy;
    byId("stop").disabled = !busy;
    byId("transcript").setAttribute("aria-busy", String(busy));
  }
}

class Answer {
  text = "";
  #words;
  #set;
  #sent = performance.now();
  #first = null;
  #pieces = 0;

  constructor(words, set) {
    this.#words = words;
    this.#set = set;
    for (const name of ["first", "speed", "tokens", "cached", "seed", "finish"]) set(name, "–");
  }

  async read(body, signal) {
    const response = await ask("POST", "v1/chat/completions", { body, signal });
    for await (const { data } of events(response)) {
      if (data === "[DONE]") return;
      this.#onChunk(JSON.parse(data));
    }
    throw new Error("the stream ended early");
  }

  #onChunk({ error, seed, choices = [], usage }) {
    if (error) throw new Error(error.message);
    if (seed !== undefined) this.#set("seed", seed);
    for (const { delta, finish_reason: finish } of choices) {
      this.#add(delta.reasoning_content, "thought");
      this.#add(delta.content, "");
      if (delta.content) this.text += delta.content;
      if (finish) this.#set("finish", finish);
    }
    if (usage) this.#count(usage);
  }

  #add(piece, look) {
    if (!piece) return;
    if (this.#first === null) {
      this.#first = performance.now();
      this.#set("first", seconds((this.#first - this.#sent) / 1000));
    }
    this.#pieces += 1;
    this.#speed(this.#pieces);
    const last = this.#words.lastChild;
    if (last?.className === look) last.append(piece);
    else this.#words.append(el("span", look ? { class: look } : {}, piece));
    const transcript = byId("transcript");
    transcript.scrollTop = transcript.scrollHeight;
  }

  // Tokens after the first one per second; pieces count as tokens until the usage is known.
  #speed(tokens) {
    const passed = (performance.now() - this.#first) / 1000;
    if (tokens > 1 && passed > 0) this.#set("speed", rate((tokens - 1) / passed));
  }

  #count({ prompt_tokens: prompt, completion_tokens: completion, prompt_tokens_details: details }) {
    this.#set("tokens", `${prompt} + ${completion}`);
    this.#set("cached", `${details?.cached_tokens ?? 0} of ${prompt}`);
    if (this.#first !== null) this.#speed(completion);
  }

  stopped() {
    this.#set("finish", "you");
  }

  failed(error) {
    this.#words.append(el("span", { class: "problem" }, `${this.text ? " " : ""}${error.message}`));
    this.#set("finish", "an error");
    if (error.status === 401) askForKey(keyProblem());
  }
}
