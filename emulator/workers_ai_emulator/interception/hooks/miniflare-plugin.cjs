"use strict";

// A plugin of Miniflare, and so of `wrangler dev` from 4.36 on: the Worker gets the AI binding that
// it has on Cloudflare, and the emulator answers it. `workers-ai-emulator worker config` prints how
// to name it in a configuration.
//
// The binding is an object of workerd's own class, with its methods and its errors. Only the
// service behind it is another: plain HTTP to one address.

const NAME = "workers-ai-emulator";
const MODULE = `${NAME}:binding`;
const ADDRESS = process.env.WORKERS_AI_EMULATOR_ADDRESS || "127.0.0.1:8790";

// SDKs up to 1.0.29 ask for the path alone, which only the binding of their time understood. Some
// code looks at the name of the binding's class.
const BINDING = `
  import { Ai } from "cloudflare-internal:ai-api";

  class EmulatedAi extends Ai {
    fetch(input, init) {
      const isPath = typeof input === "string" && input.startsWith("/");
      return super.fetch(isPath ? "http://workers-binding.ai" + input : input, init);
    }
  }
  Object.defineProperty(EmulatedAi, "name", { value: "Ai" });

  export default (env) => new EmulatedAi(env.fetcher);
`;

/** The name and the address of each of a Worker's bindings that are ours. */
function bindingsOf(options) {
  // Miniflare 4 passes the list of unsafe bindings, Miniflare 5 all options of the Worker.
  const all = Array.isArray(options)
    ? options
    : Object.entries(options?.config?.env ?? {}).map(([name, { dev }]) => ({ name, ...dev }));
  return all
    .filter(({ plugin }) => plugin?.name === NAME)
    .map(({ name, options }) => ({ name, address: options?.address ?? ADDRESS }));
}

/** Two Workers may have bindings of one name, but at one address there is one service. */
const serviceAt = (address) => `${NAME}:${address}`;

/** A class of the Miniflare that has loaded us, which we cannot require: it is not beside us. */
function nodeBindingClass() {
  const modules = Object.values(require.cache);
  const isMiniflare = (module) => /[\\/]miniflare[\\/]dist[\\/]/.test(module?.filename);
  return modules.filter(isMiniflare).find(({ exports }) => exports?.ProxyNodeBinding)?.exports
    .ProxyNodeBinding;
}

const plugin = {
  bindingTypeDescription: "Workers AI, emulated",

  // Where a schema of zod is expected: all options are taken as they are.
  options: { parse: (value) => value, safeParse: (value) => ({ success: true, data: value }) },

  getBindings(options) {
    return bindingsOf(options).map(({ name, address }) => ({
      name,
      wrapped: {
        moduleName: MODULE,
        innerBindings: [{ name: "fetcher", service: { name: serviceAt(address) } }],
      },
    }));
  },

  // For getPlatformProxy(), whose bindings are used outside of a Worker.
  getNodeBindings(options) {
    const NodeBinding = nodeBindingClass();
    if (!NodeBinding) return {};
    return Object.fromEntries(bindingsOf(options).map(({ name }) => [name, new NodeBinding()]));
  },

  getServices({ options }) {
    return bindingsOf(options).map(({ address }) => ({
      name: serviceAt(address),
      external: { address, http: {} },
    }));
  },

  getExtensions() {
    return [{ modules: [{ name: MODULE, internal: true, esModule: BINDING }] }];
  },
};

exports.plugins = { [NAME]: plugin };
