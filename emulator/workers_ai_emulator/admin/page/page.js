// The page at /_emulator/: asks this server for its requests and its load, again and again, and
// shows them. Whatever comes from a request is put in as text, never as HTML.

const MAX_ROWS = 200;
const LIST_MS = 700;
const DETAIL_MS = 400;
const RETRY_MS = 2000;
const ANNOUNCE_MS = 5000;
const LEAST_SPAN_S = 60;
const MOST_SPAN_S = 300;
const WIDTH = 300;
const API = `/client/v4/accounts/${"0".repeat(32)}/ai`;
const SVG = "http://www.w3.org/2000/svg";

const $ = (id) => document.getElementById(id);

// ── asking ──────────────────────────────────────────────────────────────────────────────────

function headers() {
  return { authorization: `Bearer ${$("token").value || "local"}` };
}

class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function ask(path, signal) {
  const answer = await fetch(path, { headers: headers(), signal });
  const body = await answer.json();
  if (!answer.ok) throw new Refused(errorText(body, answer.status), answer.status);
  return body;
}

function errorText(body, status) {
  const error = body.errors?.[0] ?? body.error?.[0] ?? {};
  const text = error.message ?? body.description ?? (typeof body.error === "string" ? body.error : "");
  return [status, error.code, text].filter(Boolean).join(" · ");
}

// Runs `task` again and again: each time when it has ended, and not while nobody looks.
function repeat(task, intervalMs) {
  let timer = null;
  let isRunning = false;
  async function run() {
    if (document.hidden || isRunning) return;
    clearTimeout(timer);
    isRunning = true;
    const isDone = await attempt(task);
    isRunning = false;
    timer = setTimeout(run, isDone ? intervalMs : RETRY_MS);
  }
  document.addEventListener("visibilitychange", run);
  run();
}

async function attempt(task) {
  try {
    await task();
    return true;
  } catch (error) {
    if (error.status === 401) showStatus("gone", "the server asks for a token: Options, Token");
    else if (error instanceof Refused) showStatus("gone", error.message);
    else if (error instanceof TypeError || error instanceof SyntaxError) showStatus("gone", "the server does not answer, trying again");
    else throw error;
    return false;
  }
}

