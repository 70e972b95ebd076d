// Keeps what a person typed and chose for as long as the tab, over a reload of the page.

const PREFIX = "mlx-worker-page-";

// Returns what was saved under a name, else the fallback.
export function saved(name, fallback) {
  try {
    return JSON.parse(sessionStorage.getItem(PREFIX + name)) ?? fallback;
  } catch {
    return fallback;
  }
}

export function save(name, value) {
  try {
    sessionStorage.setItem(PREFIX + name, JSON.stringify(value));
  } catch {
    // The storage is full or not allowed: the page works, and a reload begins anew.
  }
}

// Restores the field's saved value and saves each change. A select gets its value with its options.
export function remember(field) {
  const value = saved(field.id, null);
  if (value !== null && field.tagName !== "SELECT") field[valueOf(field)] = value;
  for (const kind of ["input", "change"]) {
    field.addEventListener(kind, () => save(field.id, field[valueOf(field)]));
  }
}

const valueOf = (field) => (field.type === "checkbox" ? "checked" : "value");
