"use strict";
/* Starts one emulator for a test run of vitest or jest. Each worker then uses its own account. */

const { accountOfWorker, newRunId } = require("./accounts.cjs");
const { EmulatorError, checkNames } = require("./errors.cjs");
const { emulatorOfWorker } = require("./run-worker.cjs");
const { OPTION_NAMES, connect, startEmulator } = require("./start.cjs");

const RUN_OPTION_NAMES = ["url", ...OPTION_NAMES.filter((name) => name !== "account")];

/**
 * Starts the emulator of a test run.
 *
 * `options`: those of `startEmulator` except `account`, or `url`, `apiToken` and `strict` of an
 * emulator that already runs. Under `workers-ai-emulator exec`, uses the emulator of `exec`. Under
 * `exec --strict`, `strict` is true by default. Under `exec --account`, the tests use the account
 * of `exec`. Returns `run`, which is JSON for the workers, and `stop`.
 */
async function startRun(options = {}) {
  checkOptions(options);
  const { url = urlOfExec(), apiToken, strict = isStrictExec(), ...others } = options;
  const account = options.url ? undefined : accountOf(url);
  const emulator = url
    ? connect({ url, apiToken })
    : await startEmulator({ apiToken, strict, ...others });
  const runId = newRunId();
  const ofRun = { url: emulator.url, accountId: account ?? accountOfWorker(runId, 0) };
  const run = { ...ofRun, apiToken: emulator.apiToken, runId, strict, isShared: Boolean(account) };
  try {
    await emulatorOfWorker(run, 0).reset(); // fails if the URL is not an emulator's
  } catch (error) {
    await emulator.stop();
    throw error;
  }
  return { run, stop: () => stopRun(emulator) };
}

/** Throws TypeError if an option is unknown, and EmulatorError if it would have no effect. */
function checkOptions({ account, ...options }) {
  if (account !== undefined) {
    throw new EmulatorError(
      "account: leave it out, because each worker of the test run uses an account of its own",
    );
  }
  checkNames(options, RUN_OPTION_NAMES);
  const { url, apiToken: _, strict: __, ...others } = options;
  const names = Object.keys(others).filter((name) => others[name] !== undefined);
  if (names.length > 0 && (url || urlOfExec())) {
    const [what, step] = url
      ? ["the emulator at the option `url`", "or leave out url"]
      : ["the emulator of `exec` (WORKERS_AI_EMULATOR_URL)", "or run the tests without `exec`"];
    throw new EmulatorError(
      `${names.join(", ")}: ${what} already runs, so only apiToken and strict have an effect; ` +
        `leave out the other options, ${step}`,
    );
  }
}

/** Stops the emulator. Throws EmulatorError if it has ended before, for example in a crash. */
async function stopRun(emulator) {
  const { endReason } = emulator;
  await emulator.stop();
  if (endReason) {
    throw new EmulatorError(`the emulator ended during the tests: ${endReason}\n${emulator.output}`);
  }
}

/** Returns the URL of the emulator under whose `exec` this program runs, or undefined. */
function urlOfExec() {
  const { WORKERS_AI_EMULATOR_URL: url, WORKERS_AI_EMULATOR_ADDRESS: address } = process.env;
  return url || (address ? `http://${address}` : undefined);
}

/** Returns the account in the prefix of the emulator's URL, which `exec --account` adds. */
function accountOf(url) {
  return /\/_emulator\/accounts\/([0-9a-f]{32})(\/|$)/.exec(url ?? "")?.[1];
}

/** Returns whether this program runs under `exec --strict`, which sets the variable. */
function isStrictExec() {
  return process.env.WORKERS_AI_EMULATOR_STRICT === "true";
}

module.exports = { startRun };
