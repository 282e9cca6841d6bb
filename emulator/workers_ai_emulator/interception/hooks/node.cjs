// Redirects a node program's requests from Cloudflare's API to the emulator.
//
// `exec` names this file in NODE_OPTIONS, so node loads it before the program. The file reads
// environment variables:
//   - If WORKERS_AI_EMULATOR_TLS_ADDRESS is set, TLS connections for Cloudflare's API go to that
//     address. This serves clients that ignore HTTPS_PROXY, such as node's fetch.
//   - If WORKERS_AI_EMULATOR_ADDRESS is set, the AI bindings of Workers in Miniflare call the
//     emulator at that address. wrangler, vitest and vite use Miniflare to run Workers.
//     With WORKERS_AI_EMULATOR_ACCOUNT, the calls of bindings belong to that account.
"use strict";

const HOSTS = ["api.cloudflare.com", "gateway.ai.cloudflare.com"];
const SERVICE = "workers-ai-emulator";

const {
  WORKERS_AI_EMULATOR_ACCOUNT, WORKERS_AI_EMULATOR_ADDRESS, WORKERS_AI_EMULATOR_TLS_ADDRESS,
} = process.env;
// Options of workerd's HTTP client for the emulator.
const HTTP = WORKERS_AI_EMULATOR_ACCOUNT
  ? { injectRequestHeaders: [{ name: "x-emulator-account", value: WORKERS_AI_EMULATOR_ACCOUNT }] }
  : {};
if (WORKERS_AI_EMULATOR_TLS_ADDRESS) redirectConnections(WORKERS_AI_EMULATOR_TLS_ADDRESS);
if (WORKERS_AI_EMULATOR_ADDRESS) redirectBindings(WORKERS_AI_EMULATOR_ADDRESS);

// Redirects TLS connections for Cloudflare's API to `address`. Patches tls.connect, because all of
// node's TLS clients call it: fetch, https and its agents, http2.
function redirectConnections(address) {
  const tls = require("node:tls");
  const colon = address.lastIndexOf(":");
  const target = { host: address.slice(0, colon), port: Number(address.slice(colon + 1)) };
  const { connect } = tls;
  tls.connect = function (...args) {
    const options = optionsOf(args);
    if (!isForEmulator(options)) return Reflect.apply(connect, this, args);
    // `servername` is the original host, so node still checks the certificate for this name.
    const redirected = { servername: options.host, ...options, ...target };
    const listeners = args.filter((arg) => typeof arg === "function");
    return Reflect.apply(connect, this, [redirected, ...listeners]);
  };
  require("node:module").syncBuiltinESMExports(); // updates `import { connect } from "node:tls"`
}

// Returns the options of a call of tls.connect, including port and host. The arguments are
// (options), (port, options) or (port, host, options), and may end with a listener.
function optionsOf(args) {
  const options = args.find((arg) => typeof arg === "object" && arg !== null) ?? {};
  if (typeof args[0] === "object") return options;
  const [port, host] = args;
  return { port, ...(typeof host === "string" && { host }), ...options };
}

// Returns whether a TLS connection with these options is for Cloudflare's API and must be
// redirected. Returns false for a connection over an existing `socket`: that is a tunnel through
// the proxy of `exec`, and the proxy has already redirected the connection.
function isForEmulator({ host, port, socket, path }) {
  const name = String(host).toLowerCase().replace(/\.$/, "");
  return HOSTS.includes(name) && Number(port) === 443 && !socket && !path;
}

// Redirects the AI bindings of Miniflare to `address`. Patches node's module loader, because a
// program may load any version of Miniflare from any folder.
function redirectBindings(address) {
  const Module = require("node:module");
  const patched = new WeakSet();
  const patchOnce = (plugin, patch) => {
    if (!plugin || patched.has(plugin)) return;
    patched.add(plugin);
    patch(plugin, address);
  };
  const load = Module._load;
  Module._load = function (request, ...rest) {
    const exports = Reflect.apply(load, this, [request, ...rest]);
    if (String(request).includes("miniflare")) {
      const { ai, core } = exports?.PLUGINS ?? {};
      patchOnce(ai, patchAiPlugin);
      patchOnce(core, patchWranglerWorker);
    }
    return exports;
  };
}

// Makes an internal Worker of wrangler send its requests directly to the emulator. Up to version
// 4.35, this Worker calls Cloudflare through its binding FETCHER, which is a function in wrangler's
// node process. That function would read a response to its end even if the client disconnects.
function patchWranglerWorker(core, address) {
  for (const name of ["getBindings", "getServices"]) {
    const method = core[name].bind(core);
    core[name] = (...args) => {
      const options = args[0].options ?? args[0];
      if (String(options.name).startsWith("__WRANGLER_EXTERNAL_AI_WORKER")) {
        options.serviceBindings = { FETCHER: { external: { address, http: HTTP } } };
      }
      return method(...args);
    };
  }
}

// Makes the AI bindings of Miniflare call the emulator instead of Cloudflare. Replaces each binding
// by a binding of the plugin that `worker init` uses, so both have the same methods and errors.
function patchAiPlugin(plugin, address) {
  const own = require("./miniflare-plugin.cjs").createPlugin(`${SERVICE}:exec`);
  const getBindings = plugin.getBindings.bind(plugin);
  const getServices = plugin.getServices.bind(plugin);
  const replacements = async (...args) =>
    ((await getBindings(...args)) ?? []).map(({ name }) => ({
      name, plugin: { name: SERVICE }, options: { address },
    }));
  plugin.getBindings = async (...args) => {
    if (namesAccount(args[0])) return getBindings(...args);
    return own.getBindings(await replacements(...args));
  };
  plugin.getServices = async (args) => {
    const { options, workerIndex } = args;
    if (namesAccount(options)) return getServices(args);
    return own.getServices({ options: await replacements(options, workerIndex) });
  };
  const getExtensions = plugin.getExtensions?.bind(plugin);
  plugin.getExtensions = async (...args) =>
    [...((await getExtensions?.(...args)) ?? []), ...(await own.getExtensions())];
}

// Returns whether a Worker's AI binding already calls an emulator, and names an account in its URL.
function namesAccount(options) {
  const { pathname } = options.ai?.remoteProxyConnectionString ?? {};
  return /^\/_emulator\/accounts\//.test(pathname ?? "");
}
