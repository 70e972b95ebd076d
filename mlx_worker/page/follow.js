// Reads a stream of the node while the page is visible, and resumes a stream that broke off.

import { ask, events } from "./api.js";
import { askForKey, keyProblem } from "./dialogs.js";

const SILENCE = 20000; // ms without a byte after which the connection counts as dead, even if TCP does not report it
const LONGEST_PAUSE = 8000;

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

function visible() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((done) => {
    const look = () => {
      if (document.hidden) return;
      document.removeEventListener("visibilitychange", look);
      done();
    };
    document.addEventListener("visibilitychange", look);
  });
}

// `path` returns the URL for each attempt, `on.event` is called with each event, and `on.lost` with
// the reason of an end. A missing key is requested here. Returns a function that ends the stream.
export function follow(path, on) {
  let ended = false;
  let connection = new AbortController();
  const hide = () => document.hidden && connection.abort();
  document.addEventListener("visibilitychange", hide);

  async function read() {
    let silence;
    const heard = () => {
      clearTimeout(silence);
      silence = setTimeout(() => connection.abort(), on.silence ?? SILENCE);
    };
    try {
      heard();
      const response = await ask("GET", path(), { signal: connection.signal });
      for await (const event of events(response)) {
        heard();
        on.event(event);
      }
    } finally {
      clearTimeout(silence);
    }
  }

  async function run() {
    let wait = 250;
    while (!ended) {
      await visible();
      connection = new AbortController();
      const begun = Date.now();
      let problem = null;
      try {
        await read();
      } catch (error) {
        problem = error;
      }
      if (ended || document.hidden) continue;
      if (Date.now() - begun > LONGEST_PAUSE) wait = 250;
      on.lost?.(problem);
      if (problem?.status === 401) {
        await askForKey(keyProblem());
        continue;
      }
      await pause(wait);
      wait = Math.min(LONGEST_PAUSE, wait * 2);
    }
  }

  run();
  return () => {
    ended = true;
    document.removeEventListener("visibilitychange", hide);
    connection.abort();
  };
}
