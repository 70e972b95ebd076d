// Creates and changes elements. An element is changed only if its content is new, so that a report
// each second does not take away focus, selection or scroll position.

export const byId = (id) => document.getElementById(id);

export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in made && typeof value !== "string") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

const SVG = "http://www.w3.org/2000/svg";

export function svg(tag, attributes = {}) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

export function setText(element, text) {
  const said = String(text);
  if (element.textContent !== said) element.textContent = said;
}

export function setMood(element, mood) {
  if (element.dataset.mood !== mood) element.dataset.mood = mood;
}

export function setHidden(element, hidden) {
  if (element.hidden !== hidden) element.hidden = hidden;
}

// Makes a button available or not. The button keeps its focus either way: a press is ignored.
export function setAvailable(button, available) {
  const off = String(!available);
  if (button.getAttribute("aria-disabled") !== off) button.setAttribute("aria-disabled", off);
}

export const isAvailable = (button) => button.getAttribute("aria-disabled") !== "true";

// Sets a select's options. The chosen one stays chosen, at first `wanted`.
export function setOptions(select, options, wanted = null) {
  const signature = options.map(([value, label]) => `${value}\n${label}`).join("\n\n");
  if (select.dataset.options === signature) return;
  const chosen = select.dataset.options === undefined ? wanted : select.value;
  select.replaceChildren(...options.map(([value, label]) => el("option", { value }, label)));
  if (options.some(([value]) => value === chosen)) select.value = chosen;
  select.dataset.options = signature;
}

// Puts a parent's children into this order. The child with the focus is not moved: a moved element
// loses the focus.
export function setOrder(parent, children) {
  if (children.length === parent.children.length && children.every((child, place) => parent.children[place] === child)) return;
  const focused = children.findIndex((child) => child.contains(document.activeElement));
  for (const child of children.slice(0, Math.max(0, focused))) parent.insertBefore(child, children[focused]);
  parent.append(...children.slice(focused + 1));
}

// Changes the content of a scrolling element. Who reads at the end stays at the end; who has
// scrolled up is not moved.
export function keepEnd(element, change) {
  const isAtEnd = element.scrollHeight - element.scrollTop - element.clientHeight < 30;
  change();
  if (isAtEnd) element.scrollTop = element.scrollHeight;
}

// Adds terms and figures to a list, each [name, term, title, class]; returns a function that sets one.
export function figures(list, terms) {
  const values = {};
  for (const [name, term, title = "", look = ""] of terms) {
    values[name] = el("dd", {}, "–");
    list.append(el("div", { title, class: look }, el("dt", {}, term), values[name]));
  }
  return (name, text) => setText(values[name], text);
}

// Adds a bar for a part of a whole; returns a function that sets the bar.
export function bar(parent, label) {
  const fill = el("i");
  const output = el("span", { class: "amount" });
  const track = el("div", { class: "track", role: "meter", "aria-label": label, "aria-valuemin": "0", "aria-valuemax": "100", "aria-valuenow": "0" }, fill);
  const whole = el("div", { class: "bar" }, el("span", {}, label), output, track);
  parent.append(whole);
  return (used, limit, text) => {
    const percent = limit > 0 ? Math.min(100, (100 * used) / limit) : 0;
    const width = `${percent.toFixed(1)}%`;
    if (fill.style.width !== width) fill.style.width = width;
    track.setAttribute("aria-valuenow", percent.toFixed(0));
    track.setAttribute("aria-valuetext", text);
    setText(output, text);
    setMood(whole, percent > 95 ? "bad" : percent > 80 ? "wait" : "good");
  };
}

const ANNOUNCED = 8000; // ms that a screen reader has to begin with a sentence

// Says a sentence to screen readers only.
export function announce(text) {
  const said = el("p", {}, text);
  byId("announcer").append(said);
  setTimeout(() => said.remove(), ANNOUNCED);
}

let fading;

export function toast(text, mood = "good") {
  const said = el("div", { class: "toast", "data-mood": mood }, text);
  byId("toasts").replaceChildren(said);
  clearTimeout(fading);
  fading = setTimeout(() => said.remove(), mood === "bad" ? 12000 : 5000);
}
