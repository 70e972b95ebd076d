// One figure of all models over the last hour: lines, marks with units, a moment's figures, a table.

import { el, setText, svg } from "../lib/dom.js";
import { NONE, clock, hourAndMinute } from "../lib/format.js";
import { marks, timeMarks } from "../lib/scale.js";
import { colourOf, numberOf, patternOf } from "../lib/series.js";

const LEAST_SPAN = 300000; // ms: so that the samples of a new node fill the chart
const [WIDTH, HEIGHT] = [600, 140];
const LABEL_HEIGHT = 12;
const ROW = 60000; // ms between two rows of the table

export class Chart {
  #samples = [];
  #models = []; // {id, index} of those shown
  #place = null; // of the sample pointed at, counted from the oldest

  // `lines`: [name of the figure, what it is]; the second line is dotted.
  constructor({ title, say, least, lines }) {
    Object.assign(this, { title, say, least, lines });
    this.svg = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
    this.cursor = svg("line", { class: "cursor", y1: 0, y2: HEIGHT, visibility: "hidden" });
    this.marks = el("div", { class: "marks", "aria-hidden": "true" });
    this.times = el("div", { class: "times", "aria-hidden": "true" });
    this.labels = el("div", { class: "labels", "aria-hidden": "true" });
    this.tip = el("div", { class: "tip", "aria-hidden": "true", hidden: true });
    this.plot = el("div", { class: "plot", role: "slider", tabindex: "0", "aria-label": `${title}: arrow keys choose a moment`, "aria-valuemin": "0", "aria-valuemax": "0", "aria-valuenow": "0" }, this.svg);
    this.table = el("table", { class: "history" });
    this.details = el("details", {}, el("summary", {}, "as a table", el("span", { class: "hidden" }, `: ${title}`)), el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${title}, table` }, this.table));
    const note = lines.length > 1 ? el("span", {}, `${lines[0][1]}; dotted: ${lines[1][1]}`) : "";
    this.element = el("div", { class: "chart" }, el("h3", {}, title, note), el("div", { class: "frame" }, this.marks, this.plot, this.labels, this.tip), this.times, this.details);
    this.plot.addEventListener("pointermove", (event) => this.#point(event));
    this.plot.addEventListener("pointerleave", () => this.#leave());
    this.plot.addEventListener("focus", () => this.#choose(this.#place ?? this.#samples.length - 1));
    this.plot.addEventListener("blur", () => this.#leave());
    this.plot.addEventListener("keydown", (event) => this.#onKey(event));
    this.details.addEventListener("toggle", () => this.#fillTable());
  }

  draw(samples, models, every) {
    Object.assign(this, { every });
    this.#samples = samples;
    this.#models = models;
    this.now = samples.at(-1)?.at ?? Date.now();
    this.from = Math.min(samples[0]?.at ?? this.now, this.now - LEAST_SPAN);
    const figures = samples.flatMap((sample) => models.flatMap(({ id }) => this.#figures(sample, id))).filter((value) => value !== null);
    const scale = marks(Math.max(this.least, ...figures));
    this.most = scale.at(-1);
    const grid = scale.map((value) => svg("line", { x1: 0, x2: WIDTH, y1: this.#y(value), y2: this.#y(value) }));
    const lines = models.flatMap((model) => this.lines.map(([name], second) => this.#line(model, name, second)));
    this.svg.replaceChildren(...grid, ...lines, this.cursor);
    this.#mark(scale);
    this.#label();
    this.plot.setAttribute("aria-valuemax", Math.max(0, samples.length - 1));
    if (this.#place === null) this.#say(samples.length - 1);
    else this.#choose(Math.min(this.#place, samples.length - 1));
    this.#fillTable();
  }

  #figures(sample, id) {
    return this.lines.map(([name]) => sample.models[id]?.[name] ?? null);
  }

  #x(at) {
    return WIDTH * (1 - (this.now - at) / (this.now - this.from));
  }

  #y(value) {
    return HEIGHT - 1 - (value / this.most) * (HEIGHT - 8);
  }

  #line({ id, index }, name, second) {
    let path = "";
    let last = null;
    for (const { at, models } of this.#samples) {
      const value = models[id]?.[name] ?? null;
      if (value === null) continue;
      // A gap in the samples is a gap in the line; a single figure is a dot.
      const joined = last !== null && at - last < 2.5 * this.every * 1000;
      path += `${joined ? "L" : "M"}${this.#x(at).toFixed(1)} ${this.#y(value).toFixed(1)}`;
      if (!joined) path += "h0.1";
      last = at;
    }
    const line = svg("path", { d: path, class: second ? "dotted" : patternOf(index) });
    line.style.setProperty("--own", colourOf(index));
    return line;
  }

  #mark(scale) {
    this.marks.replaceChildren(...scale.map((value) => {
      const mark = el("span", {}, this.say(value));
      mark.style.top = `${(100 * this.#y(value)) / HEIGHT}%`;
      return mark;
    }));
    this.times.replaceChildren(...timeMarks(this.from, this.now).map((at) => {
      const mark = el("span", {}, hourAndMinute(at));
      mark.style.left = `${(100 * this.#x(at)) / WIDTH}%`;
      return mark;
    }));
  }

