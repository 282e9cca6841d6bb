// Prints the prompts that an old version of `@cloudflare/ai` makes from messages for its models.
//
//   node flattening_sdk.mjs SDK_MODULE < messages.json
//
// The output is {"model": ["name of the tensor with the prompt", "the prompt"], …}.

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
  // Ignores errors: for some models, the SDK expects another tensor in the response.
  await new Ai(binding).run(model, { messages }).catch(() => {});
}
console.log(JSON.stringify(prompts));
