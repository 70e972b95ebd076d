// What can be used or read, and tells a screen reader nothing.
() => [...document.querySelectorAll("button, input, select, textarea, [role=meter], svg")]
  .filter((it) => it.checkVisibility() && !it.closest("[aria-hidden=true]"))
  .filter((it) => !(it.getAttribute("aria-label") || it.labels?.length || it.textContent.trim()))
  .map((it) => it.outerHTML)
