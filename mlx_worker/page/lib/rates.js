// Rates from counters: the difference between reports a few seconds apart.

const KEPT = 60000; // ms
const SPEED_OVER = 5000;

const tokensOf = (report, model) => report.health.models[model].metrics.generatedTokens;

export class Rates {
  #reports = [];

  add(report) {
    this.#reports.push(report);
    const oldest = report.at - KEPT;
    while (this.#reports[0].at < oldest) this.#reports.shift();
  }

  // Returns tokens per second over the last few seconds; null if unknown.
  speed(model) {
    const now = this.#reports.at(-1);
    const before = this.#reports.find((report) => report.at >= now.at - SPEED_OVER && report.models[model]);
    if (!before || before === now) return null;
    return (1000 * (tokensOf(now, model) - tokensOf(before, model))) / (now.at - before.at);
  }

  // Returns the mean seconds to the first token, of the last minute's requests, else of all; or null.
  firstToken(model) {
    const now = this.#reports.at(-1).models[model].firstToken;
    const before = this.#reports[0].models[model]?.firstToken ?? { count: 0, seconds: 0 };
    const { count, seconds } = now.count > before.count
      ? { count: now.count - before.count, seconds: now.seconds - before.seconds }
      : now;
    return count ? seconds / count : null;
  }
}
