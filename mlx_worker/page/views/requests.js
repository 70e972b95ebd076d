// Requests in progress and those that ended last: names, counts and times, never their text.

import { ask } from "../lib/api.js";
import { byId, el, isAvailable, setAvailable, setHidden, setMood, setOrder, setText } from "../lib/dom.js";
import { NONE, clock, count, seconds } from "../lib/format.js";
import { moodOf } from "../lib/moods.js";
import { remember, saved } from "../lib/saved.js";
import { act } from "./actions.js";

const ENDED_SHOWN = 8; // of those that ended, until all are asked for
const LIVE = new Set(["waiting", "prefill", "generating", "resuming"]);
const ENDED_BADLY = new Set(["failed", "cancelled"]);

class Row {
  constructor(request) {
    const { id, model } = request;
    this.id = id;
    this.badge = el("span", { class: "badge" });
    this.error = el("span", { class: "problem" });
    this.numbers = {
      took: el("td", { class: "number" }),
      first: el("td", { class: "number at-800" }),
      prompt: el("td", { class: "number at-800" }),
      output: el("td", { class: "number at-600" }),
    };
    this.cancel = el("button", { type: "button", class: "fleeting", "aria-label": `Cancel ${id}` }, "Cancel");
    this.cancel.addEventListener("click", () => isAvailable(this.cancel) && this.#cancel());
    this.about = el("span", { class: "names" });
    this.element = el("tr", { "data-request": id },
      el("th", { scope: "row" }, el("code", {}, id), this.about),
      el("td", { class: "at-600 name" }, model), el("td", {}, this.badge, this.error),
      el("td", { class: "at-1000" }, clock(request.startedAt)), ...Object.values(this.numbers), el("td", { class: "act" }, this.cancel));
  }

  #cancel() {
    act(`Cancel ${this.id}`, this.cancel, async () => {
      await ask("POST", `admin/requests/${encodeURIComponent(this.id)}/cancel`);
      return `${this.id} is cancelled`;
    });
  }

  show(request) {
    const { state, resumed, dialect, session, parted, cachedTokens: cached, promptTokens: prompt } = request;
    this.state = state;
    const marks = [];
    if (resumed && LIVE.has(state) && state !== "resuming") marks.push("resumed");
    if (request.clients === 0 && LIVE.has(state)) marks.push("no client");
    setText(this.badge, [state, ...marks].join(", "));
    setMood(this.badge, moodOf(state));
    setText(this.error, request.error ?? "");
    const parting = parted && parted !== "none" ? `parted at ${parted} after ${count(request.sharedTokens)} tokens` : "";
    const disk = request.diskTokens ? `${count(request.diskTokens)} prompt tokens from disk` : "";
    setText(this.about, [dialect, session ? `session ${session}` : "", parting, disk].filter(Boolean).join(", "));
    setText(this.numbers.took, seconds(request.seconds));
    setText(this.numbers.first, seconds(request.firstTokenSeconds));
    setText(this.numbers.prompt, prompt === null ? NONE : `${count(prompt)} (${count(cached ?? 0)})`);
    setText(this.numbers.output, count(request.outputTokens));
    setAvailable(this.cancel, LIVE.has(state));
  }
}

export class Requests {
  #rows = new Map();
  #last = { live: [], recent: [] };
  #showsAll = false;

  constructor() {
    for (const id of ["requests-of", "requests-filter"]) {
      remember(byId(id));
      byId(id).addEventListener("input", () => this.show(this.#last));
    }
    byId("requests-of").value = saved("requests-of", "");
    byId("requests-more").addEventListener("click", () => {
      this.#showsAll = !this.#showsAll;
      byId("requests-more").setAttribute("aria-pressed", String(this.#showsAll));
      this.show(this.#last);
    });
  }

  show(both) {
    this.#last = both;
    const ended = both.recent.filter(isWanted);
    const shown = [...both.live.filter(isWanted), ...ended.slice(0, this.#showsAll ? ended.length : ENDED_SHOWN)];
    const ids = new Set(shown.map((request) => request.id));
    for (const [id, row] of this.#rows) {
      if (ids.has(id)) continue;
      if (row.element.contains(document.activeElement)) byId("requests-title").focus({ preventScroll: true });
      row.element.remove();
      this.#rows.delete(id);
    }
    for (const request of shown) {
      if (!this.#rows.has(request.id)) this.#rows.set(request.id, new Row(request));
      this.#rows.get(request.id).show(request);
    }
    setOrder(byId("requests"), shown.map(({ id }) => this.#rows.get(id).element));
    setText(byId("requests-count"), `${both.live.length} in progress, ${both.recent.length} ended last`);
    setText(byId("no-requests"), both.live.length + both.recent.length ? "No request fits the filter." : "No requests yet.");
    setHidden(byId("no-requests"), shown.length > 0);
  }
}

function isWanted({ id, model, dialect, state, session, error, parted }) {
  const of = byId("requests-of").value;
  if (of === "live" && !LIVE.has(state)) return false;
  if (of === "bad" && !ENDED_BADLY.has(state)) return false;
  const words = [id, model, dialect, state, session, error, parted ?? ""].join(" ").toLowerCase();
  return words.includes(byId("requests-filter").value.trim().toLowerCase());
}
