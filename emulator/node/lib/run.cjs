"use strict";
/* Starts one emulator for a test run of vitest or jest. Each worker then uses its own account. */

const { accountOfWorker, newRunId } = require("./accounts.cjs");
const { EmulatorError } = require("./errors.cjs");
const { emulatorOfWorker } = require("./run-worker.cjs");
const { connect, startEmulator } = require("./start.cjs");

/**
 * Starts the emulator of a test run.
 *
 * `options`: those of `startEmulator`, or `url`, `apiToken` and `strict` of an emulator that already
 * runs. Under `workers-ai-emulator exec`, uses the emulator of `exec`, and under `exec --strict`,
 * `strict` is true by default. Returns `run`, which is JSON for the workers, and `stop`.
 */
async function startRun(options = {}) {
  checkOptions(options);
  const { url = urlOfExec(), apiToken, strict = isStrictExec(), ...others } = options;
  const emulator = url
    ? connect({ url, apiToken })
    : await startEmulator({ apiToken, strict, ...others });
  const runId = newRunId();
  const ofRun = { url: emulator.url, accountId: accountOfWorker(runId, 0) };
  const run = { ...ofRun, apiToken: emulator.apiToken, runId, strict };
  try {
    await emulatorOfWorker(run, 0).reset(); // fails if the URL is not an emulator's
  } catch (error) {
    await emulator.stop();
    throw error;
  }
  return { run, stop: () => stopRun(emulator) };
}

/** Throws EmulatorError if an option would have no effect. */
function checkOptions({ url, apiToken: _, strict: __, ...others }) {
  const names = Object.keys(others).filter((name) => others[name] !== undefined);
  if (names.includes("account")) {
    throw new EmulatorError(
      "account: leave it out, because each worker of the test run uses an account of its own",
    );
  }
  if (url && names.length > 0) {
    throw new EmulatorError(
      `${names.join(", ")}: the emulator at the option \`url\` already runs, so only apiToken and ` +
        "strict have an effect; leave out the other options, or leave out url",
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

/** Returns whether this program runs under `exec --strict`, which sets the variable. */
function isStrictExec() {
  return process.env.WORKERS_AI_EMULATOR_STRICT === "true";
}

module.exports = { startRun };
