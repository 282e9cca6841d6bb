// Repeats tasks that fetch data from the emulator. The page's header shows the error of a task.

import { showFailure } from "./status.js";

const RETRY_MS = 2000;

// Runs `task` repeatedly: the next run starts `intervalMs` after a success, or RETRY_MS after a
// failure. Pauses while the page is hidden.
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

// Runs `task` and returns whether it succeeded. Shows an error of the task in the page's header.
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
