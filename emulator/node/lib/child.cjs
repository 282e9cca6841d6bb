"use strict";

const { spawn } = require("node:child_process");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const { EmulatorError } = require("./errors.cjs");

const GUARD = path.join(__dirname, "guard.cjs");
const MAX_OUTPUT_BYTES = 2 ** 14;
const URL_LINE = /^http:\/\/\S+$/;

/**
 * The process of an emulator that this program has started. It exits when this program exits.
 *
 * The emulator writes its stderr to a file, and not to a pipe, because a full pipe would stop the
 * emulator while this program does not read it.
 */
class Child {
  #process;
  #logFile; // null after stop()
  #lastOutput = "";
  #end = null; // after the process has ended: { code, signal }, or { error } if it did not start
  #isStopping = false;

  /** Starts the command. `log`: the path of a file for the emulator's stderr, or undefined. */
  constructor(argv, env, log) {
    this.#logFile = openLog(log);
    this.#process = spawn(process.execPath, [GUARD, ...argv], {
      stdio: ["pipe", "pipe", this.#logFile],
      env,
      detached: true, // so that Ctrl+C in the terminal does not reach the emulator
    });
    this.ended = new Promise((resolve) => {
      this.#process.on("exit", (code, signal) => resolve((this.#end = { code, signal })));
      this.#process.on("error", (error) => resolve((this.#end = { error })));
    });
    // Without free file descriptors, the process does not start and has no pipes.
    this.#process.stdin?.on("error", () => {}); // the process has ended; `ended` reports it
  }

  /**
   * Returns the emulator's base URL: the first line of its stdout that is a URL. The emulator prints
   * it when it is ready. Other lines, for example those of `npm run`, are ignored.
   *
   * Rejects with the emulator's stderr if it exits before, or if it is not ready in time. After
   * this, the emulator does not keep this program from exiting.
   */
  async url(timeoutMs) {
    let timer;
    const late = new Promise((resolve) => (timer = setTimeout(resolve, timeoutMs)));
    const url = await Promise.race([readUrl(this.#process.stdout), this.ended, late]);
    clearTimeout(timer);
    if (typeof url === "string") return this.#release(url);
    const reason = this.endReason() ?? `it was not ready after ${timeoutMs / 1000} s`;
    await this.stop();
    const output = this.output().trim();
    throw new EmulatorError(`the emulator did not start: ${reason}${output && `\n${output}`}`);
  }

  /** Stops the emulator, and waits until it has ended. */
  async stop() {
    this.#isStopping ||= this.#end === null;
    this.#process.ref();
    this.#process.stdin?.end();
    await this.ended;
    this.#closeLog();
  }

  /** Returns how the emulator has ended, or null while it runs. */
  endReason() {
    if (this.#end === null) return null;
    if (this.#isStopping) return "it was stopped";
    const { code, signal, error } = this.#end;
    if (error) return `its process cannot be started: ${error.message}`;
    return `it ended with ${signal === null ? `exit status ${code}` : `the signal ${signal}`}`;
  }

  /** Returns what the emulator has written to stderr, cut to the last 16 KiB. */
  output() {
    if (this.#logFile === null) return this.#lastOutput;
    const { size } = fs.fstatSync(this.#logFile);
    const length = Math.min(size, MAX_OUTPUT_BYTES);
    const bytes = Buffer.alloc(length);
    fs.readSync(this.#logFile, bytes, 0, length, size - length);
    return bytes.toString("utf-8");
  }

  #closeLog() {
    if (this.#logFile === null) return;
    this.#lastOutput = this.output();
    fs.closeSync(this.#logFile);
    this.#logFile = null;
  }

  #release(url) {
    this.#process.stdout.resume();
    for (const handle of [this.#process, this.#process.stdin, this.#process.stdout]) {
      handle.unref();
    }
    return url;
  }
}

/** Opens the log file. Without `log`, opens a new file, and deletes its name. */
function openLog(log) {
  if (log) return fs.openSync(log, "a+");
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "workers-ai-emulator-"));
  const file = fs.openSync(path.join(folder, "log.txt"), "a+");
  fs.rmSync(folder, { recursive: true });
  return file;
}

/** Returns the first line of a stream that is an http URL. Never resolves if there is none. */
function readUrl(stream) {
  return new Promise((resolve) => {
    let last = ""; // the beginning of a line
    stream?.setEncoding("utf-8");
    stream?.on("data", (part) => {
      const lines = (last + part).split("\n");
      last = lines.pop();
      const url = lines.map((line) => line.trim()).find((line) => URL_LINE.test(line));
      if (url) resolve(url);
    });
  });
}

module.exports = { Child };
