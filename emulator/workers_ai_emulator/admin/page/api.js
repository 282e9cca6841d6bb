// Sends requests to this server, with the token of the page's options.

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

// Returns the JSON at `path`. Throws ApiError for an error response, and what fetch() throws.
export async function fetchJson(path, signal) {
  const response = await fetch(path, { headers: headers(), signal });
  const body = await response.json();
  if (!response.ok) throw toError(body, response.status);
  return body;
}

// Makes an ApiError of the body of an error response, in any of this server's formats.
export function toError(body, status) {
  const error = body.errors?.[0] ?? body.error?.[0] ?? {};
  const text = error.message ?? body.description ?? (typeof body.error === "string" ? body.error : "");
  return new ApiError([status, error.code, text].filter(Boolean).join(" · "), status);
}
