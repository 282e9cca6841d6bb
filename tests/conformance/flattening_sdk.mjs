// Prints the prompt that an old `@cloudflare/ai` makes of messages, for each model that it knows.
//
//   node flattening_sdk.mjs SDK_MODULE < messages.json
//   out  {"model": ["the prompt's tensor", "the prompt"], …}

import { readFileSync } from "node:fs";

const { Ai, modelMappings } = await import(process.argv[2]);
const messages = JSON.parse(readFileSync(0, "utf-8"));
const prompts = {};

for (const model of modelMappings["text-generation"].models) {
  const binding = {
    async fetch(_url, { body }) {
      const unpacked = new Response(body).body.pipeThrough(new DecompressionStream("gzip"));
      const { input } = await new Response(unpacked).json();
      prompts[model] = [input[0].name, input[0].value[0]];
      return Response.json({ result: [{ type: "str", shape: [1], name: "name", value: [""] }] });
    },
  };
  // What it makes of the answer does not matter: for some models it wants another tensor.
  await new Ai(binding).run(model, { messages }).catch(() => {});
}
console.log(JSON.stringify(prompts));
