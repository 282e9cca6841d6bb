// A Worker that calls its AI binding and returns the result. The path of a request is /SDK/ACTION,
// where SDK is a version of @cloudflare/ai, or `native` for the binding without an SDK.

import { Ai as Ai10 } from "ai-1.0.53";
import { Ai as Ai11 } from "ai-1.1.0";
import { Ai as Ai12 } from "ai-1.2.2";

const MODEL = "@cf/meta/llama-2-7b-chat-int8";
const INPUTS = {
  messages: [{ role: "user", content: "Tell me of a cat." }],
  max_tokens: 24,
  temperature: 0,
};
const ENDLESS = { prompt: "1 2 3 4 ".repeat(4), raw: true, max_tokens: 1500, temperature: 0 };
const SSE = { "content-type": "text/event-stream" };

const SCRIPTED = { "x-emulator-backend": "scripted" };
const API = "/client/v4/accounts/0123456789abcdef0123456789abcdef/ai";

const SDKS = {
  native: (binding) => binding,
  "1.0.53": (binding) => new Ai10(binding),
  "1.1.0": (binding) => new Ai11(binding),
  "1.2.2": (binding) => new Ai12(binding),
};

const ACTIONS = {
  "": () => new Response("ready"),

  async json(ai) {
    const result = await ai.run(MODEL, INPUTS);
    return Response.json({ result, requestId: ai.lastRequestId });
  },

  async stream(ai) {
    return new Response(await ai.run(MODEL, { ...INPUTS, stream: true }), { headers: SSE });
  },

  async endless(ai) {
    return new Response(await ai.run(MODEL, { ...ENDLESS, stream: true }), { headers: SSE });
  },

  /** Reads once from a stream, then cancels the stream. */
  async abort(ai) {
    const reader = (await ai.run(MODEL, { ...ENDLESS, stream: true })).getReader();
    const { value } = await reader.read();
    await reader.cancel();
    return new Response(value);
  },

  reads: (ai) => readsOfBinding(ai, "with pauses"),
  "reads-long": (ai) => readsOfBinding(ai, "a long word"),
  "reads-many": (ai) => readsOfBinding(ai, "many words"),
  "reads-api": (ai) => readsOfFetch(ai, `${API}/run/${MODEL}`, { prompt: "with pauses" }),
  "reads-gateway": (ai) => readsOfFetch(ai, `workers-ai/${MODEL}`, { prompt: "with pauses" }),
  async "reads-openai"(ai) {
    const messages = [{ role: "user", content: "with pauses" }];
    return readsOfFetch(ai, `${API}/v1/chat/completions`, { model: MODEL, messages });
  },

  async error(ai) {
    try {
      return Response.json(await ai.run(MODEL, { ...INPUTS, temperature: 6 }));
    } catch (error) {
      return new Response(String(error));
    }
  },

  faults: (ai) => errorsOf(ai, ["reset", "edge-error", "broken-json", "error;message=Own"]),
  "faults-gateway": (ai) => errorsOf(ai, ["gateway-rate-limit", "gateway-credits"]),
  "faults-cut": (ai) => errorsOf(ai, ["cut-body"]),

  /** Calls methods of which the emulator has none. Returns the outcome of each call. */
  async "not-emulated"(ai) {
    const files = [{ name: "a.html", blob: new Blob(["<p>Hi"], { type: "text/html" }) }];
    const calls = {
      toMarkdown: () => ai.toMarkdown(files),
      supported: () => ai.toMarkdown().supported(),
      websocket: () => ai.run(MODEL, { prompt: "Hi" }, { websocket: true }),
      aiSearch: () => ai.aiSearch().list(),
      autorag: () => ai.autorag("mine").search({ query: "Hi" }),
      getLog: () => ai.gateway("mine").getLog("1"),
    };
    const outcomes = {};
    for (const [name, call] of Object.entries(calls)) {
      try {
        const result = await call();
        outcomes[name] = result instanceof Response ? result.status : result;
      } catch (error) {
        outcomes[name] = error.message;
      }
    }
    return Response.json(outcomes);
  },

  async models(ai) {
    return Response.json((await ai.models()).map(({ name }) => name));
  },

  async gateway(ai) {
    return new Response(await ai.gateway("mine").getUrl("workers-ai"));
  },
};

/** Requests each fault of the emulator. Returns the errors that the binding throws. */
async function errorsOf(ai, faults) {
  const errors = {};
  for (const fault of faults) {
    const extraHeaders = { ...SCRIPTED, "x-emulator-fault": fault };
    try {
      errors[fault] = await ai.run(MODEL, { prompt: "Hi" }, { extraHeaders });
    } catch (error) {
      errors[fault] = String(error);
    }
  }
  return Response.json(errors);
}

async function readsOfBinding(ai, prompt) {
  const options = { extraHeaders: SCRIPTED };
  return readsOf(await ai.run(MODEL, { prompt, max_tokens: 1000, stream: true }, options));
}

/** Fetches a stream from `url`, which is relative to the gateway's URL. */
async function readsOfFetch(ai, url, body) {
  const gateway = await ai.gateway("mine").getUrl();
  const response = await fetch(new URL(url, gateway), {
    method: "POST",
    headers: { ...SCRIPTED, authorization: "Bearer any" },
    body: JSON.stringify({ ...body, stream: true }),
  });
  return readsOf(response.body);
}

/** Returns a text for each read from a stream, with one character per byte. */
async function readsOf(stream) {
  const reads = [];
  for await (const bytes of stream) reads.push(String.fromCharCode(...bytes));
  return Response.json(reads);
}

export default {
  fetch(request, env) {
    const [, sdk, action = ""] = new URL(request.url).pathname.split("/");
    return ACTIONS[action](SDKS[sdk || "native"](env.AI));
  },
};
