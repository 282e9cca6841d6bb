"use strict";
/* Finds the command that runs workers-ai-emulator. */

const { spawnSync } = require("node:child_process");
const fs = require("node:fs");
const path = require("node:path");
const { EmulatorError } = require("./errors.cjs");

const NAME = "workers-ai-emulator";
const MODULE = "workers_ai_emulator";
const IMAGE = NAME;
const VARIABLE = "WORKERS_AI_EMULATOR_COMMAND";
const CHECK_TIMEOUT_MS = 20_000;

/**
 * Returns the command, as `{ argv, isDocker }`.
 *
 * `given` is the option `command`: an array, or a string that is split at spaces. Without it, uses
 * the first of these that exists: the variable WORKERS_AI_EMULATOR_COMMAND; the command on the
 * PATH; the command in a folder `.venv` of the current folder or of its parents; the Python module;
 * uvx; the Docker image. Throws EmulatorError, with a list of all that was tried, if none exists.
 */
function findCommand(given, env = process.env, folder = process.cwd()) {
  const named = given ?? env[VARIABLE];
  if (named?.length > 0) {
    return { argv: Array.isArray(named) ? named : named.trim().split(/\s+/), isDocker: false };
  }
  const tried = [`the option \`command\` and the variable ${VARIABLE}: not set`];
  for (const find of [onPath, inVirtualEnvironment, asModule, withUvx, withDocker]) {
    const { command, reason } = find(env, folder);
    if (command) return command;
    tried.push(reason);
  }
  throw new EmulatorError(
    `no command that starts ${NAME} was found. Tried:\n  ${tried.join("\n  ")}\n` +
      `Install it with \`pip install .\` in a checkout of its repository, or name the command: ` +
      "startEmulator({ command })",
  );
}

function onPath(env) {
  const file = which(NAME, env);
  return file ? found([file]) : { reason: `${NAME} on the PATH: not found` };
}

function inVirtualEnvironment(env, folder) {
  for (let parent = folder; ; parent = path.dirname(parent)) {
    const file = path.join(parent, ".venv", "bin", NAME);
    if (isExecutable(file)) return found([file]);
    if (parent === path.dirname(parent)) break;
  }
  return { reason: `.venv/bin/${NAME} in ${folder} and its parents: not found` };
}

function asModule(env) {
  const python = which("python3", env) ?? which("python", env);
  if (!python) return { reason: "python3: not on the PATH" };
  const done = run(python, ["-c", `import ${MODULE}`], env);
  return done.status === 0
    ? found([python, "-m", MODULE])
    : { reason: `python3 -m ${MODULE}: ${lastLine(done)}` };
}

function withUvx(env) {
  const uvx = which("uvx", env);
  if (!uvx) return { reason: "uvx: not on the PATH" };
  const done = run(uvx, [NAME, "--version"], env);
  return done.status === 0 ? found([uvx, NAME]) : { reason: `uvx ${NAME}: ${lastLine(done)}` };
}

function withDocker(env) {
  const docker = which("docker", env);
  if (!docker) return { reason: "docker: not on the PATH" };
  const done = run(docker, ["image", "inspect", "--format", "{{.Id}}", IMAGE], env);
  if (done.status !== 0) return { reason: `the Docker image ${IMAGE}: ${lastLine(done)}` };
  return { command: { argv: [docker], isDocker: true } };
}

function found(argv) {
  return { command: { argv, isDocker: false } };
}

function which(program, env) {
  const folders = (env.PATH ?? "").split(path.delimiter).filter(Boolean);
  return folders.map((folder) => path.join(folder, program)).find(isExecutable);
}

function isExecutable(file) {
  try {
    fs.accessSync(file, fs.constants.X_OK);
    return fs.statSync(file).isFile();
  } catch {
    return false;
  }
}

function run(program, args, env) {
  return spawnSync(program, args, { env, encoding: "utf-8", timeout: CHECK_TIMEOUT_MS });
}

function lastLine(done) {
  const lines = (done.stderr ?? "").trim().split("\n");
  return lines.at(-1) || done.error?.message || `exit status ${done.status}`;
}

module.exports = { IMAGE, VARIABLE, findCommand };
