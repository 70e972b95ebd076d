// Formats figures for people. Amounts of memory read as the commands print them: 1 GB is 10^9 bytes.

const UNITS = ["K", "M", "G", "T"];

export const NONE = "–";
const isMissing = (value) => value === null || value === undefined;

export function bytes(count) {
  if (isMissing(count)) return NONE;
  if (count < 1000) return `${Math.round(count)} bytes`;
  let size = count / 1000;
  let unit = 0;
  while (size >= 1000 && unit < UNITS.length - 1) {
    size /= 1000;
    unit += 1;
  }
  return `${size.toFixed(1)} ${UNITS[unit]}B`;
}

export function seconds(value) {
  if (isMissing(value)) return NONE;
  if (value < 0.01 && value > 0) return `${(value * 1000).toFixed(1)} ms`;
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  return value < 10 ? `${value.toFixed(2)} s` : `${Math.round(value)} s`;
}

export function duration(ms) {
  const all = Math.max(0, Math.floor(ms / 1000));
  const [days, hours, minutes] = [Math.floor(all / 86400), Math.floor(all / 3600) % 24, Math.floor(all / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${all % 60} s` : `${all} s`;
}

export function rate(value) {
  if (isMissing(value)) return NONE;
  return value && value < 10 ? value.toFixed(1) : Math.round(value).toLocaleString("en");
}

export const perSecond = (value) => (isMissing(value) ? NONE : `${rate(value)} tokens/s`);
export const count = (value) => (isMissing(value) ? NONE : Math.round(value).toLocaleString("en"));
export const percent = (share) => `${Math.round(share * 100)} %`;

// Returns a share of a whole, such as "99 %"; a dash if the whole is 0 or unknown.
export const share = (part, whole) => (whole ? percent(part / whole) : NONE);

export const timeOfDay = (ms) => new Date(ms).toLocaleTimeString("en-GB");
export const hourAndMinute = (ms) => timeOfDay(ms).slice(0, 5);

// Returns the time of day, with the date if it is not today.
export function clock(ms) {
  const at = new Date(ms);
  if (at.toDateString() === new Date().toDateString()) return timeOfDay(ms);
  return `${at.toLocaleDateString("en-GB", { day: "numeric", month: "short" })} ${timeOfDay(ms)}`;
}
