"use strict";

// A plugin for Miniflare, and for `wrangler dev` since version 4.36. Gives a Worker an AI binding
// that calls the emulator. `workers-ai-emulator worker config` prints the lines of configuration
// that load this plugin. Under `exec`, node.cjs calls the plugin's methods.
//
// The binding is an instance of a subclass of workerd's class `Ai`, so it has the methods and
// errors of `Ai`. It sends its requests to the emulator over plain HTTP.

const NAME = "workers-ai-emulator";
const ADDRESS = process.env.WORKERS_AI_EMULATOR_ADDRESS || "127.0.0.1:8790";
// Options of workerd's HTTP client for the emulator. They name the account of the calls, if any.
const ACCOUNT = process.env.WORKERS_AI_EMULATOR_ACCOUNT;
const HTTP = ACCOUNT
  ? { injectRequestHeaders: [{ name: "x-emulator-account", value: ACCOUNT }] }
  : {};

// The source code of the module that creates the binding. EmulatedAi overrides `fetch`, because
// `@cloudflare/ai` up to version 1.0.29 calls `fetch` with a path instead of a URL. EmulatedAi has
// the name `Ai`, because some programs check the name of the class.
const BINDING = `
  import { Ai } from "cloudflare-internal:ai-api";

  class EmulatedAi extends Ai {
    fetch(input, init) {
      const isPath = typeof input === "string" && input.startsWith("/");
      return super.fetch(isPath ? "http://workers-binding.ai" + input : input, init);
    }
  }
  Object.defineProperty(EmulatedAi, "name", { value: "Ai" });

  // These methods of workerd's class call the service with workerd's own RPC, not with HTTP, so the
  // emulator cannot receive the calls.
  for (const name of ["aiSearch", "websearch"]) {
    if (!(name in Ai.prototype)) continue;
    EmulatedAi.prototype[name] = () => {
      throw new Error(
        "${NAME} does not have env.AI." + name + "(), only run(), models() and gateway()");
    };
  }

  // Handles a response with status 405. Throws the error in the response if the caller is
  // toMarkdown().supported(), or run() with a websocket: these two methods would ignore the error.
  // For the other methods of workerd's class, returns the response.
  async function refused(response, url) {
    if (!/\\/supported$|\\/run\\?.*body=/.test(url)) return response;
    const { errors } = await response.json();
    throw new Error(errors[0].message);
  }

  // Returns a fetcher whose error names the emulator's address if the emulator is not running.
  // workerd's own error for a refused connection does not contain the address.
  const named = (fetcher, address) => ({
    async fetch(...args) {
      try {
        const response = await fetcher.fetch(...args);
        return response.status === 405 ? await refused(response, String(args[0])) : response;
      } catch (error) {
        const isRunning = await fetcher.fetch("http://workers-binding.ai/_emulator/healthz")
          .then((response) => response.body?.cancel().then(() => true) ?? true, () => false);
        if (isRunning || args[1]?.signal?.aborted) throw error;
        throw new Error(
          "${NAME} is not running at " + address + ": start it with \`${NAME} serve\`, or name " +
          "another address in WORKERS_AI_EMULATOR_ADDRESS", { cause: error });
      }
    },
  });

  export default (env) => new EmulatedAi(named(env.fetcher, env.address));
`;

/** Returns the name and the emulator's address of each binding that uses this plugin. */
function ownBindings(options) {
  // In Miniflare 4, `options` is the list of unsafe bindings. In Miniflare 5, it contains all
  // options of the Worker.
  const all = Array.isArray(options)
    ? options
    : Object.entries(options?.config?.env ?? {}).map(([name, { dev }]) => ({ name, ...dev }));
  return all
    .filter(({ plugin }) => plugin?.name === NAME)
    .map(({ name, options }) => ({ name, address: options?.address ?? ADDRESS }));
}

/** Returns the name of the workerd service that sends a binding's requests to `address`. */
const serviceAt = (address) => `${NAME}:${address}`;

/**
 * Returns the class ProxyNodeBinding of the Miniflare that loaded this plugin. Searches node's
 * cache of loaded modules, because `require` cannot find Miniflare from this folder.
 */
function nodeBindingClass() {
  const modules = Object.values(require.cache);
  const isMiniflare = (module) => /[\\/]miniflare[\\/]dist[\\/]/.test(module?.filename);
  return modules.filter(isMiniflare).find(({ exports }) => exports?.ProxyNodeBinding)?.exports
    .ProxyNodeBinding;
}

/**
 * Returns the plugin. Its bindings are created by a module of workerd that has this name. Two
 * plugins in one Miniflare need different names.
 */
function createPlugin(moduleName) {
  return {
    bindingTypeDescription: "Workers AI, emulated",

    // Miniflare expects a zod schema here. This object has the parsing methods of a schema, and
    // accepts all options unchanged.
    options: { parse: (value) => value, safeParse: (value) => ({ success: true, data: value }) },

    getBindings(options) {
      return ownBindings(options).map(({ name, address }) => ({
        name,
        wrapped: {
          moduleName,
          innerBindings: [
            { name: "fetcher", service: { name: serviceAt(address) } },
            { name: "address", json: JSON.stringify(address) },
          ],
        },
      }));
    },

    // Returns the bindings for wrangler's getPlatformProxy(), which programs use outside a Worker.
    getNodeBindings(options) {
      const NodeBinding = nodeBindingClass();
      if (!NodeBinding) return {};
      return Object.fromEntries(ownBindings(options).map(({ name }) => [name, new NodeBinding()]));
    },

    getServices({ options }) {
      return ownBindings(options).map(({ address }) => ({
        name: serviceAt(address),
        external: { address, http: HTTP },
      }));
    },

    getExtensions() {
      return [{ modules: [{ name: moduleName, internal: true, esModule: BINDING }] }];
    },
  };
}

exports.createPlugin = createPlugin;
exports.plugins = { [NAME]: createPlugin(`${NAME}:binding`) };
