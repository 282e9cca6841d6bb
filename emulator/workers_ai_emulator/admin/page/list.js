// The list of the requests in the journal, the newest first.

import { fetchJson } from "./api.js";
import { $, element, setText } from "./dom.js";
import { clock, duration, outcome, shortModel, tokens } from "./format.js";
import { announce } from "./status.js";

const MAX_ROWS = 200;
const ANNOUNCE_MS = 5000;

export class RequestList {
  #rows = new Map(); // request id -> row of the table
  #epoch = null; // the journal's id, which changes when the journal is cleared
  #chosen = null; // the id of the request that the panel shows
  #current = null; // the id of the request whose row the Tab key reaches
  #ended = { count: 0, failed: 0, announcedAt: 0 };

  constructor() {
    $("rows").addEventListener("keydown", (event) => this.#moveFocus(event));
  }

  async refresh() {
    const body = await fetchJson(`requests?limit=${MAX_ROWS}&after=${this.#lastKnown()}`);
    if (body.epoch !== this.#epoch) {
      const isFirst = this.#epoch === null;
      this.#clear(body.epoch);
      if (!isFirst) return this.refresh(); // the journal was cleared: fetch all its requests
    }
    for (const request of body.requests.reverse()) this.#show(request);
    while (this.#rows.size > MAX_ROWS) this.#remove(Math.min(...this.#rows.keys()));
    if (!this.#rows.has(this.#current)) this.#setCurrent(this.#rows.size ? this.#newest() : null);
    $("requests-empty").hidden = this.#rows.size > 0;
    showCount(body);
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

  #clear(epoch) {
    this.#epoch = epoch;
    for (const id of [...this.#rows.keys()]) this.#remove(id);
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
    $("rows").prepend(row.tr);
    this.#rows.set(request.id, row);
    return row;
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
    const target = {
      ArrowDown: tr.nextElementSibling,
      ArrowUp: tr.previousElementSibling,
      Home: tr.parentElement.firstElementChild,
      End: tr.parentElement.lastElementChild,
    }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    target?.querySelector("a").focus();
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

function showCount({ kept, dropped }) {
  const note = dropped ? `, ${dropped} older ones dropped` : "";
  setText($("requests-count"), kept ? `${kept} kept${note}` : "");
}

function createRow(request) {
  const row = {
    request: { ...request, outcome: null },
    tr: document.createElement("tr"),
    link: createLink(request),
    badge: element("span", "result"),
    model: element("td", "model"),
    tokens: element("td", "number"),
    duration: element("td", "number"),
    fault: element("td", "fault"),
  };
  const [time, result] = [element("td", ""), element("td", "")];
  time.append(row.link);
  result.append(row.badge);
  row.tr.append(time, row.model, result, row.tokens, row.duration, row.fault);
  row.tr.addEventListener("click", () => row.link.click());
  return row;
}

function createLink(request) {
  const link = element("a", "", clock(request.time));
  link.href = `#request-${request.id}`;
  link.tabIndex = -1;
  link.title = request.time;
  link.addEventListener("click", (event) => event.stopPropagation());
  return link;
}

function fillRow({ request, link, badge, model, ...cells }) {
  const { kind, text } = outcome(request);
  badge.className = `result ${kind}`;
  setText(badge, text);
  setText(model, shortModel(request.model));
  model.title = request.model ?? "";
  model.dataset.fault = request.fault ?? "";
  setText(cells.tokens, tokens(request));
  setText(cells.duration, duration(request.duration_ms));
  setText(cells.fault, request.fault ?? "");
  link.setAttribute("aria-label", `Request ${request.id}, ${clock(request.time)}, ${shortModel(request.model)}, ${text}`);
}
