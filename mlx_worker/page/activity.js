// The latest events as sentences, and the log as lines are written.

import { byId, el, setOptions } from "./dom.js";
import { clock } from "./format.js";
import { follow } from "./follow.js";
import { moodOfEvent } from "./moods.js";

const EVENTS_SHOWN = 200;
const LINES_SHOWN = 400;

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
  folder: ({ warning }) => warning,
  level: ({ shown_from: level }) => `log level set to ${level}`,
};

const listed = (facts) => Object.entries(facts).map(([name, value]) => `${name}: ${JSON.stringify(value)}`).join(", ");

export function showEvent(event) {
  const { lines = [], ...facts } = event.facts;
  const sentence = (SENTENCES[event.kind] ?? listed)(facts);
  const what = el("div", { class: "what" }, event.model ? el("b", {}, `${event.model} `) : "", sentence);
  if (lines.length) {
    what.append(el("details", {}, el("summary", {}, "last lines of stderr"), el("pre", {}, lines.join("\n"))));
  }
  const list = byId("events");
  list.prepend(el("li", { "data-mood": moodOfEvent(event) }, el("time", {}, clock(event.at)), el("b", {}, event.kind), what));
  if (list.children.length > EVENTS_SHOWN) list.lastChild.remove();
}

export class Log {
  #end = () => {};
  #last = 0;

  constructor() {
    byId("log-of").addEventListener("change", () => this.read());
  }

  offer(ids) {
    setOptions(byId("log-of"), [["", "the node"], ...ids.map((id) => [id, id])]);
  }

  read() {
    this.#end();
    this.#last = 0;
    byId("log").replaceChildren();
    const model = byId("log-of").value;
    const of = model ? `&model=${encodeURIComponent(model)}` : "";
    this.#end = follow(() => `admin/logs/stream?after=${this.#last}${of}`, {
      event: ({ id, data }) => {
        this.#last = Number(id);
        this.#show(JSON.parse(data));
      },
    });
  }

  #show({ at, level, text }) {
    const log = byId("log");
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 30;
    log.append(el("span", { class: level }, `${clock(at)} ${text}\n`));
    if (log.children.length > LINES_SHOWN) log.firstChild.remove();
    if (atEnd) log.scrollTop = log.scrollHeight;
  }
}
