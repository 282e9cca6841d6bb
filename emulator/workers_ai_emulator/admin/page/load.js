// Shows the server's load: the current numbers in the header, and two charts of the last 5 minutes.

import { fetchJson } from "./api.js";
import { drawChart, highest } from "./chart.js";
import { $, setText } from "./dom.js";
import { showStatus } from "./status.js";

const MOST_SPAN_S = 300;

export class Load {
  #samples = [];

  async refresh() {
    const body = await fetchJson(`load?after=${this.#samples.at(-1)?.time ?? 0}`);
    showStatus(body.status === "ready" ? "ready" : "", body.status);
    if (!body.samples.length) return;
    const now = body.samples.at(-1);
    const samples = [...this.#samples, ...body.samples];
    this.#samples = samples.filter((sample) => sample.time > now.time - MOST_SPAN_S);
    showFigures(now);
    showTokens(this.#samples, now);
    showRequests(this.#samples, now);
  }
}

function showFigures(now) {
  setText($("now-running"), String(now.running));
  setText($("now-waiting"), String(now.waiting));
  setText($("now-free"), now.slots ? `${now.free_slots}/${now.slots}` : "–");
  setText($("now-tokens"), String(Math.round(now.tokens_per_second)));
}

function showTokens(samples, now) {
  const place = $("plot-tokens");
  const most = highest(samples, ["tokens_per_second"]);
  drawChart(place, samples, { tokens_per_second: "tokens" }, { isFilled: true });
  place.setAttribute("aria-label", `Tokens per second: now ${now.tokens_per_second}, at most ${most} in the last 5 minutes`);
}

function showRequests(samples, now) {
  const place = $("plot-requests");
  const most = highest(samples, ["running"]);
  drawChart(place, samples, { slots: "slots", waiting: "waiting", running: "running" });
  place.setAttribute("aria-label", `Requests: ${now.running} running, ${now.waiting} waiting, ${now.slots} slots; at most ${most} running in the last 5 minutes`);
}
