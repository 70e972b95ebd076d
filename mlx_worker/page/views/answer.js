// One streamed answer of the playground, and its figures.

import { ask, events } from "../lib/api.js";
import { byId, el, keepEnd } from "../lib/dom.js";
import { NONE, rate, seconds } from "../lib/format.js";
import { askForKey, keyProblem } from "./dialogs.js";

export class Answer {
  summary = "";
  #turn;
  #words;
  #set;
  #sent = performance.now();
  #first = null;
  #pieces = 0;

  // `turn` collects the text; `words` is the element that shows the text; `set` sets a figure.
  constructor(turn, words, set) {
    this.#turn = turn;
    this.#words = words;
    this.#set = set;
    for (const name of ["first", "speed", "tokens", "cached", "seed", "finish"]) set(name, NONE);
  }

  // Reads the answer to its end, whatever the end is.
  async read(body, signal) {
    try {
      await this.#stream(body, signal);
      this.summary = `The answer of ${this.#turn.speaker} is complete`;
    } catch (error) {
      if (error.name === "AbortError") {
        this.#set("finish", "you");
        this.summary = "The answer was stopped";
      } else {
        this.#fail(error);
      }
    }
  }

  async #stream(body, signal) {
    const response = await ask("POST", "v1/chat/completions", { body, signal, within: 0 });
    for await (const { data } of events(response)) {
      if (data === undefined) continue;
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
      this.#add(delta.content, "text");
      if (finish) this.#set("finish", finish);
    }
    if (usage) this.#count(usage);
  }

  #add(piece, kind) {
    if (!piece) return;
    if (this.#first === null) {
      this.#first = performance.now();
      this.#set("first", seconds((this.#first - this.#sent) / 1000));
    }
    this.#turn[kind] += piece;
    this.#pieces += 1;
    this.#speed(this.#pieces);
    keepEnd(byId("transcript"), () => this.#append(piece, kind));
  }

  #append(piece, kind) {
    const last = this.#words.lastChild;
    if (last?.className === kind) last.append(piece);
    else this.#words.append(el("span", { class: kind }, piece));
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

  #fail(error) {
    this.#turn.problem = `${this.#turn.text ? " " : ""}${error.message}`;
    keepEnd(byId("transcript"), () => this.#append(this.#turn.problem, "problem"));
    this.#set("finish", "an error");
    this.summary = `The answer failed: ${error.message}`;
    if (error.status === 401) askForKey(keyProblem());
  }
}
