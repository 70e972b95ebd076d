// The colour of a state or event: good, wait for a while, or bad (an operator is needed).

const MOODS = {
  healthy: "good", ready: "good", generating: "good",
  initializing: "wait", degraded: "wait", starting: "wait", loading: "wait", draining: "wait",
  stopping: "wait", backoff: "wait", prefill: "wait", waiting: "wait", resuming: "wait",
  unhealthy: "bad", killing: "bad", failed: "bad",
};

export const moodOf = (word) => MOODS[word] ?? "rest";

const OF_EVENTS = { crash: "bad", poison: "bad", outage: "bad", "weights changed": "bad", "package replaced": "wait", "no room": "wait", pressure: "wait", resume: "good", evict: "wait", folder: "wait" };

export const moodOfEvent = (event) =>
  event.kind === "state" ? moodOf(event.facts.now) : (OF_EVENTS[event.kind] ?? "rest");

// Which of two models needs an operator first: failed, then on the way, then ready, then at rest.
const URGENCY = { bad: 0, wait: 1, good: 2, rest: 3 };

export const urgencyOf = (mood) => URGENCY[mood];
