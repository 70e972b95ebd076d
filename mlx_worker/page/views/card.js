// One model in the table: a line with the main figures, and all figures and buttons behind the line.

import { announce, bar, el, figures, isAvailable, setAvailable, setHidden, setMood, setText } from "../lib/dom.js";
import { NONE, bytes, clock, count, duration, percent, rate, seconds, share, timeOfDay } from "../lib/format.js";
import { moodOf } from "../lib/moods.js";
import { save, saved } from "../lib/saved.js";
import { colourOf, numberOf } from "../lib/series.js";

const RESTING = new Set(["stopped", "failed"]);
const ANNOUNCED = new Set(["ready", "failed", "stopped", "backoff"]);
const COLUMNS = 10;
const CRASHES_SHOWN = 4;
const LATENCIES = [["firstToken", "first token"], ["interToken", "between tokens"], ["endToEnd", "whole request"]];
const QUANTILES = ["p50", "p95", "p99"];

export class Card {
  #state = null;

  constructor(id, index, act) {
    this.id = id;
    this.badge = el("span", { class: "badge" });
    this.cells = Object.fromEntries(["speed", "first", "running", "queued", "memory", "cached", "restarts"].map((name) => [name, el("td", { class: "number" }, NONE)]));
    for (const name of ["first", "running", "memory"]) this.cells[name].classList.add("at-600");
    this.cells.queued.classList.add("at-800");
    for (const name of ["cached", "restarts"]) this.cells[name].classList.add("at-1000");
    this.buttons = Object.fromEntries(act.offered.map(([name, label]) => [name, this.#button(name, label, act)]));
    const { load, ...others } = this.buttons;
    load.classList.add("fleeting");
    const number = el("span", { class: "series", "aria-hidden": "true" }, numberOf(index));
    this.fold = el("button", { type: "button", class: "fold", "aria-expanded": "false", onclick: () => this.#toggle() }, id);
    this.names = el("span", { class: "names" });
    const line = el("tr", {}, el("th", { scope: "row" }, number, this.fold, this.names), el("td", {}, this.badge), ...Object.values(this.cells), el("td", { class: "act" }, load));
    this.why = el("td", { colSpan: COLUMNS, class: "why" });
    this.whyLine = el("tr", { hidden: true }, this.why);
    this.more = el("tr", { hidden: true, class: "more" }, el("td", { colSpan: COLUMNS }, ...this.#details(), el("div", { class: "buttons" }, ...Object.values(others))));
    this.element = el("tbody", { "data-model": id }, line, this.whyLine, this.more);
    this.element.style.setProperty("--own", colourOf(index));
  }

  #button(name, label, act) {
    const button = el("button", { type: "button", "aria-label": `${label} ${this.id}` }, label);
    button.addEventListener("click", () => {
      if (isAvailable(button)) act.press(name, this.id, button);
      else announce(`${label} is not possible: ${this.id} is ${this.#state}`);
    });
    return button;
  }

  #details() {
    const list = el("dl", { class: "figures" }); // what the line has no column for, at this width
    this.set = figures(list, [
      ["first", "first token", "Mean time to the first token, over the last minute, else since the start", "to-600"],
      ["running", "running", "Running generations, of the decode slots", "to-600"],
      ["queued", "queued", "Generations that wait for a decode slot", "to-800"],
      ["cached", "prompt cached", "Prompt tokens that the prompt cache had, of all prompt tokens", "to-1000"],
      ["restarts", "restarts", "Restarts of the model's process", "to-1000"],
      ["prefill", "prefill tokens/s", "Prompt tokens read per second"],
      ["peak", "most running", "The most generations that ran at once in the last ten seconds"],
      ["disk", "prompt from disk", "Prompt tokens that were read from disk instead of being prefilled, of all prompt tokens"],
      ["sources", "from memory, disk", "Requests with cached prompt tokens, by where the tokens came from"],
      ["saved", "prefill saved", "Time of prefill that KV on disk has saved, less the time of reading it"],
      ["heads", "system prompts hit", "Requests whose system prompt was in the prompt cache"],
      ["requests", "requests", "Since the node was started"],
      ["pid", "pid", "Process id of the model"],
      ["uptime", "uptime", "Time since the model was loaded"],
    ]);
    const bars = el("div", { class: "bars" });
    this.loading = bar(bars, "Loading");
    this.loadingBar = bars.lastChild;
    this.memory = bar(bars, "Memory, of the node’s limit");
    this.kv = bar(bars, "KV of running rows");
    this.cache = bar(bars, "Prompt cache");
    this.disk = bar(bars, "KV on disk");
    this.diskOff = el("p", { class: "note", hidden: true });
    bars.append(this.diskOff);
    this.crashes = el("ol", { class: "crashes", "aria-label": `Crashes of ${this.id}` });
    return [list, el("div", { class: "halves" }, bars, this.#latencies()), this.crashes];
  }

  #latencies() {
    this.latency = Object.fromEntries(LATENCIES.map(([name]) => [name, QUANTILES.map(() => el("td", { class: "number" }, NONE))]));
    const head = el("tr", {}, el("td"), ...["median", "95th", "99th"].map((name) => el("th", { scope: "col", class: "number" }, name)));
    const rows = LATENCIES.map(([name, label]) => el("tr", {}, el("th", { scope: "row" }, label), ...this.latency[name]));
    return el("table", { class: "latency" }, el("caption", { class: "hidden" }, `Latency of ${this.id}, percentiles`), el("thead", {}, head), el("tbody", {}, ...rows));
  }

  #toggle() {
    this.open(this.more.hidden);
    save(`open-${this.id}`, !this.more.hidden);
  }

  open(isOpen) {
    setHidden(this.more, !isOpen);
    this.fold.setAttribute("aria-expanded", String(isOpen));
  }

  // Opens the details at first as the person left them, else where there is room and work.
  begin(hasRoom, state) {
    this.open(saved(`open-${this.id}`, hasRoom && state !== "stopped"));
  }

  show(health, more, report, rates) {
    const { state } = health;
    const mood = state === "ready" ? moodOf(health.status) : moodOf(state);
    this.mood = mood;
    setText(this.badge, state);
    setMood(this.badge, mood);
    if (this.#state !== null && this.#state !== state && ANNOUNCED.has(state)) announce(`${this.id}: ${state}`);
    this.#state = state;
    setText(this.names, [more.isDefault ? "default" : "", ...more.aliases].filter(Boolean).join(", "));
    this.#explain(health, more, mood);
    const figures = this.#figures(health, more, report, rates);
    for (const [name, text] of Object.entries(figures)) if (name !== "speed") this.set(name, text);
    const hasProcess = health.pid !== null;
    const resident = health.memory.residentBytes;
    for (const [name, cell] of Object.entries(this.cells)) setText(cell, hasProcess || name === "restarts" ? (figures[name] ?? bytes(resident)) : NONE);
    this.#fill(health, more, report);
    this.#allow(state, hasProcess);
  }

  #figures(health, more, report, rates) {
    const { id } = this;
    const isUp = health.state === "ready" && health.enteredAt.ready;
    return {
      speed: rate(rates.speed(id)),
      prefill: rate(more.prefillTokensPerSecond),
      first: seconds(rates.firstToken(id)),
      running: `${health.running}/${more.maxConcurrency}`,
      peak: count(more.runningPeak),
      queued: count(health.queueDepth),
      cached: share(more.cachedTokens, more.promptTokens),
      disk: share(more.diskTokens, more.promptTokens),
      sources: `${count(more.memoryHits)}, ${count(more.diskHits)}`,
      saved: more.disk.enabled ? duration(1000 * more.disk.secondsSaved) : NONE,
      heads: percent(health.metrics.cacheHitRate),
      requests: count(health.metrics.totalRequests),
      restarts: count(health.restarts),
      pid: health.pid ?? NONE,
      uptime: isUp ? duration(report.at - health.enteredAt.ready) : NONE,
    };
  }

  #explain(health, more, mood) {
    const why = reasonOf(health, more);
    setText(this.why, why);
    setHidden(this.whyLine, !why);
    setMood(this.why, mood);
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
    const { disk } = more;
    this.disk(disk.bytes, disk.capacity, disk.enabled ? `${bytes(disk.bytes)} of ${bytes(disk.capacity)} · ${count(disk.records)} records` : "off");
    setText(this.diskOff, disk.off && `KV on disk is off: ${disk.off}`);
    setHidden(this.diskOff, !disk.off);
    for (const [name, cells] of Object.entries(this.latency)) {
      QUANTILES.forEach((quantile, place) => setText(cells[place], seconds(more.latency?.[name][quantile])));
    }
  }

  #allow(state, hasProcess) {
    const { load, unload, restart, warm, clear } = this.buttons;
    setAvailable(load, RESTING.has(state));
    setAvailable(unload, hasProcess);
    setAvailable(restart, state !== "stopped");
    setAvailable(warm, state !== "failed");
    setAvailable(clear, state === "ready" || state === "stopped"); // a stopped model has KV on disk
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

// Returns why a model does not run as it should, and what happens next; "" if all is well.
function reasonOf(health, more) {
  if (health.state === "ready") return health.status === "healthy" ? "" : health.reason;
  if (health.state === "stopped") return "";
  const cause = health.reason.split("; next try in")[0];
  const { last_exit: exit, nextTry } = health;
  const parts = [cause, !cause && exit ? `last exit at ${clock(exit.at)}: ${exit.how}` : ""];
  if (health.state === "failed") parts.unshift(more.deaths > 1 ? `given up after ${more.deaths} ends` : "given up");
  if (nextTry) parts.push(`next try at ${timeOfDay(nextTry)}`);
  if (health.state === "failed") parts.push("Load tries again at once");
  return parts.filter(Boolean).join("; ");
}
