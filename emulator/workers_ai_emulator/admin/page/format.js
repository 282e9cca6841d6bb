// Formats durations, sizes, times, token counts and outcomes of requests as texts.

export function duration(ms) {
  if (ms === null) return "";
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(ms < 10000 ? 2 : 1)} s`;
}

export function size(bytes) {
  return bytes < 1024 ? `${bytes} B` : `${(bytes / 1024).toFixed(1)} KiB`;
}

export function clock(time) {
  return new Date(time).toLocaleTimeString(undefined, { hour12: false });
}

export function shortModel(name) {
  return (name ?? "").split("/").pop() || "–";
}

export function shortAccount(account) {
  return account.length > 12 ? `${account.slice(0, 8)}…` : account;
}

// Returns which rule or recording gave the completion of a request, or that none did.
export function origin(request) {
  if (request.unmatched) return "unmatched";
  if (request.recording) return `recording ${request.recording}`;
  return request.rule === null ? "" : `rule ${request.rule}`;
}

// Returns the text of a request's outcome, and its `kind`: the CSS class that sets its colour.
export function outcome(request) {
  if (request.outcome === null) return { kind: "runs", text: request.status ? "streaming" : "running" };
  if (["ok", "cancelled", "cut"].includes(request.outcome)) return { kind: request.outcome, text: request.outcome };
  return { kind: "error", text: `${request.status} · ${request.outcome}` };
}

export function tokens(request) {
  return request.prompt_tokens === null ? "" : `${request.prompt_tokens} + ${request.completion_tokens}`;
}

// Joins the parts into one text; omits empty, false and null parts.
export function joined(parts, separator = ", ") {
  return parts.filter(Boolean).join(separator);
}
