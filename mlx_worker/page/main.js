// Starts the page: one stream of reports and events, passed to the parts that show them.

import * as actions from "./actions.js";
import { Log, showEvent } from "./activity.js";
import { ask } from "./api.js";
import { Charts } from "./charts.js";
import { askForKey } from "./dialogs.js";
import { byId, setHidden, setText } from "./dom.js";
import { follow } from "./follow.js";
import { Models } from "./models.js";
import { NodeView } from "./node.js";
import { Playground } from "./playground.js";
import { Rates } from "./rates.js";

const SAMPLES_EVERY = 10000;

const node = new NodeView();
const models = new Models(actions);
const charts = new Charts();
const playground = new Playground();
const log = new Log();
const rates = new Rates();

let startedAt = null;
let lastEvent = 0;
let waiting = []; // events before the first report: their models have no card yet
let sampledAt = 0;

function onReport(report) {
  if (startedAt !== null && report.startedAt !== startedAt) {
    location.reload(); // another process: events, counts and perhaps this page are new
    return;
  }
  startedAt = report.startedAt;
  const ids = Object.keys(report.models);
  rates.add(report);
  node.show(report, rates);
  models.show(report, rates);
  playground.offer(ids);
  log.offer(ids);
  for (const event of waiting.splice(0)) onEvent(event);
  if (report.at - sampledAt >= SAMPLES_EVERY) {
    sampledAt = report.at;
    sample(ids);
  }
  live();
}

function onEvent(event) {
  lastEvent = event.id;
  showEvent(event);
  if (event.kind === "crash") models.crashed(event);
}

async function sample(ids) {
  try {
    charts.add(await (await ask("GET", `admin/history?after=${charts.newest}`)).json(), ids);
  } catch {
    sampledAt = 0; // retried with the next report; the stream reports the problem
  }
}

function live() {
  setText(byId("link"), "live");
  byId("link").dataset.link = "live";
  setHidden(byId("notice"), true);
}

function lost(problem) {
  setText(byId("link"), "reconnecting");
  byId("link").dataset.link = "lost";
  setText(byId("notice"), `The figures may be old: ${problem?.message ?? "the connection was closed"}. Reconnecting.`);
  setHidden(byId("notice"), false);
}

byId("key-button").addEventListener("click", () => askForKey());

follow(() => `admin/watch?after=${lastEvent}`, {
  silence: 5000,
  event: ({ event, data }) => {
    const content = JSON.parse(data);
    if (event === "report") onReport(content);
    else if (startedAt === null) waiting.push(content);
    else onEvent(content);
  },
  lost,
});
log.read();
