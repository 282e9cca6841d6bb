// The list of the requests in the journal, the newest first.

import { fetchJson } from "./api.js";
import { $, element, setText } from "./dom.js";
import { clock, duration, joined, origin, outcome, shortAccount, shortModel, tokens } from "./format.js";
import { announce } from "./status.js";

const MAX_ROWS = 200;
const ANNOUNCE_MS = 5000;

export class RequestList {
  #rows = new Map(); // request id -> row of the table
  #epoch = null; // the journal's id, which changes when the journal is cleared
  #chosen = null; // the id of the request that the panel shows
  #counts = { kept: 0, dropped: 0 }; // how many requests the journal stores, and has dropped
  #current = null; // the id of the request whose row the Tab key reaches
  #ended = { count: 0, failed: 0, announcedAt: 0 };

  constructor() {
    $("rows").addEventListener("keydown", (event) => this.#moveFocus(event));
    $("filter").addEventListener("input", () => this.#filter());
    $("filter-kind").addEventListener("change", () => this.#filter());
  }

  async refresh() {
    let body = await fetchJson(`requests?limit=${MAX_ROWS}&after=${this.#lastKnown()}`);
    if (body.epoch !== this.#epoch) {
      if (this.#epoch !== null) body = await fetchJson(`requests?limit=${MAX_ROWS}`); // requests were cleared
      this.#epoch = body.epoch;
      this.#removeOthers(body.requests);
    }
    for (const request of body.requests.reverse()) this.#show(request);
    while (this.#rows.size > MAX_ROWS) this.#remove(Math.min(...this.#rows.keys()));
    this.#counts = body;
    this.#filter();
    this.#announceEnded();
  }

  choose(id) {
    this.#rows.get(this.#chosen)?.tr.classList.remove("chosen");
    this.#chosen = id;
    this.#rows.get(id)?.tr.classList.add("chosen");
  }

  focus(id) {
    this.#rows.get(id)?.link.focus();
  }

  // Hides the rows that the filter excludes.
  #filter() {
    const isShown = readFilter();
    const shown = [...this.#rows.values()].filter((row) => {
      row.tr.hidden = !isShown(row.request);
      return !row.tr.hidden;
    });
    const ids = shown.map((row) => row.request.id);
    if (!ids.includes(this.#current)) this.#setCurrent(ids.length ? Math.max(...ids) : null);
    $("requests-empty").hidden = this.#rows.size > 0;
    $("requests-none").hidden = shown.length > 0 || this.#rows.size === 0;
    showCount(shown.length, this.#rows.size, this.#counts);
  }

  // Returns the id before the oldest running request, or the newest id if no request runs. The page
  // fetches only requests with higher ids, because the earlier requests no longer change.
  #lastKnown() {
    if (this.#epoch === null) return 0;
    const requests = [...this.#rows.values()].map((row) => row.request);
    const running = requests.filter((request) => request.outcome === null);
    return running.length ? Math.min(...running.map((request) => request.id)) - 1 : this.#newest();
  }

  #newest() {
    return Math.max(0, ...this.#rows.keys());
  }

  // Removes the rows of all requests that are not in the list `requests`. Another server's request
  // can have the same id, but not the same time.
  #removeOthers(requests) {
    const times = new Map(requests.map(({ id, time }) => [id, time]));
    for (const [id, row] of [...this.#rows]) {
      if (times.get(id) !== row.request.time) this.#remove(id);
    }
  }

  #remove(id) {
    this.#rows.get(id).tr.remove();
    this.#rows.delete(id);
  }

  #show(request) {
    const row = this.#rows.get(request.id) ?? this.#add(request);
    const hasEnded = request.outcome !== null && row.request.outcome === null;
    row.request = request;
    fillRow(row);
    if (hasEnded) this.#count(outcome(request).kind);
  }

  #add(request) {
    const row = createRow(request);
    row.tr.classList.toggle("chosen", request.id === this.#chosen);
    row.link.addEventListener("focus", () => this.#setCurrent(request.id));
    $("rows").insertBefore(row.tr, this.#rowBelow(request.id));
    this.#rows.set(request.id, row);
    return row;
  }

  // Returns the first row with a smaller id, or null. Rows are added at the end, too, if requests
  // were cleared.
  #rowBelow(id) {
    return [...$("rows").children].find((tr) => Number(tr.dataset.id) < id) ?? null;
  }

  #count(kind) {
    this.#ended.count += 1;
    if (kind === "error" || kind === "cut") this.#ended.failed += 1;
  }

  // Makes the row of the request with this id the only row that the Tab key reaches. The arrow keys
  // move to other rows.
  #setCurrent(id) {
    const last = this.#rows.get(this.#current);
    if (last) last.link.tabIndex = -1;
    this.#current = id;
    if (id !== null) this.#rows.get(id).link.tabIndex = 0;
  }

  #moveFocus(event) {
    const tr = document.activeElement.closest?.("#rows tr");
    if (!tr) return;
    const shown = [...$("rows").children].filter((each) => !each.hidden);
    const place = shown.indexOf(tr);
    const target = { ArrowDown: place + 1, ArrowUp: place - 1, Home: 0, End: shown.length - 1 }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    shown[target]?.querySelector("a").focus();
  }

  // Announces to screen readers how many requests have ended, at most once in ANNOUNCE_MS. Skips
  // the first announcement, because it would count requests that ended before the page was opened.
  #announceEnded() {
    const now = Date.now();
    const { count, failed, announcedAt } = this.#ended;
    if (!count || now - announcedAt < ANNOUNCE_MS) return;
    if (announcedAt) announce(`${count} requests ended${failed ? `, ${failed} failed` : ""}`);
    this.#ended = { count: 0, failed: 0, announcedAt: now };
  }
}

// Returns a function that tells whether the filter includes a request.
function readFilter() {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const kind = $("filter-kind").value;
  return (request) => isOfKind(request, kind) && words.every((word) => searchText(request).includes(word));
}

function isOfKind(request, kind) {
  if (kind === "unmatched") return request.unmatched;
  return kind === "all" || ["error", "cut"].includes(outcome(request).kind);
}

// Returns the text of a request in which the words of the filter are searched.
function searchText(request) {
  const { id, excerpt, model, answered_by, account, path, fault, stream } = request;
  const parts = [`#${id}`, excerpt, model, answered_by, account, path, fault, stream && "stream", origin(request), outcome(request).text];
  return joined(parts, " ").toLowerCase();
}

function showCount(numShown, numRows, { kept, dropped }) {
  const isFiltered = numShown < numRows;
  const loaded = numRows < kept ? `the newest ${numRows}` : String(numRows);
  const note = dropped > 0 && `${dropped} older ones dropped`;
  setText($("requests-count"), kept ? joined([isFiltered ? `${numShown} of ${loaded}` : loaded, note]) : "");
}

function createRow(request) {
  const row = {
    request: { ...request, outcome: null },
    tr: document.createElement("tr"),
    link: createLink(request),
    excerpt: element("div", ""),
    about: element("div", "second"),
    badge: element("span", "result"),
    mark: element("div", "second mark fault"),
    duration: element("div", ""),
    tokens: element("div", "second tokens"),
  };
  const result = element("div", "");
  result.append(row.badge);
  const time = element("div", "");
  time.append(row.link);
  row.tr.append(
    cell("", time, element("div", "second", `#${request.id}`)),
    cell("", row.excerpt, row.about),
    cell("", result, row.mark),
    cell("number", row.duration, row.tokens),
  );
  row.tr.dataset.id = request.id;
  row.tr.addEventListener("click", () => row.link.click());
  return row;
}

function cell(className, ...lines) {
  const td = element("td", className);
  td.append(...lines);
  return td;
}

function createLink(request) {
  const link = element("a", "", clock(request.time));
  link.href = `#request-${request.id}`;
  link.tabIndex = -1;
  link.title = request.time;
  link.addEventListener("click", (event) => event.stopPropagation());
  return link;
}

function fillRow({ request, link, badge, ...lines }) {
  const { kind, text } = outcome(request);
  badge.className = `result ${kind}`;
  setText(badge, text);
  setText(lines.excerpt, request.excerpt || (request.outcome === null ? "…" : "no prompt read"));
  lines.excerpt.className = request.excerpt ? "" : "empty";
  lines.excerpt.title = request.excerpt ?? "";
  setText(lines.about, aboutText(request));
  lines.about.title = joined([request.model, request.account && `account ${request.account}`]);
  setText(lines.mark, joined([request.fault, request.unmatched && "unmatched"]));
  setText(lines.duration, duration(request.duration_ms));
  setText(lines.tokens, tokens(request));
  link.setAttribute("aria-label", `Request ${request.id}, ${clock(request.time)}, ${shortModel(request.model)}, ${text}`);
}

// Returns the second line of a row: the model, whether the response is a stream, and so on.
function aboutText(request) {
  const parts = [
    shortModel(request.model),
    request.stream && "stream",
    !request.unmatched && origin(request),
    request.account && `account ${shortAccount(request.account)}`,
  ];
  return joined(parts, " · ");
}
