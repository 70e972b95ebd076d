// A stream of the node, read while the page is visible, continued where it broke off.

import { ask, events } from "./api.js";
import { askForKey, keyProblem } from "./dialogs.js";

const SILENCE = 20000; // ms without a byte: the connection is dead, whatever TCP thinks
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

// `path` gives the address each time; `on.event` hears each event, `on.lost` why it ended; a key is
// asked for here.
// Returns what ends it.
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
