// Helpers for elements of the page. They set text, never HTML: a request can contain any text.

export const $ = (id) => document.getElementById(id);

// Skips an equal text, because setting it would clear the user's selection.
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

export function element(name, className, text = "") {
  const created = document.createElement(name);
  created.className = className;
  created.textContent = text;
  return created;
}
