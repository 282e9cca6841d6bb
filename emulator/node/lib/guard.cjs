"use strict";
/*
 * A program that runs a command, and stops the command when its own parent exits.
 *
 * The stdin of this program is a pipe from its parent. When the parent exits or is killed, the
 * operating system closes the pipe. This program then sends SIGTERM to the command, and SIGKILL to
 * its process group (which includes this program) if the command still runs ten seconds later.
 *
 * Usage: node guard.cjs COMMAND [ARGUMENT…]
 */

const { spawn } = require("node:child_process");

const KILL_AFTER_MS = 10_000;

const [command, ...args] = process.argv.slice(2);
const child = spawn(command, args, { stdio: ["ignore", "inherit", "inherit"] });

child.on("error", (error) => {
  process.stderr.write(`cannot run ${command}: ${error.message}\n`);
  process.exit(127);
});
child.on("exit", (code, signal) => {
  if (signal === null) process.exit(code);
  process.kill(process.pid, signal); // so that the parent sees the signal
});
process.stdin.on("close", stop);
process.stdin.resume();

function stop() {
  child.kill("SIGTERM");
  setTimeout(() => process.kill(-process.pid, "SIGKILL"), KILL_AFTER_MS);
}
