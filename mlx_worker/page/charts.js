// The last hour as lines, one for each model, redrawn with each sample every ten seconds.

import { byId, el, setText, svg } from "./dom.js";
import { bytes, clock, count, rate, seconds } from "./format.js";
import { colourOf } from "./models.js";

const HOUR = 3600000;
const LEAST = 300000; // ms: the shortest time span, so that the samples of a new node fill the chart
const [WIDTH, HEIGHT, TOP] = [600, 110, 18];

const CHARTS = [
  { title: "Tokens per second", say: rate, least: 1, lines: [["tokensPerSecond", ""]] },
  { title: "Time to first token", note: "median; dotted: 95th percentile", say: seconds, least: 0.01, lines: [["firstTokenP50", ""], ["firstTokenP95", "dashed"]] },
  { title: "Running and queued", note: "dotted: queued", say: count, least: 1, lines: [["running", ""], ["queued", "dashed"]] },
  { title: "Memory of processes", say: bytes, least: 1, lines: [["residentBytes", ""]] },
];

class Chart {
  constructor({ title, note = "", say, least, lines }) {
    Object.assign(this, { title, note, say, least, lines });
    this.said = el("span", {}, note);
    this.since = el("span");
    this.most = el("span", { class: "most" });
    this.svg = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    this.cursor = svg("line", { class: "cursor", y1: 0, y2: HEIGHT, visibility: "hidden" });
    const axis = el("div", { class: "axis", "aria-hidden": "true" }, this.since, el("span", {}, "now"));
    this.element = el("div", { class: "chart" }, el("h3", {}, title, this.said), el("div", { class: "plot" }, this.svg, this.most), axis);
    this.svg.addEventListener("pointermove", (event) => this.#point(event));
    this.svg.addEventListener("pointerleave", () => this.#leave());
  }

  draw(samples, ids, every) {
    Object.assign(this, { samples, ids });
    this.now = samples.at(-1)?.at ?? Date.now();
    this.span = Math.max(LEAST, this.now - (samples[0]?.at ?? this.now));
    setText(this.since, `${Math.round(this.span / 60000)} min ago`);
    const figures = samples.flatMap((sample) => ids.flatMap((id) => this.lines.map(([name]) => sample.models[id]?.[name] ?? null))).filter((value) => value !== null);
    const most = Math.max(this.least, ...figures);
    const base = svg("line", { x1: 0, x2: WIDTH, y1: HEIGHT - 1, y2: HEIGHT - 1 });
    const lines = ids.flatMap((id, index) => this.lines.map(([name, look]) => this.#line(id, name, look, index, most, every)));
    this.svg.replaceChildren(base, ...lines, this.cursor);
    setText(this.most, figures.length ? this.say(most) : "");
    this.svg.setAttribute("aria-label", this.#summary(most));
  }

  #line(id, name, look, index, most, every) {
    let path = "";
    let last = null;
    for (const { at, models } of this.samples) {
      const value = models[id]?.[name] ?? null;
      if (value === null) continue;
      // A gap in the samples is a gap in the line; a single figure is a dot.
      const joined = last !== null && at - last < 2.5 * every * 1000;
      const [x, y] = [this.#x(at), HEIGHT - 1 - (value / most) * (HEIGHT - TOP)];
      path += `${joined ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
      if (!joined) path += "h0.1";
      last = at;
    }
    const line = svg("path", { d: path, class: look });
    line.style.setProperty("--own", colourOf(index));
    return line;
  }

  #x(at) {
    return WIDTH * (1 - (this.now - at) / this.span);
  }

  #summary(most) {
    const last = this.samples.at(-1);
    if (!last) return `${this.title}: no samples yet`;
    return `${this.title}: ${this.#figuresAt(last)} now, at most ${this.say(most)}`;
  }

  #figuresAt(sample) {
    const told = (id) => this.lines.map(([name]) => sample.models[id]?.[name] ?? null).filter((value) => value !== null).map(this.say).join(" / ");
    return this.ids.map(told).filter(Boolean).join(", ") || "none";
  }

  #point(event) {
    const box = this.svg.getBoundingClientRect();
    const at = this.now - this.span * (1 - (event.clientX - box.left) / box.width);
    const near = this.samples.reduce((best, sample) => (Math.abs(sample.at - at) < Math.abs(best.at - at) ? sample : best), this.samples[0]);
    if (!near) return;
    const x = this.#x(near.at);
    for (const end of ["x1", "x2"]) this.cursor.setAttribute(end, x);
    this.cursor.setAttribute("visibility", "visible");
    setText(this.said, `${clock(near.at)}: ${this.#figuresAt(near)}`);
  }

  #leave() {
    this.cursor.setAttribute("visibility", "hidden");
    setText(this.said, this.note);
  }
}

export class Charts {
  #charts = CHARTS.map((definition) => new Chart(definition));
  #samples = [];

  constructor() {
    byId("charts").append(...this.#charts.map((chart) => chart.element));
  }

  get newest() {
    return this.#samples.at(-1)?.id ?? 0;
  }

  add({ every, samples }, ids) {
    this.#samples.push(...samples);
    const newest = this.#samples.at(-1)?.at ?? 0;
    this.#samples = this.#samples.filter((sample) => sample.at > newest - HOUR);
    for (const chart of this.#charts) chart.draw(this.#samples, ids, every);
    this.#name(ids);
  }

  #name(ids) {
    const named = ids.map((id, index) => {
      const name = el("span", {}, id);
      name.style.setProperty("--own", colourOf(index));
      return name;
    });
    byId("legend").replaceChildren(...named);
  }
}
