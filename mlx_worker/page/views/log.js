// The log of the node or of one model, as lines are written, filtered by level and text.

import { byId, el, keepEnd, setOptions } from "../lib/dom.js";
import { clock } from "../lib/format.js";
import { remember, saved } from "../lib/saved.js";

const LINES_SHOWN = 400;
const WANTED = { "": null, warning: new Set(["warning", "error", "critical"]), error: new Set(["error", "critical"]) };

export class Log {
  #last = 0;
  #of = saved("log-of", "*");
  #element = byId("log");
  #added = [];

  // `restart` begins the stream anew, with this view's `query`.
  constructor(restart) {
    for (const id of ["log-of", "log-level", "log-filter"]) remember(byId(id));
    byId("log-level").value = saved("log-level", "");
    byId("log-of").addEventListener("change", () => {
      this.#of = byId("log-of").value;
      this.clear();
      restart();
    });
    byId("log-level").addEventListener("change", () => this.#filter());
    byId("log-filter").addEventListener("input", () => this.#filter());
  }

  // What the stream is asked for: the lines of `of` after the last one that came.
  get query() {
    return `logs=${encodeURIComponent(this.#of)}&logs_after=${this.#last}`;
  }

  offer(ids) {
    setOptions(byId("log-of"), [["*", "the node"], ...ids.map((id) => [id, id])], this.#of);
  }

  clear() {
    this.#last = 0;
    this.#added = [];
    this.#element.replaceChildren();
  }

  // The model whose lines were asked for is not there any more: all lines are shown.
  fallBack() {
    this.#of = byId("log-of").value = "*";
    this.clear();
  }

  add({ id, at, level, text }) {
    this.#last = id;
    const line = el("span", { class: level }, `${clock(at)} ${text}\n`);
    line.hidden = !this.#isWanted(line);
    if (this.#added.push(line) === 1) requestAnimationFrame(() => this.#flush());
  }

  #flush() {
    keepEnd(this.#element, () => {
      this.#element.append(...this.#added.splice(0).slice(-LINES_SHOWN));
      while (this.#element.children.length > LINES_SHOWN) this.#element.firstChild.remove();
    });
  }

  #filter() {
    for (const line of this.#element.children) line.hidden = !this.#isWanted(line);
    this.#element.scrollTop = this.#element.scrollHeight;
  }

  #isWanted(line) {
    const levels = WANTED[byId("log-level").value];
    if (levels && !levels.has(line.className)) return false;
    return line.textContent.toLowerCase().includes(byId("log-filter").value.trim().toLowerCase());
  }
}