// ── small things ────────────────────────────────────────────────────────────────────────────

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function element(name, className, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

function duration(ms) {
  if (ms === null) return "";
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(ms < 10000 ? 2 : 1)} s`;
}

function size(bytes) {
  return bytes < 1024 ? `${bytes} B` : `${(bytes / 1024).toFixed(1)} KiB`;
}

function clock(time) {
  return new Date(time).toLocaleTimeString(undefined, { hour12: false });
}

function shortModel(name) {
  return (name ?? "").split("/").pop() || "–";
}

function result(row) {
  if (row.outcome === null) return { kind: "runs", text: row.status ? "streaming" : "running" };
  if (["ok", "cancelled", "cut"].includes(row.outcome)) return { kind: row.outcome, text: row.outcome };
  return { kind: "error", text: `${row.status} · ${row.outcome}` };
}

function tokens(row) {
  return row.prompt_tokens === null ? "" : `${row.prompt_tokens} + ${row.completion_tokens}`;
}

function showStatus(kind, text) {
  $("status-dot").className = kind;
  setText($("status-text"), text);
}

// ── the list ────────────────────────────────────────────────────────────────────────────────

const list = { epoch: null, rows: new Map(), current: null, ended: 0, failed: 0, announced: 0 };

async function refreshList() {
  const open = [...list.rows.values()].filter((row) => row.data.outcome === null);
  const known = open.length ? Math.min(...open.map((row) => row.data.id)) - 1 : newestId();
  const body = await ask(`requests?limit=${MAX_ROWS}&after=${list.epoch ? known : 0}`);
  if (body.epoch !== list.epoch) {
    const isFirst = list.epoch === null;
    clearList(body.epoch);
    if (!isFirst) return refreshList();
  }
  for (const data of body.requests.reverse()) showRow(data);
  while (list.rows.size > MAX_ROWS) removeRow(Math.min(...list.rows.keys()));
  showRovingRow();
  $("requests-empty").hidden = list.rows.size > 0;
  const dropped = body.dropped ? `, ${body.dropped} older ones dropped` : "";
  setText($("requests-count"), body.kept ? `${body.kept} kept${dropped}` : "");
  announceEnded();
}

function newestId() {
  return Math.max(0, ...list.rows.keys());
}

function clearList(epoch) {
  list.epoch = epoch;
  for (const id of [...list.rows.keys()]) removeRow(id);
}

function removeRow(id) {
  list.rows.get(id).tr.remove();
  list.rows.delete(id);
}

function showRow(data) {
  const row = list.rows.get(data.id) ?? addRow(data);
  const isNews = data.outcome !== null && row.data.outcome === null;
  row.data = data;
  const { kind, text } = result(data);
  row.badge.className = `result ${kind}`;
  setText(row.badge, text);
  setText(row.model, shortModel(data.model));
  row.model.title = data.model ?? "";
  setText(row.tokens, tokens(data));
  setText(row.duration, duration(data.duration_ms));
  setText(row.fault, data.fault ?? "");
  row.model.dataset.fault = data.fault ?? "";
  row.link.setAttribute("aria-label", `Request ${data.id}, ${clock(data.time)}, ${shortModel(data.model)}, ${text}`);
  if (isNews) {
    list.ended += 1;
    list.failed += kind === "error" || kind === "cut" ? 1 : 0;
  }
}

function addRow(data) {
  const tr = document.createElement("tr");
  const row = {
    data: { ...data, outcome: null },
    tr,
    link: element("a", "", clock(data.time)),
    badge: element("span", "result"),
    model: element("td", "model"),
    tokens: element("td", "number"),
    duration: element("td", "number"),
    fault: element("td", "fault"),
  };
  row.link.href = `#request-${data.id}`;
  row.link.tabIndex = -1;
  row.link.title = data.time;
  const time = element("td", "");
  time.append(row.link);
  const outcome = element("td", "");
  outcome.append(row.badge);
  tr.append(time, row.model, outcome, row.tokens, row.duration, row.fault);
  tr.classList.toggle("chosen", data.id === detail.id);
  tr.addEventListener("click", () => row.link.click());
  row.link.addEventListener("click", (event) => event.stopPropagation());
  row.link.addEventListener("focus", () => setCurrent(data.id));
  $("rows").prepend(tr);
  list.rows.set(data.id, row);
  return row;
}

// Only one row is a stop of the Tab key; the arrow keys lead to the others.
function showRovingRow() {
  if (!list.rows.has(list.current)) setCurrent(list.rows.size ? newestId() : null);
}

function setCurrent(id) {
  const last = list.rows.get(list.current);
  if (last) last.link.tabIndex = -1;
  list.current = id;
  if (id !== null) list.rows.get(id).link.tabIndex = 0;
}

function moveInList(event) {
  const row = document.activeElement.closest?.("#rows tr");
  if (!row) return;
  const target = {
    ArrowDown: row.nextElementSibling,
    ArrowUp: row.previousElementSibling,
    Home: row.parentElement.firstElementChild,
    End: row.parentElement.lastElementChild,
  }[event.key];
  if (target === undefined) return;
  event.preventDefault();
  target?.querySelector("a").focus();
}

function announceEnded() {
  const now = Date.now();
  if (!list.ended || now - list.announced < ANNOUNCE_MS) return;
  const failed = list.failed ? `, ${list.failed} failed` : "";
  if (list.announced) announce(`${list.ended} requests ended${failed}`);
  Object.assign(list, { ended: 0, failed: 0, announced: now });
}

function announce(text) {
  $("announcer").textContent = text;
}

// ── one request ─────────────────────────────────────────────────────────────────────────────

const detail = { id: null, abort: null };

