"use strict";

const { EmulatorError, checkNames } = require("./errors.cjs");
const { exchange } = require("./connection.cjs");
const { DEFAULT_ACCOUNT, checkAccountId } = require("./accounts.cjs");

const MAX_REQUESTS = 1000;
const MAX_LISTED = 20;

/** An emulator and one of its accounts. `index.d.cts` describes the methods. */
class Emulator {
  #child;
  #query; // the account of control requests; empty for all accounts

  /** `child`: the process of an emulator that this program has started; null for any other. */
  constructor({ url, account, apiToken, child = null }) {
    this.url = originOf(url);
    this.accountId = checkAccountId(account ?? DEFAULT_ACCOUNT);
    this.#query = account === null ? "" : `account=${this.accountId}`;
    this.apiToken = apiToken ?? defaultToken();
    this.#child = child;
  }

  get baseUrl() {
    return `${this.url}/client/v4`;
  }

  get openaiBaseUrl() {
    return `${this.baseUrl}/accounts/${this.accountId}/ai/v1`;
  }

  get bindingUrl() {
    return new URL(`${this.url}/_emulator/accounts/${this.accountId}`);
  }

  get output() {
    return this.#child?.output() ?? "";
  }

  get endReason() {
    return this.#child?.endReason() ?? null;
  }

  runUrl(model) {
    return `${this.baseUrl}/accounts/${this.accountId}/ai/run/${model}`;
  }

  env() {
    const users = (process.env.no_proxy || process.env.NO_PROXY || "").trim();
    const hosts = users.split(",").filter(Boolean);
    // Many clients read `*` only if it is the whole value.
    const ours = users === "*" ? [] : [new URL(this.url).hostname];
    const noProxy = [...new Set([...hosts, ...ours])].join(",");
    return {
      CLOUDFLARE_BASE_URL: this.baseUrl,
      CLOUDFLARE_ACCOUNT_ID: this.accountId,
      CLOUDFLARE_API_TOKEN: this.apiToken,
      NO_PROXY: noProxy,
      no_proxy: noProxy,
    };
  }

  withAccount(account) {
    const { url, apiToken } = this;
    return new Emulator({ url, account, apiToken, child: this.#child });
  }

  async script(...rules) {
    await this.#checkBackend();
    await this.#call("PUT", "script", rules.flat().map(toRule));
  }

  async fault(fault, options = {}) {
    const limit = options.nth === undefined ? { times: 1 } : {};
    const rule = typeof fault === "string" ? { fault, ...limit, ...options } : fault;
    await this.#call("POST", "faults", rule);
  }

  async requests() {
    const list = await this.#call("GET", `requests?limit=${MAX_REQUESTS}`);
    if (list.dropped > 0) {
      throw new EmulatorError(
        `the emulator keeps only the newest calls, and has removed ${list.dropped} calls of this ` +
          "account since the last reset; call reset() more often, or send fewer calls",
      );
    }
    return this.#entries(list.requests.reverse());
  }

  async unmatched() {
    return (await this.#call("GET", "unmatched")).requests;
  }

  async unused() {
    return this.#call("GET", "unused");
  }

  async assertCalled(conditions = {}) {
    checkNames(conditions, ["times", "contains", "model"]);
    const { times, contains, model } = conditions;
    const calls = await this.requests();
    const wanted = calls.filter(
      (call) =>
        (model === undefined || isMatch(call.model ?? "", model)) &&
        (contains === undefined || hasText(call.request.body, contains)),
    );
    if (times === undefined ? wanted.length > 0 : wanted.length === times) return;
    const described = [
      model === undefined ? "" : ` of ${model}`,
      contains === undefined ? "" : ` with ${JSON.stringify(contains)}`,
    ].join("");
    const expected = times === undefined ? "at least 1 call" : numberOf(times);
    fail(`expected ${expected}${described}, but found ${wanted.length}. ${listOf(calls)}`);
  }

  async assertAllRulesUsed() {
    const { rules } = await this.unused();
    if (rules.length === 0) return;
    const lines = rules.map(({ number, rule }) => `\n  rule ${number}: ${JSON.stringify(rule)}`);
    const calls = await this.requests();
    fail(`no call has used these rules of the script:${lines.join("")}\n${listOf(calls)}`);
  }

  async assertAllMatched() {
    const { num_unmatched: number, requests: rows } = await this.#call("GET", "unmatched");
    if (number === 0) return;
    const calls = await this.#entries(rows.slice(0, MAX_LISTED));
    const list = listOf(calls, number);
    fail(`no rule of the script and no recording answered ${numberOf(number)}. ${list}`);
  }

  async reset() {
    await this.#call("POST", "reset");
  }

  async stop() {
    await this.#child?.stop();
  }

  /** Throws EmulatorError if the emulator's backend uses no rules. */
  async #checkBackend() {
    const { settings = {} } = await this.#call("GET", "info");
    const { backend = "scripted", "record-from": source } = settings;
    if (backend === "scripted" || (backend === "record" && source === "scripted")) return;
    throw new EmulatorError(
      `script() would have no effect, because the emulator's backend is \`${backend}\`: ` +
        "use the backend `scripted` (--backend scripted)",
    );
  }

  /** Returns the whole journal entries of these rows. */
  async #entries(rows) {
    const entries = [];
    for (const { id } of rows) entries.push(await this.#call("GET", `requests/${id}`));
    return entries;
  }

  async #call(method, path, body) {
    const separator = path.includes("?") ? "&" : "?";
    const target = `/_emulator/${path}${this.#query && separator}${this.#query}`;
    const { status, text } = await this.#exchange(method, target, body);
    if (status >= 400) throw new EmulatorError(errorText(status, target, text));
    return JSON.parse(text);
  }

  async #exchange(method, path, body) {
    try {
      return await exchange({ origin: this.url, method, path, token: this.apiToken, body });
    } catch (error) {
      const reason = this.endReason ?? (error.message || error.code);
      throw new EmulatorError(
        `the emulator at ${this.url} does not answer: ${reason}` + indented(this.output),
      );
    }
  }
}

