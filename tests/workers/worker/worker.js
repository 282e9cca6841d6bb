// Calls the AI binding and returns its result. The path is /SDK/ACTION; the SDK `native` is the
// binding itself.

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

  /** Reads one chunk of a stream, then cancels the stream. */
  async abort(ai) {
    const reader = (await ai.run(MODEL, { ...ENDLESS, stream: true })).getReader();
    const { value } = await reader.read();
    await reader.cancel();
    return new Response(value);
  },

  async error(ai) {
    try {
      return Response.json(await ai.run(MODEL, { ...INPUTS, temperature: 6 }));
    } catch (error) {
      return new Response(String(error));
    }
  },

  async models(ai) {
    return Response.json((await ai.models()).map(({ name }) => name));
  },

  async gateway(ai) {
    return new Response(await ai.gateway("mine").getUrl("workers-ai"));
  },
};

export default {
  fetch(request, env) {
    const [, sdk, action = ""] = new URL(request.url).pathname.split("/");
    return ACTIONS[action](SDKS[sdk || "native"](env.AI));
  },
};