function followHash() {
  const id = Number(/^#request-(\d+)$/.exec(location.hash)?.[1] ?? 0) || null;
  if (id === detail.id) return;
  const before = detail.id;
  detail.abort?.abort();
  list.rows.get(before)?.tr.classList.remove("chosen");
  detail.id = id;
  $("detail").hidden = id === null;
  $("chat").hidden = id !== null;
  if (id === null) {
    list.rows.get(before)?.link.focus();
    return;
  }
  list.rows.get(id)?.tr.classList.add("chosen");
  setText($("detail-title"), `Request ${id}`);
  $("detail-json").href = `requests/${id}`;
  $("detail-body").hidden = true;
  $("detail-error").hidden = true;
  $("detail").scrollTop = 0;
  $("detail-title").focus({ preventScroll: true });
  watch(id);
}

// Shows a request until it has ended, or another one is opened.
async function watch(id) {
  detail.abort = new AbortController();
  const { signal } = detail.abort;
  try {
    let data;
    do {
      if (data) await new Promise((resolve) => setTimeout(resolve, DETAIL_MS));
      if (signal.aborted) return;
      data = await ask(`requests/${id}`, signal);
      if (!signal.aborted) showDetail(data);
    } while (data.outcome === null);
  } catch (error) {
    if (!signal.aborted) showDetailError(error);
  }
}

function showDetailError(error) {
  const text = error instanceof Refused ? error.message : "The server does not answer.";
  setText($("detail-error"), text);
  $("detail-error").hidden = false;
}

function showDetail(data) {
  const isFirst = $("detail-body").hidden;
  $("detail-body").hidden = false;
  showFacts($("facts"), facts(data));
  showTimeline(data);
  const { request, prompt, answer } = data;
  showText("prompt", prompt?.text ?? "", prompt ? leftOut(prompt) : "not rendered");
  const count = data.completion_tokens === null ? "" : `${data.completion_tokens} tokens`;
  showText("answer", answer.text ?? answer.sent, [answer.text === null && answer.sent && "as sent", count, leftOut(answer)]);
  const body = typeof request.body === "string" ? request.body : JSON.stringify(request.body, null, 2);
  showText("body", request.body === null ? "" : body, [size(request.bytes), leftOut(request)]);
  showText("sent", answer.sent, [size(answer.bytes), data.stream && `${answer.num_pieces} events`, leftOut(answer)]);
  showFacts($("request-headers"), Object.entries(request.headers));
  showFacts($("answer-headers"), Object.entries(answer.headers));
  if (isFirst) $("detail").scrollIntoView();
}

function facts(data) {
  const { text } = result(data);
  const speed = data.tokens_per_second;
  const rate = speed === null ? "" : `${speed < 100 ? speed : Math.round(speed)} tokens/s`;
  const gap = data.longest_gap_ms ? `longest gap ${duration(data.longest_gap_ms)}` : "";
  const first = data.first_byte_ms === null ? "" : `first byte after ${duration(data.first_byte_ms)}`;
  const cached = data.cached_tokens ? `${data.cached_tokens} of the prompt were cached` : "";
  return [
    ["Result", [data.status, text].filter((part, i, all) => part && !(i === 0 && all[1].startsWith(`${part} `))).join(" ")],
    ["Model", data.model ?? "–"],
    ["Answered by", data.answered_by ?? "–"],
    ["Call", `${data.method} ${data.path}${data.query ? `?${data.query}` : ""}`],
    ["Came in", new Date(data.time).toLocaleString()],
    ["Took", [duration(data.duration_ms), first, rate, gap].filter(Boolean).join(", ")],
    ["Tokens", [tokens(data), cached].filter(Boolean).join(", ")],
    ["Fault", data.fault ?? ""],
  ].filter(([, value]) => value);
}

function showFacts(list, pairs) {
  const texts = pairs.flat().map(String);
  while (list.children.length > texts.length) list.lastChild.remove();
  texts.forEach((text, i) => {
    const item = list.children[i] ?? list.appendChild(document.createElement(i % 2 ? "dd" : "dt"));
    setText(item, text);
  });
}

function showText(id, text, notes) {
  const pre = $(id);
  const follows = pre.scrollTop > 0 && pre.scrollTop + pre.clientHeight >= pre.scrollHeight - 4;
  setText(pre, text);
  if (follows) pre.scrollTop = pre.scrollHeight;
  setText($(`${id}-note`), [notes].flat().filter(Boolean).join(", "));
}

function leftOut(part) {
  return part.bytes_left_out ? `${size(part.bytes_left_out)} more are not kept` : "";
}

function showTimeline(data) {
  const first = data.first_byte_ms ?? data.duration_ms;
  const part = data.duration_ms ? first / data.duration_ms : 1;
  $("timeline-wait").style.width = `${100 * part}%`;
  $("timeline-stream").style.width = `${100 * (1 - part)}%`;
  $("timeline").setAttribute("aria-label", `${duration(first)} until the first byte, ${duration(data.duration_ms - first)} from there to the last`);
  $("timeline").title = $("timeline").getAttribute("aria-label");
}

function closeDetail() {
  history.pushState(null, "", location.pathname);
  followHash();
}

// ── the load ────────────────────────────────────────────────────────────────────────────────

let samples = [];

async function refreshLoad() {
  const body = await ask(`load?after=${samples.at(-1)?.time ?? 0}`);
  showStatus(body.status === "ready" ? "ready" : "", body.status);
  samples.push(...body.samples);
  const now = samples.at(-1);
  if (!now || !body.samples.length) return;
  samples = samples.filter((sample) => sample.time > now.time - MOST_SPAN_S);
  setText($("now-running"), String(now.running));
  setText($("now-waiting"), String(now.waiting));
  setText($("now-free"), now.slots ? `${now.free_slots}/${now.slots}` : "–");
  setText($("now-tokens"), String(Math.round(now.tokens_per_second)));
  plot($("plot-tokens"), { tokens_per_second: "tokens" }, true);
  plot($("plot-requests"), { slots: "slots", waiting: "waiting", running: "running" }, false);
  $("plot-tokens").setAttribute("aria-label", `Tokens per second: now ${now.tokens_per_second}, at most ${most(["tokens_per_second"])} in the last 5 minutes`);
  $("plot-requests").setAttribute("aria-label", `Requests: ${now.running} running, ${now.waiting} waiting, ${now.slots} slots; at most ${most(["running"])} running in the last 5 minutes`);
}

function most(names) {
  return Math.max(0, ...samples.flatMap((sample) => names.map((name) => sample[name])));
}

// Lines for these figures of the samples, by the classes that give them their colours.
function plot(place, lines, isFilled) {
  const end = samples.at(-1).time;
  const span = Math.max(LEAST_SPAN_S, end - samples[0].time);
  const top = roundUp(most(Object.keys(lines)));
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} 100`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  for (const y of [0, 50, 100]) add(svg, "line", { class: "grid", x1: 0, x2: WIDTH, y1: y, y2: y });
  for (const [name, className] of Object.entries(lines)) {
    const x = (sample) => (WIDTH * (1 - (end - sample.time) / span)).toFixed(1);
    const y = (sample) => (100 - (100 * sample[name]) / top).toFixed(1);
    const line = samples.map((sample) => `${x(sample)} ${y(sample)}`).join("L");
    if (isFilled) add(svg, "path", { class: "area", d: `M${x(samples[0])} 100L${line}L${WIDTH} 100Z` });
    add(svg, "path", { class: className, d: `M${line}` });
  }
  const ago = span < 100 ? `${Math.round(span)} s ago` : `${Math.round(span / 60)} min ago`;
  place.replaceChildren(svg, element("span", "most", String(top)), element("span", "start", ago), element("span", "end", "now"));
}

function add(svg, name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  svg.append(made);
}

// The next of 4, 8, 10, 20, 40, 80, 100 …
function roundUp(value) {
  let step = 1;
  while (step * 8 < value) step *= 10;
  return [1, 2, 4, 8].map((n) => n * step).find((n) => n >= Math.max(value, 4)) ?? step * 10;
}

// ── the chat ────────────────────────────────────────────────────────────────────────────────

const chat = { messages: [], abort: null };

async function loadModels() {
  const body = await ask(`${API}/models/search?per_page=1000`);
  const chosen = $("model").value;
  $("model").replaceChildren(...body.result.map(({ name }) => new Option(name, name, false, name === chosen)));
}

async function send(event) {
  event.preventDefault();
  const text = $("message").value.trim();
  if (!text || chat.abort) return;
  chat.abort = new AbortController();
  $("message").value = "";
  setBusy(true);
  addTurn("user", text);
  const turn = addTurn("assistant", "");
  const said = element("span", "");
  turn.append(said);
  const question = { role: "user", content: text };
  try {
    const started = performance.now();
    await generate([...chat.messages, question], (piece) => {
      said.textContent += piece;
      scrollToEnd();
    });
    note(turn, `${duration(performance.now() - started)}`);
    announce(`Answer: ${said.textContent}`);
  } catch (error) {
    fail(turn, said, error, text);
  } finally {
    if (said.textContent) chat.messages.push(question, { role: "assistant", content: said.textContent });
    chat.abort = null;
    setBusy(false);
  }
}

async function generate(messages, onText) {
  const answer = await fetch(`${API}/run/${$("model").value}`, {
    method: "POST",
    headers: { ...headers(), "content-type": "application/json" },
    body: JSON.stringify(inputs(messages)),
    signal: chat.abort.signal,
  });
  if (answer.headers.get("content-type") !== "text/event-stream") {
    const body = await answer.json();
    if (!answer.ok) throw new Refused(errorText(body, answer.status));
    onText(String(body.result.response));
    return;
  }
  let isDone = false;
  for await (const data of eventsOf(answer.body)) {
    if (data === "[DONE]") isDone = true;
    else onText(String(JSON.parse(data).response ?? ""));
  }
  if (!isDone) throw new Refused("the stream ended before [DONE]");
}

function inputs(messages) {
  const system = $("system").value.trim();
  const made = {
    messages: system ? [{ role: "system", content: system }, ...messages] : messages,
    stream: $("stream").checked,
  };
  for (const [key, id] of [["temperature", "temperature"], ["seed", "seed"], ["max_tokens", "max-tokens"]]) {
    if ($(id).value !== "") made[key] = Number($(id).value);
  }
  return made;
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

function fail(turn, said, error, text) {
  if (error.name === "AbortError") {
    note(turn, "stopped");
    announce("Stopped");
    return;
  }
  const reason = error instanceof TypeError ? "the connection broke off" : error.message;
  turn.classList.add("failed");
  note(turn, reason);
  announce(`Failed: ${reason}`);
  if (!said.textContent) $("message").value ||= text;
}

function addTurn(role, text) {
  const turn = element("div", `turn ${role}`, text);
  $("turns").append(turn);
  scrollToEnd();
  return turn;
}

function note(turn, text) {
  turn.append(element("small", "", text));
  scrollToEnd();
}

function scrollToEnd() {
  $("turns").scrollTop = $("turns").scrollHeight;
}

function setBusy(isBusy) {
  $("turns").setAttribute("aria-busy", String(isBusy));
  $("chat-send").disabled = isBusy;
  $("chat-stop").disabled = !isBusy;
  if (document.activeElement === document.body) $("message").focus();
}

function newChat() {
  chat.abort?.abort();
  chat.messages = [];
  $("turns").replaceChildren();
  $("message").focus();
}

// ── the start ───────────────────────────────────────────────────────────────────────────────

$("chat-form").addEventListener("submit", send);
$("chat-stop").addEventListener("click", () => {
  chat.abort?.abort();
  $("message").focus();
});
$("chat-new").addEventListener("click", newChat);
$("message").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("chat-form").requestSubmit();
});
$("detail-close").addEventListener("click", closeDetail);
$("rows").addEventListener("keydown", moveInList);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && detail.id !== null) closeDetail();
});
window.addEventListener("hashchange", followHash);
window.addEventListener("popstate", followHash);

async function start() {
  repeat(refreshLoad, 1000);
  await attempt(refreshList);
  followHash();
  repeat(refreshList, LIST_MS);
  while (!(await attempt(loadModels))) await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
}

start();
