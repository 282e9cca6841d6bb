// Repeats tasks that read from this server. The header shows their errors.

import { showFailure } from "./status.js";

const RETRY_MS = 2000;

// Runs `task` now and, after each run, again after `intervalMs`, or after RETRY_MS if it failed.
// While the page is hidden, it does not run.
export function poll(task, intervalMs) {
  let timer = null;
  let isRunning = false;
  async function run() {
    if (document.hidden || isRunning) return;
    clearTimeout(timer);
    isRunning = true;
    const isDone = await attempt(task);
    isRunning = false;
    timer = setTimeout(run, isDone ? intervalMs : RETRY_MS);
  }
  document.addEventListener("visibilitychange", run);
  run();
}

export async function retry(task) {
  while (!(await attempt(task))) await sleep(RETRY_MS);
}

// Returns whether `task` succeeded.
export async function attempt(task) {
  try {
    await task();
    return true;
  } catch (error) {
    showFailure(error);
    return false;
  }
}

export function sleep(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
