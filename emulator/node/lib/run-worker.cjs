"use strict";
/* Functions for the test files of both vitest and jest. Runs in workerd too. */

const { accountOfWorker } = require("./accounts.cjs");
const { Emulator } = require("./emulator.cjs");

/** Returns the emulator for one worker of the test run. `worker`: the worker's number. */
function emulatorOfWorker({ url, apiToken, runId }, worker) {
  return new Emulator({ url, apiToken, account: accountOfWorker(runId, worker) });
}

/** Makes the emulator reset before each test. With `strict`, fails tests with unmatched calls. */
function addHooks({ beforeEach, afterEach }, emulator, { strict }) {
  beforeEach(() => emulator.reset());
  if (strict) afterEach(() => emulator.assertAllMatched());
}

module.exports = { addHooks, emulatorOfWorker };
