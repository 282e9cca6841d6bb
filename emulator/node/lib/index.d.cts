/// <reference lib="esnext.disposable" />

/** A rule of a script. docs/scripts.md of workers-ai-emulator describes all keys. */
export interface Rule {
  answer?: string;
  json?: unknown;
  tool_calls?: { name: string; arguments?: Record<string, unknown>; id?: string }[];
  reasoning?: string;
  model?: string;
  contains?: string;
  matches?: string;
  last_role?: "system" | "user" | "assistant" | "tool";
  times?: number;
  [key: string]: unknown;
}

/** A fault rule. docs/faults.md of workers-ai-emulator describes all keys. */
export interface FaultRule {
  fault: string;
  /** The number of calls that get the fault; null or absent: all calls. */
  times?: number | null;
  /** The numbers of the calls that get the fault, from 1 on; instead of `times`. */
  nth?: number | readonly number[];
  probability?: number;
  seed?: number;
  model?: string;
  after_events?: number;
  seconds?: number;
  [key: string]: unknown;
}

/** The summary of a call in the emulator's journal. */
export interface CallRow {
  id: number;
  time: string;
  method: string;
  path: string;
  account: string | null;
  model: string | null;
  status: number | null;
  outcome: string | null;
  fault: string | null;
  /** The number of the rule that gave the completion, from 1. */
  rule: number | null;
  /** The name of the file with the recording that was replayed. */
  recording: string | null;
  /** Whether no rule and no recording applied to the call. */
  unmatched: boolean;
  stream: boolean;
  [key: string]: unknown;
}

/** A call in the emulator's journal, with its request and its response (`answer`). */
export interface Call extends CallRow {
  request: { headers: unknown; body: any; [key: string]: unknown };
  answer: { headers: unknown; [key: string]: unknown };
}

/** Rules and recordings that no call has used. */
export interface Unused {
  rules: { number: number; rule: Rule; times_left: number | null; used: number }[];
  recordings: string[];
}

/** Conditions for calls; a call must meet all of them. */
export interface CallConditions {
  /** The exact number of calls; by default, at least one. */
  times?: number;
  /** A text that a string in the request's body must contain. */
  contains?: string;
  /** The model's name, in which `*` matches any text. */
  model?: string;
}

/**
 * An emulator, and the account whose rules, faults and calls the methods set and return.
 *
 * All methods that return a promise reject with EmulatorError if the emulator does not answer, or if
 * it rejects the request.
 */
export class Emulator {
  private constructor();
  /** The emulator's URL without a path, such as `http://127.0.0.1:8790`. */
  readonly url: string;
  /** 32 hexadecimal digits. */
  readonly accountId: string;
  readonly apiToken: string;
  /** The base URL for Cloudflare's clients, which ends with `/client/v4`. */
  readonly baseUrl: string;
  /** The base URL for OpenAI's clients. */
  readonly openaiBaseUrl: string;
  /** The URL for AI bindings: see `aiBinding`. */
  readonly bindingUrl: URL;
  /** The last 16 KiB of the emulator's stderr; empty if this program has not started it. */
  readonly output: string;
  /** How the emulator has ended; null while it runs, or if this program has not started it. */
  readonly endReason: string | null;
  /** Returns the URL of the endpoint that runs the model. */
  runUrl(model: string): string;
  /**
   * Returns environment variables for Cloudflare's clients: CLOUDFLARE_BASE_URL,
   * CLOUDFLARE_ACCOUNT_ID and CLOUDFLARE_API_TOKEN; and NO_PROXY with the emulator's host.
   */
  env(): Record<string, string>;
  /** Returns an object for another account of the same emulator. */
  withAccount(account: string | null): Emulator;
  /**
   * Replaces the rules of the script. A string is the completion of every request. Rejects if the
   * emulator's backend is not `scripted`, so that the rules would have no effect.
   */
  script(...rules: (string | Rule | readonly (string | Rule)[])[]): Promise<void>;
  /**
   * Adds a fault. With a name, the fault applies to `times` calls (null: all). Without `times` and
   * `nth`, it applies to one call.
   */
  fault(fault: string, options?: Omit<FaultRule, "fault">): Promise<void>;
  fault(fault: FaultRule | readonly FaultRule[]): Promise<void>;
  /** Returns the calls since the last reset, oldest first. Rejects if some were removed. */
  requests(): Promise<Call[]>;
  /** Returns the calls that no rule and no recording answered, oldest first. */
  unmatched(): Promise<CallRow[]>;
  /** Returns the rules and recordings that no call has used. */
  unused(): Promise<Unused>;
  /**
   * Rejects with an AssertionError that lists the calls, unless exactly `times` calls (by default,
   * at least one) meet the conditions.
   */
  assertCalled(conditions?: CallConditions): Promise<void>;
  /** Rejects with an AssertionError if a rule was not used by any call. */
  assertAllRulesUsed(): Promise<void>;
  /** Rejects with an AssertionError if no rule and no recording answered one of the calls. */
  assertAllMatched(): Promise<void>;
  /** Removes the account's rules, faults and calls. The rules of the emulator's start apply again. */
  reset(): Promise<void>;
  /** Stops the emulator if this program has started it. */
  stop(): Promise<void>;
  /** As `stop`, for `await using` (node 18.18 or newer). */
  [Symbol.asyncDispose](): Promise<void>;
}

