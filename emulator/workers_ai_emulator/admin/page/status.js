// Shows the server's status in the header, and announces texts to screen readers.

import { ApiError } from "./api.js";
import { $, setText } from "./dom.js";

export function showStatus(className, text) {
  $("status-dot").className = className;
  setText($("status-text"), text);
}

// Shows an error of a request in the header. Rethrows all other errors, because they are bugs of
// the page.
export function showFailure(error) {
  showStatus("failed", failureText(error));
}

function failureText(error) {
  if (error.status === 401) return "the server asks for a token: Options, Token";
  if (error instanceof ApiError) return error.message;
  const isUnreachable = error instanceof TypeError || error instanceof SyntaxError;
  if (isUnreachable) return "the server does not answer, trying again";
  throw error;
}

export function announce(text) {
  $("announcer").textContent = text;
}
