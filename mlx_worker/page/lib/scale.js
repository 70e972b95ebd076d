// Round marks for axes: of a figure from 0 up, and of time.

const MINUTE = 60000;
const STEPS = [1, 2, 5, 10, 15, 20, 30].map((minutes) => minutes * MINUTE);
const MARKS = 4; // of an axis, at most

// Returns marks from 0 to at least `most`, at steps of 1, 2 or 5 times a power of ten.
export function marks(most) {
  const rough = most / (MARKS - 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999) * power;
  const number = Math.ceil((most / step) * 0.999);
  return Array.from({ length: number + 1 }, (_, place) => place * step);
}

// Returns full minutes between two times, a few at equal distance.
export function timeMarks(from, to) {
  const step = STEPS.find((length) => (to - from) / length <= MARKS + 1) ?? STEPS.at(-1);
  const first = Math.ceil(from / step) * step;
  const times = [];
  for (let at = first; at <= to; at += step) times.push(at);
  return times;
}
