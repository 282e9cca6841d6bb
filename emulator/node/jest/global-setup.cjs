"use strict";
// jest's globalSetup: starts the emulator of a test run. global-teardown.cjs stops it.

const { startRun } = require("../lib/run.cjs");

module.exports = async function globalSetup(globalConfig, projectConfig) {
  const { run, stop } = await startRun(projectConfig.globals.workersAiOptions);
  process.env.WORKERS_AI_JEST_RUN = JSON.stringify(run); // jest's workers inherit it
  globalThis.__stopWorkersAi = stop;
};
