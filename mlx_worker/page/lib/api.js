// Requests to the node, each with a time limit. The key is sent in a header, never in a URL.

import { key } from "./key.js";

const PATIENCE = 10000; // ms until the node has to have begun an answer

export class NodeError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// Returns a successful response; throws a NodeError with the node's message for any other.
// Without a limit (`within: 0`) the request ends by `signal` only.
export async function ask(method, path, { body, signal, within = PATIENCE } = {}) {
  const limit = new AbortController();
  const abort = () => limit.abort();
  let late = false;
  const timer = within && setTimeout(() => {
    late = true;
    abort();
  }, within);
  if (signal?.aborted) abort();
  signal?.addEventListener("abort", abort);
  const headers = {};
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, signal: limit.signal, cache: "no-store", body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (late) throw new NodeError(0, `the node did not answer within ${within / 1000} s`);
    if (error.name === "AbortError") throw error;
    throw new NodeError(0, "the node cannot be reached");
  } finally {
    clearTimeout(timer);
  }
  if (!response.ok) throw new NodeError(response.status, await problemOf(response));
  return response;
}

export const askJson = async (method, path, options) => (await ask(method, path, options)).json();

async function problemOf(response) {
  const text = await response.text();
  try {
    return JSON.parse(text).error.message;
  } catch {
    return `HTTP status ${response.status}`;
  }
}

// Yields the server-sent events of a response: {id, event, data}. EventSource cannot send headers.
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const event = eventOf(block);
        if (event.data !== undefined || event.comment) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function eventOf(block) {
  const event = { event: "message", comment: block.startsWith(":") };
  for (const line of block.split("\n")) {
    const colon = line.indexOf(": ");
    if (colon > 0) event[line.slice(0, colon)] = line.slice(colon + 2);
  }
  return event;
}
