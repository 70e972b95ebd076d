// The last hour of all models that had a process, drawn anew with each sample; the legend chooses one model.

import { byId, el, setOrder } from "../lib/dom.js";
import { bytes, count, perSecond, seconds } from "../lib/format.js";
import { colourOf, numberOf, patternOf } from "../lib/series.js";
import { Chart } from "./chart.js";

const HOUR = 3600000;

const CHARTS = [
  { title: "Tokens per second", say: perSecond, least: 1, lines: [["tokensPerSecond", ""]] },
  { title: "Time to first token", say: seconds, least: 0.01, lines: [["firstTokenP50", "median"], ["firstTokenP95", "95th percentile"]] },
  { title: "Running and queued requests", say: count, least: 3, lines: [["runningPeak", "most running"], ["queued", "queued"]] },
  { title: "Memory of processes", say: bytes, least: 1000, lines: [["residentBytes", ""]] },
];

export class Charts {
  #charts = CHARTS.map((definition) => new Chart(definition));
  #samples = [];
  #buttons = new Map();
  #ids = [];
  #every = 10;
  #only = null; // the model that is shown alone

  constructor() {
    byId("charts").append(...this.#charts.map((chart) => chart.element));
  }

  get newest() {
    return this.#samples.at(-1)?.id ?? 0;
  }

  clear() {
    this.#samples = [];
  }

  add({ every, samples }, ids) {
    this.#samples.push(...samples);
    const newest = this.#samples.at(-1)?.at ?? 0;
    this.#samples = this.#samples.filter((sample) => sample.at > newest - HOUR);
    this.#every = every;
    this.#ids = ids;
    this.#draw();
  }

  #draw() {
    const all = this.#ids.map((id, index) => ({ id, index }));
    const worked = all.filter(({ id }) => this.#samples.some(({ models }) => models[id]?.residentBytes || models[id]?.tokensPerSecond));
    if (!worked.some(({ id }) => id === this.#only)) this.#only = null;
    const shown = this.#only === null ? worked : worked.filter(({ id }) => id === this.#only);
    for (const chart of this.#charts) chart.draw(this.#samples, shown, this.#every);
    this.#name(worked);
  }

  #name(models) {
    for (const [id, button] of this.#buttons) {
      if (models.some((model) => model.id === id)) continue;
      button.remove();
      this.#buttons.delete(id);
    }
    for (const { id, index } of models) {
      if (!this.#buttons.has(id)) this.#buttons.set(id, this.#button(id, index));
      this.#buttons.get(id).setAttribute("aria-pressed", String(id === this.#only));
    }
    setOrder(byId("legend"), models.map(({ id }) => this.#buttons.get(id)));
  }

  #button(id, index) {
    const look = el("i", { class: patternOf(index) });
    const choose = () => {
      this.#only = this.#only === id ? null : id;
      this.#draw();
    };
    const title = "Show this model alone, or all again";
    const button = el("button", { type: "button", title, onclick: choose }, el("span", { class: "series", "aria-hidden": "true" }, numberOf(index)), look, id);
    button.style.setProperty("--own", colourOf(index));
    return button;
  }
}
