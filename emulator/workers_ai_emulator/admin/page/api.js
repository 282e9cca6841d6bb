// Sends requests to the emulator, with the API token that the user entered in the page's options.

import { $ } from "./dom.js";

export const API = `/client/v4/accounts/${"0".repeat(32)}/ai`;

export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export function headers() {
  return { authorization: `Bearer ${$("token").value || "local"}` };
}

// Requests `path` with GET and returns the parsed JSON. Throws ApiError if the server responds with
// an error. Does not catch the errors of fetch().
export async function fetchJson(path, signal) {
  const response = await fetch(path, { headers: headers(), signal });
  const body = await response.json();
  if (!response.ok) throw toError(body, response.status);
  return body;
}

// Converts the parsed body of an error response to an ApiError. Supports all forms of error bodies
// that the emulator sends.
export function toError(body, status) {
  const error = body.errors?.[0] ?? body.error?.[0] ?? {};
  const text = error.message ?? body.description ?? (typeof body.error === "string" ? body.error : "");
  return new ApiError([status, error.code, text].filter(Boolean).join(" · "), status);
}
