// The head of the page and the node's own figures.

import { bar, byId, figures, setMood, setText } from "./dom.js";
import { bytes, count, duration, percent, rate, seconds } from "./format.js";
import { moodOf } from "./moods.js";

const sum = (values) => values.reduce((total, value) => total + value, 0);

export class NodeView {
  #set = figures(byId("tiles"), [
    ["speed", "tokens/s", "All models, over the last five seconds"],
    ["flight", "in flight", "Requests in progress"],
    ["queued", "queued", "Requests that wait for a decode slot"],
    ["first", "first token", "Mean time to the first token, over the last minute, else since the start"],
    ["hits", "cache hits", "Requests whose system prompt was in the prompt cache"],
    ["requests", "requests", "Since the node was started"],
    ["restarts", "restarts", "Restarts of processes, all models"],
    ["spares", "spares", "Spare processes that are ready, of the configured number"],
  ]);
  #memory = bar(byId("node-bars"), "Memory of all models");

  show(report, rates) {
    const { health } = report;
    const models = Object.values(health.models);
    setText(byId("status"), health.status);
    setMood(byId("status"), moodOf(health.status));
    const up = duration(report.at - report.startedAt);
    setText(byId("about"), `${location.host} · ${report.version} · up ${up}`);
    document.title = `${health.status} · mlx-worker`;
    const ids = Object.keys(report.models);
    const speeds = ids.map((id) => rates.speed(id)).filter((value) => value !== null);
    this.#set("speed", speeds.length ? rate(sum(speeds)) : "–");
    this.#set("flight", count(health.metrics.requestsInFlight));
    this.#set("queued", count(sum(models.map((model) => model.queueDepth))));
    const first = ids.map((id) => rates.firstToken(id)).filter((value) => value !== null);
    this.#set("first", seconds(first.length ? sum(first) / first.length : null));
    this.#set("hits", percent(health.metrics.cacheHitRate));
    this.#set("requests", count(health.metrics.totalRequests));
    this.#set("restarts", count(sum(models.map((model) => model.restarts))));
    this.#set("spares", `${health.standby.waiting.length}/${health.standby.wanted}`);
    const { usedBytes, limitBytes, pressure } = health.memory;
    const word = pressure === "calm" ? "" : ` · ${pressure}`;
    this.#memory(usedBytes, limitBytes, `${bytes(usedBytes)} of ${bytes(limitBytes)}${word}`);
  }
}
