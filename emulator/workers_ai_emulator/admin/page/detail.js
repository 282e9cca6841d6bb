// The panel that shows the details of one request. The URL fragment contains the request's id, for
// example #request-7.

import { ApiError, fetchJson } from "./api.js";
import { copyText, curlCommand, ruleText } from "./copy.js";
import { $, setText } from "./dom.js";
import { duration, joined, origin, outcome, size, tokens } from "./format.js";
import { sleep } from "./polling.js";
import { announce } from "./status.js";

const INTERVAL_MS = 400;
const COPIED_MS = 1500;

export class RequestDetail {
  #list;
  #id = null;
  #abort = null;
  #request = null; // the data of the shown request
  #hasOpenedBody = false; // whether the panel, not the user, has opened the request's body

  constructor(list) {
    this.#list = list;
    $("detail-close").addEventListener("click", () => this.#close());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.#id !== null) this.#close();
    });
    addCopyButton("copy-curl", () => curlCommand(this.#request));
    addCopyButton("copy-rule", () => ruleText(this.#request.as_rule));
    window.addEventListener("hashchange", () => this.followAddress());
    window.addEventListener("popstate", () => this.followAddress());
  }

  // Shows the request whose id is in the URL fragment, or closes the panel if there is no id.
  followAddress() {
    const id = Number(/^#request-(\d+)$/.exec(location.hash)?.[1] ?? 0) || null;
    if (id === this.#id) return;
    const last = this.#id;
    this.#id = id;
    this.#abort?.abort();
    this.#list.choose(id);
    $("detail").hidden = id === null;
    $("chat").hidden = id !== null;
    if (id === null) this.#list.focus(last);
    else this.#open(id);
  }

  #open(id) {
    setText($("detail-title"), `Request ${id}`);
    $("detail-json").href = `requests/${id}`;
    // Shows the previous request until the next one has arrived, so that the panel does not flicker.
    $("detail").classList.add("stale");
    for (const name of ["copy-curl", "copy-rule"]) enable(name, false, "");
    $("detail-error").hidden = true;
    $("detail").scrollTop = 0;
    $("detail-title").focus({ preventScroll: true });
    this.#abort = new AbortController();
    watch(id, this.#abort.signal, (request) => this.#show(request));
  }

  #show(request) {
    const isFirst = $("detail").classList.contains("stale");
    this.#request = request;
    $("detail-body").hidden = false;
    $("detail").classList.remove("stale");
    show(request);
    if (outcome(request).kind === "error") this.#openBody();
    else if (isFirst && this.#hasOpenedBody) this.#closeBody();
    if (isFirst) $("detail").scrollIntoView();
  }

  // Opens the body of a refused request, because the reason is usually in it.
  #openBody() {
    this.#hasOpenedBody ||= !$("body-section").open;
    $("body-section").open = true;
  }

  #closeBody() {
    this.#hasOpenedBody = false;
    $("body-section").open = false;
  }

  #close() {
    history.pushState(null, "", location.pathname);
    this.followAddress();
  }
}

// Fetches the request every INTERVAL_MS until the request has ended or `signal` aborts. Calls
// `onRequest` each time.
async function watch(id, signal, onRequest) {
  try {
    let request = null;
    do {
      if (request) await sleep(INTERVAL_MS);
      if (signal.aborted) return;
      request = await fetchJson(`requests/${id}`, signal);
      if (!signal.aborted) onRequest(request);
    } while (request.outcome === null);
  } catch (error) {
    if (!signal.aborted) showError(error);
  }
}

function showError(error) {
  const text = error instanceof ApiError ? error.message : "The server does not answer.";
  setText($("detail-error"), text);
  $("detail-body").hidden = true;
  $("detail-error").hidden = false;
}

function addCopyButton(id, createText) {
  const button = $(id);
  const label = button.textContent;
  button.addEventListener("click", async () => {
    const note = (await copyText(createText())) ? "Copied" : "Not copied";
    setText(button, note);
    announce(note);
    setTimeout(() => setText(button, label), COPIED_MS);
  });
}

function show(data) {
  showFacts($("facts"), facts(data));
  showTimeline(data);
  showPrompt(data);
  showAnswer(data);
  showRequest(data.request);
  const isWhole = !data.request.bytes_left_out;
  enable("copy-curl", isWhole, "The journal has only the beginning of the request's body.");
  enable("copy-rule", data.as_rule !== null, "The response contains no whole completion, and no error to repeat.");
}

function enable(id, isEnabled, reason) {
  $(id).disabled = !isEnabled;
  $(id).title = isEnabled ? "" : reason;
}

// Returns the names and values of the list at the top. The first items are always there, so that
// the list does not grow while the request runs.
function facts(data) {
  const path = `${data.method} ${data.path}${data.query ? `?${data.query}` : ""}`;
  const always = [
    ["Result", resultText(data)],
    ["Model", data.model],
    ["Answered by", joined([data.answered_by, origin(data)])],
    ["Call", path],
    ["Came in", new Date(data.time).toLocaleString()],
    ["Took", timesText(data)],
    ["Tokens", tokensText(data)],
  ].map(([name, value]) => [name, value || "–"]);
  const rest = [["Account", data.account], ["Fault", data.fault]];
  return [...always, ...rest.filter(([, value]) => value)];
}

function tokensText(data) {
  const cached = data.cached_tokens && `${data.cached_tokens} of the prompt were cached`;
  return joined([tokens(data), cached, data.stream && `${data.events} events`]);
}

// Returns the response's status and outcome as text. Does not add the status to the text of an
// error, because the text already begins with the status.
function resultText(data) {
  const { text } = outcome(data);
  return text.startsWith(`${data.status} `) ? text : joined([data.status, text], " ");
}

function timesText(data) {
  const speed = data.tokens_per_second;
  return joined([
    duration(data.duration_ms),
    data.first_byte_ms !== null && `first byte after ${duration(data.first_byte_ms)}`,
    speed !== null && `${speed < 100 ? speed : Math.round(speed)} tokens/s`,
    data.longest_gap_ms && `longest gap ${duration(data.longest_gap_ms)}`,
  ]);
}

function showTimeline(data) {
  const first = data.first_byte_ms ?? data.duration_ms;
  const part = data.duration_ms ? first / data.duration_ms : 1;
  const text = `${duration(first)} until the first byte, ${duration(data.duration_ms - first)} from there to the last`;
  $("timeline-wait").style.width = `${100 * part}%`;
  $("timeline-stream").style.width = `${100 * (1 - part)}%`;
  $("timeline").setAttribute("aria-label", text);
  $("timeline").title = text;
}

function showPrompt({ prompt, outcome: ending }) {
  $("prompt-section").hidden = prompt === null && ending !== null;
  showText("prompt", prompt?.text ?? "", [prompt ? leftOut(prompt) : "not rendered"]);
}

function showAnswer(data) {
  const { answer } = data;
  const count = data.completion_tokens !== null && `${data.completion_tokens} tokens`;
  $("reasoning-section").hidden = answer.reasoning === null;
  showText("reasoning", answer.reasoning ?? "", []);
  showText("answer", answer.text ?? answer.sent, [answer.text === null && answer.sent && "as sent", count, leftOut(answer)]);
  showText("sent", answer.sent, [size(answer.bytes), data.stream && `${data.events} events`, leftOut(answer)]);
  showFacts($("answer-headers"), Object.entries(answer.headers));
}

function showRequest(request) {
  const { body } = request;
  const text = typeof body === "string" ? body : JSON.stringify(body, null, 2);
  showText("body", body === null ? "" : text, [size(request.bytes), leftOut(request)]);
  showFacts($("request-headers"), Object.entries(request.headers));
}

function leftOut(part) {
  return part.bytes_left_out ? `${size(part.bytes_left_out)} more are not kept` : "";
}

// Shows pairs of names and values in `list`, an element <dl>. Changes the texts of the existing
// items, because replacing the items would clear the user's text selection.
function showFacts(list, pairs) {
  const texts = pairs.flat().map(String);
  while (list.children.length > texts.length) list.lastChild.remove();
  texts.forEach((text, i) => {
    const item = list.children[i] ?? list.appendChild(document.createElement(i % 2 ? "dd" : "dt"));
    setText(item, text);
  });
}

// Shows a text in the element with this id, and shows notes beside its heading. If the user has
// scrolled to the end of the old text, scrolls to the end of the new text.
function showText(id, text, notes) {
  const pre = $(id);
  const isAtEnd = pre.scrollTop > 0 && pre.scrollTop + pre.clientHeight >= pre.scrollHeight - 4;
  setText(pre, text);
  if (isAtEnd) pre.scrollTop = pre.scrollHeight;
  setText($(`${id}-note`), joined(notes));
}
