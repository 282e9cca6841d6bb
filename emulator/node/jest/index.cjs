"use strict";
// The emulator of the test file that requires this module.

const { EmulatorError } = require("../lib/errors.cjs");
const { emulatorOfWorker } = require("../lib/run-worker.cjs");

if (!process.env.WORKERS_AI_JEST_RUN) {
  throw new EmulatorError(
    'add globalSetup: "workers-ai-emulator/jest/global-setup" to jest\'s configuration',
  );
}

const run = JSON.parse(process.env.WORKERS_AI_JEST_RUN);

exports.run = run;
exports.workersAi = emulatorOfWorker(run, Number(process.env.JEST_WORKER_ID ?? 0));
