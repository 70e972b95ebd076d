// A streamed conversation with one model. A reload of the page keeps the conversation and all fields.

import { announce, byId, el, figures, isAvailable, keepEnd, setAvailable, setOptions } from "../lib/dom.js";
import { remember, save, saved } from "../lib/saved.js";
import { Answer } from "./answer.js";

const FIELDS = ["message", "playground-model", "temperature", "max-tokens", "seed", "system"];
const TRANSCRIPT = "transcript";

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
    for (const id of FIELDS) remember(byId(id));
    byId("system").closest("details").open = byId("system").value !== "";
    for (const turn of saved(TRANSCRIPT, [])) this.#say(turn);
    byId("transcript").scrollTop = byId("transcript").scrollHeight;
    addEventListener("pagehide", () => this.#save());
    byId("playground").addEventListener("submit", (event) => {
      event.preventDefault();
      if (isAvailable(byId("send"))) this.#send();
    });
    byId("message").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("playground").requestSubmit();
    });
    byId("stop").addEventListener("click", () => this.#stream?.abort());
    byId("new-chat").addEventListener("click", () => this.#forget());
  }

  offer(ids) {
    setOptions(byId("playground-model"), ids.map((id) => [id, id]), saved("playground-model", null));
  }

  #save() {
    save(TRANSCRIPT, this.#turns);
  }

  #forget() {
    this.#stream?.abort();
    this.#turns = [];
    this.#save();
    byId("transcript").replaceChildren();
    byId("message").focus();
  }

  #body() {
    const system = byId("system").value;
    const turns = this.#turns.filter((turn) => turn.counts).map(({ role, text }) => ({ role, content: text }));
    return {
      model: byId("playground-model").value,
      messages: [...(system ? [{ role: "system", content: system }] : []), ...turns],
      stream: true,
      stream_options: { include_usage: true },
      ...optional("temperature", byId("temperature").value),
      ...optional("max_tokens", byId("max-tokens").value),
      ...optional("seed", byId("seed").value),
    };
  }

  async #send() {
    const asked = { role: "user", speaker: "You", text: byId("message").value, counts: true };
    this.#say(asked);
    byId("message").value = "";
    save("message", "");
    const body = this.#body();
    const turn = { role: "assistant", speaker: body.model, thought: "", text: "", problem: "", counts: false };
    const answer = new Answer(turn, this.#say(turn), this.#set);
    byId("transcript").scrollTop = byId("transcript").scrollHeight;
    this.#stream = new AbortController();
    this.#busy(true);
    await answer.read(body, this.#stream.signal);
    this.#stream = null;
    this.#busy(false);
    // A message without an answer stays in sight, but is no part of the conversation.
    turn.counts = turn.text !== "";
    asked.counts = turn.counts;
    this.#save();
    announce(answer.summary);
  }

  // Shows a turn; returns the element of its words.
  #say(turn) {
    this.#turns.push(turn);
    const words = el("span", {});
    for (const [kind, text] of [["thought", turn.thought], ["text", turn.text], ["problem", turn.problem]]) {
      if (text) words.append(el("span", { class: kind }, text));
    }
    keepEnd(byId("transcript"), () => byId("transcript").append(el("div", { class: "turn" }, el("b", {}, turn.speaker), words)));
    return words;
  }

  #busy(busy) {
    setAvailable(byId("send"), !busy);
    setAvailable(byId("stop"), busy);
    byId("transcript").setAttribute("aria-busy", String(busy));
  }
}
