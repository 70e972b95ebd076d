// One card for each model: the state of its process, its work, its memory and its crashes.

import { bar, byId, el, figures, setHidden, setMood, setText } from "./dom.js";
import { bytes, clock, count, duration, percent, rate, seconds } from "./format.js";
import { moodOf } from "./moods.js";

const RESTING = new Set(["stopped", "failed"]);
const CRASHES_SHOWN = 4;

class Card {
  constructor(id, colour, act) {
    this.badge = el("span", { class: "badge", role: "status" });
    this.names = el("span", { class: "names" });
    this.why = el("p", { class: "why" });
    const list = el("dl", { class: "figures" });
    this.set = figures(list, [
      ["speed", "tokens/s", "Over the last five seconds"],
      ["first", "first token", "Mean time to the first token, over the last minute, else since the start"],
      ["running", "running", "Running generations, of the decode slots"],
      ["queued", "queued", "Generations that wait for a decode slot"],
      ["hits", "cache hits", "Requests whose system prompt was in the prompt cache"],
      ["restarts", "restarts", "Restarts of the model's process"],
      ["pid", "pid", "Process id of the model"],
      ["uptime", "uptime", "Time since the model was loaded"],
    ]);
    const bars = el("div", { class: "bars" });
    this.loading = bar(bars, "Loading");
    this.loadingBar = bars.lastChild;
    this.memory = bar(bars, "Memory, of the node’s limit");
    this.kv = bar(bars, "KV of running rows");
    this.cache = bar(bars, "Prompt cache");
    this.crashes = el("ol", { class: "crashes", "aria-label": `Crashes of ${id}` });
    this.buttons = {};
    const buttons = el("div", { class: "buttons" });
    for (const [name, label] of act.offered) {
      const press = () => act.press(name, id, this.buttons[name]);
      this.buttons[name] = el("button", { type: "button", "aria-label": `${label} ${id}`, onclick: press }, label);
      buttons.append(this.buttons[name]);
    }
    const top = el("div", { class: "top" }, el("h3", {}, id), this.badge, this.names);
    this.element = el("article", { class: "card", "aria-label": id, "data-model": id }, top, this.why, list, bars, this.crashes, buttons);
    this.element.style.setProperty("--own", colour);
  }

  show(id, health, more, report, rates) {
    const ready = health.state === "ready";
    setText(this.badge, health.state);
    setMood(this.badge, ready ? moodOf(health.status) : moodOf(health.state));
    setText(this.names, [more.isDefault ? "default" : "", ...more.aliases].filter(Boolean).join(", "));
    this.#explain(health, ready);
    this.set("speed", rate(rates.speed(id)));
    this.set("first", seconds(rates.firstToken(id)));
    this.set("running", `${health.running}/${more.maxConcurrency}`);
    this.set("queued", count(health.queueDepth));
    this.set("hits", percent(health.metrics.cacheHitRate));
    this.set("restarts", count(health.restarts));
    this.set("pid", health.pid ?? "–");
    this.set("uptime", ready && health.enteredAt.ready ? duration(report.at - health.enteredAt.ready) : "–");
    this.#fill(health, more, report);
    this.#allow(health.state, health.pid !== null);
  }

  #explain(health, ready) {
    const { reason, last_exit: exit } = health;
    const last = exit ? `Last exit at ${clock(exit.at)}: ${exit.how}` : "";
    const why = ready ? "" : reason || last;
    setText(this.why, why);
    setHidden(this.why, !why);
    setMood(this.why, moodOf(health.state));
  }

  #fill(health, more, report) {
    const { loading, memory } = health;
    setHidden(this.loadingBar, !loading);
    if (loading) this.loading(loading.done, loading.total, `${bytes(loading.done)} of ${bytes(loading.total)}`);
    const limit = report.health.memory.limitBytes;
    const resident = memory.residentBytes;
    this.memory(resident ?? 0, limit, resident === null ? `none; ${bytes(memory.expectedBytes)} expected` : bytes(resident));
    this.kv(more.kvBytes, memory.kvBudgetBytes, `${bytes(more.kvBytes)} of ${bytes(memory.kvBudgetBytes)}`);
    const entries = `${count(more.cacheEntries)} kept, ${count(more.cacheWarmed)} warmed`;
    this.cache(more.cacheBytes, more.cacheLimitBytes, `${bytes(more.cacheBytes)} of ${bytes(more.cacheLimitBytes)} · ${entries}`);
  }

  #allow(state, hasProcess) {
    const { load, unload, restart, warm, clear } = this.buttons;
    load.disabled = !RESTING.has(state);
    unload.disabled = !hasProcess;
    restart.disabled = state === "stopped";
    warm.disabled = state === "failed";
    clear.disabled = state !== "ready";
  }

  crashed(event) {
    const { cause, signal, uptime_s: uptime, in_flight: lost } = event.facts;
    const after = `after ${duration(uptime * 1000)}`;
    const with_ = lost.length ? `, ${lost.length} in flight` : "";
    const what = `${cause}${signal && !cause.includes(signal) ? ` (${signal})` : ""} ${after}${with_}`;
    this.crashes.prepend(el("li", {}, el("time", {}, clock(event.at)), what));
    if (this.crashes.children.length > CRASHES_SHOWN) this.crashes.lastChild.remove();
  }
}

export class Models {
  #cards = new Map();
  #act;

  constructor(act) {
    this.#act = act;
  }

  show(report, rates) {
    const ids = Object.keys(report.models);
    ids.forEach((id, index) => {
      this.#card(id, index).show(id, report.health.models[id], report.models[id], report, rates);
    });
    for (const [id, card] of this.#cards) {
      if (ids.includes(id)) continue;
      card.element.remove();
      this.#cards.delete(id);
    }
  }

  #card(id, index) {
    let card = this.#cards.get(id);
    if (!card) {
      card = new Card(id, colourOf(index), this.#act);
      this.#cards.set(id, card);
      byId("models").append(card.element);
    }
    return card;
  }

  crashed(event) {
    this.#cards.get(event.model)?.crashed(event);
  }
}

export const colourOf = (index) => `var(--m${index % 6})`;