// node 18 has no Symbol.asyncDispose
if (Symbol.asyncDispose) {
  Emulator.prototype[Symbol.asyncDispose] = function () {
    return this.stop();
  };
}

/** Converts a string to the rule that answers every request with this string. */
function toRule(rule) {
  return typeof rule === "string" ? { answer: rule } : rule;
}

/** Returns the first of the tokens that an emulator reads from its environment, or `local`. */
function defaultToken() {
  const tokens = globalThis.process?.env?.WORKERS_AI_EMULATOR_API_TOKEN ?? "";
  return tokens.trim().split(/\s+/)[0] || "local";
}

function originOf(url) {
  try {
    const { protocol, origin } = new URL(url);
    if (protocol === "http:") return origin;
  } catch {
    // the error below names the URL
  }
  throw new EmulatorError(`url: it takes a URL such as http://127.0.0.1:8790${butNot(url)}`);
}

/** Returns `, not URL` without user name, password and query; empty if `@` is after the host. */
function butNot(url) {
  const shown = String(url).replace(/^([a-z][a-z\d+.-]*:\/\/)?[^/?#]*@/i, "$1");
  return shown.includes("@") ? "" : `, not ${shown.replace(/[?#][^]*$/, "")}`;
}

function errorText(status, target, text) {
  try {
    return JSON.parse(text).errors.map((error) => error.message).join("\n");
  } catch {
    return `the server answered ${target} with status ${status}: is it workers-ai-emulator?`;
  }
}

/** Returns whether the pattern, in which `*` matches any text, matches the whole text. */
function isMatch(text, pattern) {
  const parts = pattern.split("*").map((part) => part.replace(/[\\^$.|?*+()[\]{}]/g, "\\$&"));
  return new RegExp(`^${parts.join("[^]*")}$`).test(text);
}

/** Returns whether a string anywhere in a JSON value contains the text. */
function hasText(value, text) {
  if (typeof value === "string") return value.includes(text);
  return value !== null && typeof value === "object"
    ? Object.values(value).some((item) => hasText(item, text))
    : false;
}

function numberOf(calls) {
  return `${calls} call${calls === 1 ? "" : "s"}`;
}

/** Describes calls. `number` is the number of all calls, if `calls` has only some of them. */
function listOf(calls, number = calls.length) {
  if (number === 0) return "There were no calls.";
  const lines = calls.slice(0, MAX_LISTED).map((call) => {
    const body = (JSON.stringify(call.request.body) ?? "").slice(0, 120);
    return `\n  ${call.method} ${call.path} (status ${call.status}): ${body}`;
  });
  const others = number - lines.length;
  return `The calls:${lines.join("")}${others > 0 ? `\n  and ${others} more` : ""}`;
}

function indented(output) {
  return output ? `\nIts output:\n  ${output.trimEnd().split("\n").join("\n  ")}` : "";
}

function fail(message) {
  const { AssertionError } = require("node:assert");
  throw new AssertionError({ message });
}

module.exports = { Emulator, toRule };
