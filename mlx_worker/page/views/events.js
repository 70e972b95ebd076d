// The latest events as sentences. Problems stay listed longer than all other events.

import { byId, el } from "../lib/dom.js";
import { clock } from "../lib/format.js";
import { moodOfEvent } from "../lib/moods.js";
import { remember, saved } from "../lib/saved.js";

const SHOWN = 200;
const PROBLEMS_SHOWN = 100;

const SENTENCES = {
  state: ({ was, now, reason }) => `${was} → ${now}${reason ? `: ${reason}` : ""}`,
  crash: ({ cause, pid, in_flight: lost }) => `${cause} (pid ${pid}), ${lost.length ? `in flight: ${lost.join(", ")}` : "nothing in flight"}`,
  resume: ({ request_id: id, after_tokens: tokens }) => `${id} continues after ${tokens} tokens`,
  poison: ({ request_id: id, crashes }) => `${id} was in flight at ${crashes} crashes and is refused`,
  "weights changed": ({ request_id: id, was, now }) => `${id} was started with ${was}, but the model is now ${now}: the request ends with an error`,
  "package replaced": ({ node, process, cure }) => `the process runs mlx-worker ${process}, the node ${node}: ${cure}`,
  evict: ({ by }) => `unloaded to free memory for ${by}`,
  "no room": ({ why }) => why,
  drain: ({ within_s: within }) => `the node drains within ${within} s`,
  pause: ({ seconds }) => `the node and its processes did not run for ${seconds} s`,
  "loop held": ({ path, ms }) => `the event loop was held up for ${Math.round(ms)} ms by ${path}`,
  outage: ({ seconds, reasons }) => `no model could be served for ${seconds} s: ${Object.entries(reasons).map(([id, why]) => `${id}: ${why}`).join("; ")}`,
  folder: ({ warning }) => warning,
  level: ({ shown_from: level }) => `log level set to ${level}`,
};

const listed = (facts) => Object.entries(facts).map(([name, value]) => `${name}: ${JSON.stringify(value)}`).join(", ");

export class Events {
  #list = byId("events");
  #added = []; // elements of this moment, the newest first: added together

  constructor() {
    for (const id of ["events-of", "events-filter"]) remember(byId(id));
    byId("events-of").value = saved("events-of", "");
    byId("events-of").addEventListener("change", () => this.#filter());
    byId("events-filter").addEventListener("input", () => this.#filter());
  }

  add(event) {
    const item = elementOf(event);
    item.hidden = !this.#isWanted(item);
    if (this.#added.unshift(item) === 1) requestAnimationFrame(() => this.#flush());
  }

  clear() {
    this.#added = [];
    this.#list.replaceChildren();
  }

  // Adds above what is in sight, and does not move what a person reads further down.
  #flush() {
    const before = this.#list.scrollHeight;
    const { scrollTop } = this.#list;
    this.#list.prepend(...this.#added.splice(0));
    this.#trim(':not([data-mood="bad"])', SHOWN);
    this.#trim('[data-mood="bad"]', PROBLEMS_SHOWN);
    if (scrollTop > 0) this.#list.scrollTop = scrollTop + this.#list.scrollHeight - before;
  }

  #trim(kind, most) {
    const items = this.#list.querySelectorAll(`:scope > li${kind}`);
    for (let place = most; place < items.length; place += 1) items[place].remove();
  }

  #filter() {
    for (const item of this.#list.children) item.hidden = !this.#isWanted(item);
  }

  #isWanted(item) {
    const of = byId("events-of").value;
    if (of === "bad" && item.dataset.mood !== "bad") return false;
    if (of === "state" && item.dataset.kind !== "state") return false;
    return item.textContent.toLowerCase().includes(byId("events-filter").value.trim().toLowerCase());
  }
}

function elementOf(event) {
  const { lines = [], ...facts } = event.facts;
  const sentence = (SENTENCES[event.kind] ?? listed)(facts);
  const what = el("div", { class: "what" }, event.model ? el("b", {}, `${event.model} `) : "", sentence);
  if (lines.length) {
    const label = `Last lines of ${event.model}, ${clock(event.at)}`;
    const text = el("pre", { tabindex: "0", role: "region", "aria-label": label }, lines.join("\n"));
    what.append(el("details", {}, el("summary", {}, "last lines of stderr"), text));
  }
  return el("li", { "data-mood": moodOfEvent(event), "data-kind": event.kind }, el("time", {}, clock(event.at)), el("b", {}, event.kind), what);
}
