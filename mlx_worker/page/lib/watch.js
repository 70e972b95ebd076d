// Reads the tab's one stream of the node while the page is visible, and resumes a broken stream.
//
// A browser opens six connections to a node for all its windows: a second stream for each window
// would leave none for requests.

import { ask, events } from "./api.js";
import { key } from "./key.js";

const SILENCE = 4000; // ms without a byte after which the node counts as silent; reports come each second
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

export class Watch {
  #path;
  #on;
  #connection = new AbortController();
  #replaced = false;

  // `path` returns the URL for each attempt. `on.event` is called with each event, `on.lost` with
  // the reason of an end, and `on.locked` where the node wants another key.
  constructor(path, on) {
    this.#path = path;
    this.#on = on;
    document.addEventListener("visibilitychange", () => document.hidden && this.#connection.abort());
    this.#run();
  }

  // Begins anew at once, with a new URL.
  restart() {
    this.#replaced = true;
    this.#connection.abort();
  }

  async #run() {
    let wait = 250;
    for (;;) {
      await visible();
      this.#connection = new AbortController();
      this.#replaced = false;
      const begun = Date.now();
      const shown = key.get();
      const problem = await this.#read();
      if (document.hidden || this.#replaced) continue;
      if (problem.status === 401) {
        if (key.get() === shown) {
          const changed = key.changed();
          this.#on.locked();
          await changed;
        }
        continue;
      }
      if (Date.now() - begun > LONGEST_PAUSE) wait = 250;
      this.#on.lost(problem);
      await pause(wait);
      wait = Math.min(LONGEST_PAUSE, wait * 2);
    }
  }

  // Returns why the stream ended.
  async #read() {
    const { signal } = this.#connection;
    let isSilent = false;
    let timer;
    const listen = () => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        isSilent = true;
        this.#connection.abort();
      }, SILENCE);
    };
    try {
      const response = await ask("GET", this.#path(), { signal, within: SILENCE });
      key.accept();
      listen();
      for await (const event of events(response)) {
        if (signal.aborted) break; // what is left of a stream that was ended is of no use
        listen();
        if (event.data !== undefined) this.#on.event(event);
      }
      return new Error("the node closed the connection");
    } catch (error) {
      return isSilent ? new Error(`the node has sent nothing for ${SILENCE / 1000} s`) : error;
    } finally {
      clearTimeout(timer);
    }
  }
}
