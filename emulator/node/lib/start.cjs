"use strict";

const fs = require("node:fs");
const net = require("node:net");
const os = require("node:os");
const path = require("node:path");
const { DEFAULT_ACCOUNT, checkAccountId } = require("./accounts.cjs");
const { Child } = require("./child.cjs");
const { IMAGE, VARIABLE, findCommand } = require("./command.cjs");
const { Emulator, toRule } = require("./emulator.cjs");
const { EmulatorError, checkNames } = require("./errors.cjs");

const PORT_IN_IMAGE = 8790;
const SCRIPT_IN_IMAGE = "/script.json";
const OPTIONS = {
  script: null,
  backend: "scripted",
  port: 0,
  account: undefined,
  apiToken: undefined,
  strict: false,
  args: [],
  command: undefined,
  log: undefined,
  startTimeout: 60_000,
};

/** Starts an emulator. `index.d.cts` describes the options and the result. */
async function startEmulator(options = {}) {
  checkNames(options, Object.keys(OPTIONS));
  const given = { ...OPTIONS, ...options };
  checkAccountId(given.account ?? DEFAULT_ACCOUNT);
  const command = findCommand(given.command);
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "workers-ai-emulator-"));
  try {
    const start = command.isDocker ? startImage : startCommand;
    return await start(command.argv, given, scriptFile(given.script, folder));
  } finally {
    fs.rmSync(folder, { recursive: true, force: true }); // the emulator has read the script
  }
}

/** Returns the client of an emulator that already runs. */
function connect(options = {}) {
  checkNames(options, ["url", "account", "apiToken"]);
  const { url, account, apiToken } = options;
  if (url === undefined) {
    throw new EmulatorError('url: missing; pass one, such as { url: "http://127.0.0.1:8790" }');
  }
  return new Emulator({ url, account, apiToken });
}

/** Returns the path of the script, or null without one. Rules are written to a new file. */
function scriptFile(script, folder) {
  if (script === null || script === undefined) return null;
  if (typeof script === "string") return path.resolve(script);
  const rules = [script].flat();
  const file = path.join(folder, "script.json");
  fs.writeFileSync(file, JSON.stringify(rules.map(toRule)));
  return file;
}

async function startCommand(argv, given, script) {
  const address = ["--host", "127.0.0.1", "--port", String(given.port)];
  const child = new Child([...argv, ...serve(given, script), ...address], environment(), given.log);
  return emulatorOf(child, given);
}

/** Starts the Docker image. Its port is published at a port of this machine. */
async function startImage([docker], given, script) {
  const port = given.port || (await freePort());
  const mount = script ? ["--volume", `${script}:${SCRIPT_IN_IMAGE}:ro`] : [];
  const publish = ["--publish", `127.0.0.1:${port}:${PORT_IN_IMAGE}`];
  const flags = serve(given, script && SCRIPT_IN_IMAGE);
  const argv = [docker, "run", "--rm", "--init", ...publish, ...mount, IMAGE, ...flags];
  const child = new Child(argv, environment(), given.log);
  return emulatorOf(child, given, `http://127.0.0.1:${port}`);
}

/**
 * Waits until the emulator is ready, and returns it. Stops the process if this fails.
 *
 * `url`: the emulator's URL for this program, if it is not the URL that the process prints.
 */
async function emulatorOf(child, given, url) {
  try {
    const printed = await child.url(given.startTimeout);
    return new Emulator({ ...given, url: url ?? printed, child });
  } catch (error) {
    await child.stop();
    throw error;
  }
}

function serve({ backend, strict, args }, script) {
  return [
    "serve",
    ...["--backend", backend],
    ...(script ? ["--script", script] : []),
    ...(strict ? ["--strict"] : []),
    ...args.map(String),
  ];
}

/** Returns the environment variables of the emulator, without those that are for node only. */
function environment() {
  const { NODE_OPTIONS: _, [VARIABLE]: __, ...others } = process.env;
  return others;
}

function freePort() {
  return new Promise((resolve, reject) => {
    const server = net.createServer().on("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

module.exports = { OPTION_NAMES: Object.keys(OPTIONS), connect, startEmulator };
