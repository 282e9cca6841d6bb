"use strict";
/* Functions for the test files of both vitest and jest. Runs in workerd too. */

const { accountOfWorker } = require("./accounts.cjs");
const { Emulator } = require("./emulator.cjs");
const { EmulatorError } = require("./errors.cjs");

/**
 * Returns the emulator for one worker of the test run. `worker`: the worker's number.
 *
 * If `exec` has given the run an account (`isShared`), it is the account of the only worker. Throws
 * EmulatorError for the other workers.
 */
function emulatorOfWorker({ url, apiToken, runId, accountId, isShared }, worker) {
  if (isShared && worker > 1) {
    throw new EmulatorError(
      `several workers would share the account ${accountId} of \`exec\`: run \`exec\` without ` +
        "--account and with --port 0, or use one worker (vitest --no-file-parallelism, " +
        "jest --runInBand)",
    );
  }
  if (isShared) return new Emulator({ url, apiToken, account: accountId });
  return new Emulator({ url, apiToken, account: accountOfWorker(runId, worker) });
}

/** Makes the emulator reset before each test. With `strict`, fails tests with unmatched calls. */
function addHooks({ beforeEach, afterEach }, emulator, { strict }) {
  beforeEach(() => emulator.reset());
  if (strict) afterEach(() => emulator.assertAllMatched());
}

module.exports = { addHooks, emulatorOfWorker };
