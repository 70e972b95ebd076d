// The head of the page and the node's own figures.

import { announce, bar, byId, figures, setMood, setText } from "../lib/dom.js";
import { bytes, count, duration, rate, seconds, share, timeOfDay } from "../lib/format.js";
import { moodOf } from "../lib/moods.js";

const sum = (values) => values.reduce((total, value) => total + value, 0);

export class NodeView {
  #set = figures(byId("tiles"), [
    ["speed", "tokens/s", "All models, over the last five seconds"],
    ["flight", "in flight", "Requests in progress"],
    ["queued", "queued", "Requests that wait for a decode slot"],
    ["first", "first token", "Mean time to the first token, over the last minute, else since the start"],
    ["cached", "prompt cached", "Prompt tokens that the prompt cache had, of all prompt tokens"],
    ["requests", "requests", "Since the node was started"],
    ["restarts", "restarts", "Restarts of processes, all models"],
    ["spares", "spares", "Spare processes that are ready, of the configured number"],
  ]);
  #memory = bar(byId("node-bars"), "Memory of all models");
  #status = null;

  show(report, rates) {
    const { health } = report;
    const models = Object.values(health.models);
    this.#head(report);
    const up = duration(report.at - report.startedAt);
    setText(byId("about"), `${location.host} · ${report.version} · up ${up}`);
    const ids = Object.keys(report.models);
    const speeds = ids.map((id) => rates.speed(id)).filter((value) => value !== null);
    this.#set("speed", speeds.length ? rate(sum(speeds)) : "–");
    this.#set("flight", count(health.metrics.requestsInFlight));
    this.#set("queued", count(sum(models.map((model) => model.queueDepth))));
    const first = ids.map((id) => rates.firstToken(id)).filter((value) => value !== null);
    this.#set("first", seconds(first.length ? sum(first) / first.length : null));
    const more = Object.values(report.models);
    this.#set("cached", share(sum(more.map((model) => model.cachedTokens)), sum(more.map((model) => model.promptTokens))));
    this.#set("requests", count(health.metrics.totalRequests));
    this.#set("restarts", count(sum(models.map((model) => model.restarts))));
    this.#set("spares", `${health.standby.waiting.length}/${health.standby.wanted}`);
    const { usedBytes, limitBytes, pressure } = health.memory;
    const word = pressure === "calm" ? "" : ` · ${pressure}`;
    this.#memory(usedBytes, limitBytes, `${bytes(usedBytes)} of ${bytes(limitBytes)}${word}`);
  }

  #head({ health, draining }) {
    const status = draining ? "draining" : health.status;
    if (this.#status !== null && this.#status !== status) announce(`The node is ${status}`);
    this.#status = status;
    setText(byId("status"), status);
    setMood(byId("status"), moodOf(status));
    document.title = `${status} · mlx-worker`;
    this.#link("live", draining ? "live until the drain ends" : "live");
    delete document.body.dataset.stale;
  }

  #link(state, words) {
    setText(byId("link"), words);
    byId("link").dataset.link = state;
  }

  // The node does not answer: what is shown is of the last report, if there was any.
  setStale(at) {
    const of = at === null ? "" : ` as of ${timeOfDay(at)}`;
    setText(byId("status"), `${this.#status ?? "unknown"}${of}`);
    setMood(byId("status"), "rest");
    document.title = "no answer · mlx-worker";
    this.#link("lost", "no answer");
    if (!document.body.dataset.stale && this.#status !== null) announce("The node does not answer");
    document.body.dataset.stale = "true";
  }

  setLocked() {
    this.setStale(null);
    this.#link("lost", "API key needed");
    document.title = "API key needed · mlx-worker";
  }
}