  // Writes the models' numbers at the ends of their lines, as many as have room.
  #label() {
    const last = this.#samples.at(-1);
    const ends = this.#models
      .map(({ id, index }) => ({ index, value: last ? this.#figures(last, id)[0] : null }))
      .filter(({ value }) => value !== null)
      .sort((one, other) => other.value - one.value);
    let top = -LABEL_HEIGHT;
    const labels = [];
    for (const { index, value } of ends) {
      top = Math.max(top + LABEL_HEIGHT, this.#y(value) - LABEL_HEIGHT / 2);
      if (top > HEIGHT + LABEL_HEIGHT) break;
      const label = el("span", { class: "series" }, numberOf(index));
      label.style.setProperty("--own", colourOf(index));
      label.style.top = `${top}px`;
      labels.push(label);
    }
    // Where the lowest ones would hang out below, all that touch them move up.
    let floor = HEIGHT - LABEL_HEIGHT / 2;
    for (const label of labels.toReversed()) {
      const wanted = Math.min(Number.parseFloat(label.style.top), floor);
      label.style.top = `${wanted}px`;
      floor = wanted - LABEL_HEIGHT;
    }
    this.labels.replaceChildren(...labels);
  }

  // --- a moment ---

  #point(event) {
    const box = this.plot.getBoundingClientRect();
    const at = this.from + ((this.now - this.from) * (event.clientX - box.left)) / box.width;
    let best = 0;
    this.#samples.forEach((sample, place) => {
      if (Math.abs(sample.at - at) < Math.abs(this.#samples[best].at - at)) best = place;
    });
    this.#choose(best);
  }

  #onKey(event) {
    const last = this.#samples.length - 1;
    const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -6, PageUp: 6, Home: -last, End: last };
    if (event.key === "Escape") this.#hide();
    if (!(event.key in steps) || last < 0) return;
    event.preventDefault();
    this.#choose(Math.min(last, Math.max(0, (this.#place ?? last) + steps[event.key])));
  }

  #choose(place) {
    const sample = this.#samples[place];
    if (!sample) return;
    this.#place = place;
    const x = this.#x(sample.at);
    for (const end of ["x1", "x2"]) this.cursor.setAttribute(end, x);
    this.cursor.setAttribute("visibility", "visible");
    const rows = this.#figuresAt(sample).map(({ id, index, words }) => {
      const row = el("li", {}, el("span", { class: "series" }, numberOf(index)), `${id}: ${words}`);
      row.style.setProperty("--own", colourOf(index));
      return row;
    });
    this.tip.replaceChildren(el("b", {}, clock(sample.at)), el("ul", {}, ...rows));
    this.tip.hidden = false;
    this.tip.dataset.side = x > WIDTH / 2 ? "left" : "right";
    this.#say(place);
  }

  #say(place) {
    const sample = this.#samples[place];
    const words = sample ? this.#figuresAt(sample).map(({ id, words: said }) => `${id} ${said}`).join("; ") : "";
    this.plot.setAttribute("aria-valuenow", Math.max(0, place));
    this.plot.setAttribute("aria-valuetext", sample ? `${clock(sample.at)}: ${words || "no figures"}` : "no samples yet");
  }

  #figuresAt(sample) {
    const saying = ({ id, index }) => {
      const figures = this.#figures(sample, id);
      return { id, index, words: figures.every((value) => value === null) ? "" : figures.map((value) => (value === null ? NONE : this.say(value))).join(" / ") };
    };
    return this.#models.map(saying).filter(({ words }) => words);
  }

  // A pointer that leaves does not take away what the keyboard has chosen.
  #leave() {
    if (!this.plot.matches(":focus-visible")) this.#hide();
  }

  #hide() {
    this.#place = null;
    this.tip.hidden = true;
    this.cursor.setAttribute("visibility", "hidden");
    this.#say(this.#samples.length - 1);
  }

  // --- the table behind ---

  #fillTable() {
    if (!this.details.open) return;
    const head = el("tr", {}, el("th", { scope: "col" }, "time"), ...this.#models.map(({ id }) => el("th", { scope: "col" }, id)));
    let before = Infinity;
    const rows = [];
    for (const sample of this.#samples.toReversed()) {
      if (before - sample.at < ROW) continue;
      before = sample.at;
      const cells = this.#models.map(({ id }) => this.#figures(sample, id).map((value) => this.say(value)).join(" / "));
      rows.push(el("tr", {}, el("th", { scope: "row" }, clock(sample.at)), ...cells.map((text) => el("td", {}, text))));
    }
    this.table.replaceChildren(el("thead", {}, head), el("tbody", {}, ...rows));
  }
}
