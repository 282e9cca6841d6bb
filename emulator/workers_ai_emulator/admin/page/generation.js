// Requests a completion from the emulator, as one JSON response or as a stream of events.

import { API, ApiError, headers, toError } from "./api.js";

// Sends the request, and calls `onText` with each piece of the completion. Throws ApiError if the
// server responds with an error, or if a stream ends without [DONE]. Does not catch the errors of
// fetch().
export async function generate(model, input, signal, onText) {
  const response = await fetch(`${API}/run/${model}`, {
    method: "POST",
    headers: { ...headers(), "content-type": "application/json" },
    body: JSON.stringify(input),
    signal,
  });
  if (response.headers.get("content-type") === "text/event-stream") await readStream(response, onText);
  else await readJson(response, onText);
}

async function readJson(response, onText) {
  const body = await response.json();
  if (!response.ok) throw toError(body, response.status);
  onText(textOf(body.result));
}

async function readStream(response, onText) {
  let isDone = false;
  for await (const data of eventsOf(response.body)) {
    if (data === "[DONE]") isDone = true;
    else onText(textOf(JSON.parse(data)));
  }
  if (!isDone) throw new ApiError("the stream ended before [DONE]");
}

// Returns the text in a result or an event, and its tool calls as text. The text is under the key
// `response`, or in OpenAI's list `choices`.
function textOf({ response, tool_calls, choices }) {
  const choice = choices?.[0];
  const message = choice?.message ?? choice?.delta ?? { content: choice?.text ?? response, tool_calls };
  const { content } = message;
  const text = typeof content === "object" && content !== null ? JSON.stringify(content) : String(content ?? "");
  return text + (message.tool_calls ?? []).map(callText).join("\n");
}

// Returns the name and the arguments of a tool call, or of a part of it. Only the first part has a name.
function callText(call) {
  const { name, arguments: input } = call.function ?? call;
  const shown = typeof input === "object" ? JSON.stringify(input) : (input ?? "");
  return name ? `${name} ${shown}` : shown;
}

async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let read = await reader.read(); !read.done; read = await reader.read()) {
    const events = (rest + read.value).split("\n\n");
    rest = events.pop();
    yield* events.filter((event) => event.startsWith("data: ")).map((event) => event.slice(6));
  }
}
