// vitest's globalSetup: starts the emulator of a test run, and returns the function that stops it.

import { startRun } from "../lib/run.cjs";

export default async function globalSetup({ config, provide }) {
  const { run, stop } = await startRun(config.provide?.workersAiOptions);
  provide("workersAi", run);
  return stop;
}
