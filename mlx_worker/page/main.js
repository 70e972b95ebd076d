// Starts the page: the tab's one stream, passed to the parts that show what it brings.

import { byId, setHidden, setText } from "./lib/dom.js";
import { Rates } from "./lib/rates.js";
import { askJson } from "./lib/api.js";
import { Watch } from "./lib/watch.js";
import * as actions from "./views/actions.js";
import { Charts } from "./views/charts.js";
import { Connect } from "./views/connect.js";
import { askForKey, closeKeyDialog, keyProblem, offerKey, showOwner } from "./views/dialogs.js";
import { Events } from "./views/events.js";
import { Log } from "./views/log.js";
import { Models } from "./views/models.js";
import { NodeView } from "./views/node.js";
import { Playground } from "./views/playground.js";
import { Requests } from "./views/requests.js";
import { showConfiguration } from "./views/settings.js";

const SAMPLES_EVERY = 10000;

const node = new NodeView();
const models = new Models(actions);
const requests = new Requests();
const charts = new Charts();
const playground = new Playground();
const eventList = new Events();
const log = new Log(() => watch.restart());
const connect = new Connect();

let rates = new Rates();
let report = null;
let lastEvent = 0;
let waiting = []; // events before the first report: their models have no row yet
let sampledAt = 0;

function onReport(newer) {
  if (report && newer.startedAt !== report.startedAt) {
    beginAnew(newer);
    return;
  }
  report = newer;
  const ids = Object.keys(report.models);
  rates.add(report);
  node.show(report, rates);
  models.show(report, rates);
  playground.offer(ids);
  log.offer(ids);
  connect.offer(report);
  for (const event of waiting.splice(0)) onEvent(event);
  if (report.at - sampledAt >= SAMPLES_EVERY) {
    sampledAt = report.at;
    sample(ids);
  }
  setHidden(byId("notice"), true);
  closeKeyDialog();
}

// Another process answers: its events, counts and samples begin anew. What a person typed stays.
// Another version has other files for this page: the page is loaded again, and restores the rest.
function beginAnew(newer) {
  if (newer.version !== report.version) {
    location.reload();
    return;
  }
  rates = new Rates();
  lastEvent = 0;
  sampledAt = 0;
  waiting = [];
  eventList.clear();
  models.clear();
  charts.clear();
  log.clear();
  report = null;
  watch.restart();
}

function onEvent(event) {
  lastEvent = event.id;
  eventList.add(event);
  if (event.kind === "crash") models.crashed(event);
}

async function sample(ids) {
  try {
    charts.add(await askJson("GET", `admin/history?after=${charts.newest}`), ids);
  } catch {
    sampledAt = 0; // retried with the next report; the stream reports the problem
  }
}

function lost(problem) {
  if (problem.status === 400) log.fallBack();
  node.setStale(report?.at ?? null);
  setText(byId("notice"), `${sentence(problem.message)} ${report ? "The figures are old. " : ""}Trying to connect again.`);
  setHidden(byId("notice"), false);
}

function locked() {
  node.setLocked();
  showOwner("");
  setText(byId("notice"), `${keyProblem()} Enter one with the button “API key”.`);
  setHidden(byId("notice"), false);
  offerKey();
}

const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}.`;

const ON = {
  reader: ({ keyName }) => {
    showOwner(keyName);
    connect.needsKey();
  },
  report: onReport,
  log: (line) => log.add(line),
  requests: (both) => requests.show(both),
  message: (event) => (report ? onEvent(event) : waiting.push(event)),
};

byId("key-button").addEventListener("click", () => askForKey());
showConfiguration();

const watch = new Watch(() => `admin/watch?after=${lastEvent}&${log.query}&requests=1`, {
  event: ({ event, data }) => ON[event]?.(JSON.parse(data)),
  lost,
  locked,
});