/** An error whose message says what failed and what you can do next. */
export class EmulatorError extends Error {}

export interface StartOptions {
  /** The rules at the start, or the path of a file with rules. Default: no rules. */
  script?: string | Rule | readonly (string | Rule)[];
  /** The source of completions. Default: `scripted`. */
  backend?: "scripted" | "llama" | "upstream" | (string & {});
  /** The port on 127.0.0.1. Default 0: a free port. */
  port?: number;
  /**
   * The account id: 32 hexadecimal digits. Default: 0123456789abcdef0123456789abcdef. With null, the
   * rules apply to all accounts without rules of their own, the faults apply to all accounts, and
   * `requests()` returns the calls of all accounts.
   */
  account?: string | null;
  /**
   * The API token to send; necessary if `args` contains `--api-token`. Default: the first token in
   * the variable WORKERS_AI_EMULATOR_API_TOKEN, or `local`.
   */
  apiToken?: string;
  /** Whether a call to which no rule applies gets an error. Default: false. */
  strict?: boolean;
  /** More flags of `workers-ai-emulator serve`. */
  args?: readonly string[];
  /** The command that runs `workers-ai-emulator`. A string is split at spaces. Default: searched. */
  command?: string | readonly string[];
  /** The path of a file to which the emulator appends its log. Default: see `Emulator.output`. */
  log?: string;
  /** Milliseconds until the emulator must be ready. Default: 60,000. */
  startTimeout?: number;
}

/**
 * Starts an emulator on 127.0.0.1, and resolves when it is ready. The emulator exits when this
 * program exits. Rejects with EmulatorError if no command is found, or with the emulator's own
 * output if it does not start.
 */
export function startEmulator(options?: StartOptions): Promise<Emulator>;

export interface ConnectOptions {
  /** A URL of the emulator, such as `http://127.0.0.1:8790`. */
  url: string;
  /** See `StartOptions.account`. */
  account?: string | null;
  apiToken?: string;
}

/** Returns an emulator that already runs. Sends no request. */
export function connect(options: ConnectOptions): Emulator;

/** Returns a random account id, for a test that shares an emulator with others. */
export function newAccountId(): string;

/**
 * Returns the option `ai` of Miniflare 4, with which a Worker's AI binding calls the emulator.
 * `binding` is the binding's name in the Worker's env (default `AI`).
 */
export function aiBinding(
  emulator: { url: string; accountId: string },
  binding?: string,
): { binding: string; remoteProxyConnectionString: URL };

/** Options of the emulator of a test run of vitest or jest. */
export interface RunOptions extends Omit<StartOptions, "account"> {
  /**
   * The URL of an emulator that already runs; then only `apiToken` and `strict` are allowed. Default:
   * an emulator is started.
   */
  url?: string;
}

/** The emulator of a test run, and the account of its AI bindings. */
export interface Run {
  url: string;
  accountId: string;
  apiToken: string;
  runId: string;
  strict: boolean;
}
