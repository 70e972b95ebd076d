// The table of models: those that need an operator first, stopped ones last.

import { byId, setOrder } from "../lib/dom.js";
import { urgencyOf } from "../lib/moods.js";
import { Card } from "./card.js";

const OPEN_AT_MOST = 3; // models whose details are open at first

export class Models {
  #cards = new Map();
  #act;

  constructor(act) {
    this.#act = act;
  }

  show(report, rates) {
    const ids = Object.keys(report.models);
    for (const [id, card] of this.#cards) {
      if (ids.includes(id)) continue;
      card.element.remove();
      this.#cards.delete(id);
    }
    ids.forEach((id, index) => {
      const health = report.health.models[id];
      if (!this.#cards.has(id)) {
        const card = new Card(id, index, this.#act);
        card.begin(ids.length <= OPEN_AT_MOST, health.state);
        this.#cards.set(id, card);
        byId("models").append(card.element);
      }
      this.#cards.get(id).show(health, report.models[id], report, rates);
    });
    const urgent = (id) => urgencyOf(this.#cards.get(id).mood);
    const order = ids.toSorted((one, other) => urgent(one) - urgent(other));
    const head = byId("models").tHead;
    setOrder(byId("models"), [head, ...order.map((id) => this.#cards.get(id).element)]);
  }

  crashed(event) {
    this.#cards.get(event.model)?.crashed(event);
  }

  clear() {
    for (const card of this.#cards.values()) card.element.remove();
    this.#cards.clear();
  }
}
