"use strict";
/*
 * A program that runs a command, and stops the command when its own parent exits.
 *
 * The stdin of this program is a pipe from its parent. When the parent exits or is killed, the
 * operating system closes the pipe. This program then sends SIGTERM to all processes of the command,
 * because the command may be a script that does not forward signals to the emulator. This program
 * exits when these processes have ended. It sends SIGKILL to those that still run ten seconds later.
 *
 * Usage: node guard.cjs COMMAND [ARGUMENT…]
 */

const { spawn } = require("node:child_process");

const KILL_AFTER_MS = 10_000;
const POLL_MS = 50;
const HAS_GROUPS = process.platform !== "win32";

const [command, ...args] = process.argv.slice(2);
const child = spawn(command, args, {
  stdio: ["ignore", "inherit", "inherit"],
  detached: HAS_GROUPS, // so that the command has a process group without this program
});
let isStopping = false;

child.on("error", (error) => {
  process.stderr.write(`cannot run ${command}: ${error.message}\n`);
  process.exit(127);
});
child.on("exit", () => {
  if (!isStopping || !signal(0)) exit();
});
process.stdin.on("close", stop);
process.stdin.resume();

/** Ends the processes of the command, and exits when they have ended. */
function stop() {
  isStopping = true;
  signal("SIGTERM");
  const killAt = performance.now() + KILL_AFTER_MS;
  setInterval(() => {
    const hasEnded = child.exitCode !== null || child.signalCode !== null;
    if (hasEnded && !signal(0)) exit();
    if (performance.now() < killAt) return;
    signal("SIGKILL");
    if (hasEnded) exit();
  }, POLL_MS);
}

/** Sends a signal to all processes of the command. Returns whether there are any. */
function signal(name) {
  try {
    return process.kill(HAS_GROUPS ? -child.pid : child.pid, name);
  } catch {
    return false; // ESRCH
  }
}

/** Exits as the command did. */
function exit() {
  if (child.signalCode === null) process.exit(child.exitCode);
  process.kill(process.pid, child.signalCode); // so that the parent sees the signal
}
