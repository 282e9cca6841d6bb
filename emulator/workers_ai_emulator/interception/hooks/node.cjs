// node loads this first: what a program means for Cloudflare goes to the emulator.
//
// `exec` names it in NODE_OPTIONS. Two things are patched, and only where a variable says to where:
//   - TLS connections to Cloudflare's API, for programs that go by no proxy, as node's fetch does;
//   - the AI binding of Workers that miniflare runs, within wrangler, vitest or vite.
"use strict";

const HOSTS = ["api.cloudflare.com", "gateway.ai.cloudflare.com"];
const SERVICE = "workers-ai-emulator";

const { WORKERS_AI_EMULATOR_ADDRESS, WORKERS_AI_EMULATOR_TLS_ADDRESS } = process.env;
if (WORKERS_AI_EMULATOR_TLS_ADDRESS) redirectConnections(WORKERS_AI_EMULATOR_TLS_ADDRESS);
if (WORKERS_AI_EMULATOR_ADDRESS) answerBindings(WORKERS_AI_EMULATOR_ADDRESS);

// Everything in node that speaks TLS ends in tls.connect: fetch, https with its agents, http2.
function redirectConnections(address) {
  const tls = require("node:tls");
  const colon = address.lastIndexOf(":");
  const target = { host: address.slice(0, colon), port: Number(address.slice(colon + 1)) };
  const { connect } = tls;
  tls.connect = function (...args) {
    const options = optionsOf(args);
    if (!isOurs(options)) return Reflect.apply(connect, this, args);
    // The name is still the one that is asked for, and that the certificate is checked against.
    const redirected = { servername: options.host, ...options, ...target };
    const listeners = args.filter((arg) => typeof arg === "function");
    return Reflect.apply(connect, this, [redirected, ...listeners]);
  };
  require("node:module").syncBuiltinESMExports(); // for `import { connect } from "node:tls"`
}

// tls.connect takes (options), (port, options) and (port, host, options), each with a listener.
function optionsOf(args) {
  const options = args.find((arg) => typeof arg === "object" && arg !== null) ?? {};
  if (typeof args[0] === "object") return options;
  const [port, host] = args;
  return { port, ...(typeof host === "string" && { host }), ...options };
}

// A connection over a socket is a tunnel that has been opened already.
function isOurs({ host, port, socket, path }) {
  const name = String(host).toLowerCase().replace(/\.$/, "");
  return HOSTS.includes(name) && Number(port) === 443 && !socket && !path;
}

// Miniflare is a dependency of the program, of any version, and is found as the program loads it.
function answerBindings(address) {
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
      patchOnce(ai, patchPlugin);
      patchOnce(core, patchOwnWorker);
    }
    return exports;
  };
}

// wrangler 3, and 4 at first, run a Worker of their own that asks Cloudflare through a function of
// node's. That reads an answer to its end, whoever has left; a service does not.
function patchOwnWorker(core, address) {
  for (const name of ["getBindings", "getServices"]) {
    const method = core[name].bind(core);
    core[name] = (...args) => {
      const options = args[0].options ?? args[0];
      if (String(options.name).startsWith("__WRANGLER_EXTERNAL_AI_WORKER")) {
        options.serviceBindings = { FETCHER: { external: { address, http: {} } } };
      }
      return method(...args);
    };
  }
}

// Miniflare's plugin wraps a service that asks Cloudflare; with another one below, all that is
// above it stays: the binding in a Worker is workerd's own.
function patchPlugin(plugin, address) {
  const getBindings = plugin.getBindings.bind(plugin);
  plugin.getBindings = async (...args) => {
    const bindings = (await getBindings(...args)) ?? [];
    const inner = bindings.flatMap((binding) => binding.wrapped?.innerBindings ?? []);
    for (const binding of inner) if (binding.service) binding.service = { name: SERVICE };
    return bindings;
  };
  plugin.getServices = async ({ options, workerIndex }) => {
    const bindings = (await getBindings(options, workerIndex)) ?? [];
    return bindings.length ? [{ name: SERVICE, external: { address, http: {} } }] : [];
  };
}
