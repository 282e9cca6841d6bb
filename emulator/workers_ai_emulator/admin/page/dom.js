// Finds, creates and fills elements of the page. Sets text, never HTML, because prompts and
// completions may contain HTML.

export const $ = (id) => document.getElementById(id);

// Sets the element's text if the new text differs from it. Setting an equal text would clear the
// user's text selection.
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

export function element(name, className, text = "") {
  const created = document.createElement(name);
  created.className = className;
  created.textContent = text;
  return created;
}
