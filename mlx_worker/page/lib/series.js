// How a model's line looks in charts: a colour, a pattern, and a number at the line's end.

const COLOURS = 6;

export const colourOf = (index) => `var(--m${index % COLOURS})`;

// Six colours are as many as everybody can tell apart: the next six models have another pattern.
export const patternOf = (index) => ["solid", "dashed", "broken"][Math.floor(index / COLOURS) % 3];

export const numberOf = (index) => String(index + 1);
