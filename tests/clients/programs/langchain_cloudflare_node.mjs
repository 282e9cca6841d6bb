// Calls Workers AI with LangChain's chat model of the package `@langchain/cloudflare`.
//
//   node langchain_cloudflare_node.mjs BASE_URL ACCOUNT_ID TOKEN CASE...
//
// Prints one JSON line for each case: its value or its error.

import { createRequire } from "node:module";
import { all, printOutcomes } from "./outcomes.mjs";

const { ChatCloudflareWorkersAI } = createRequire(import.meta.url)("@langchain/cloudflare");

const [baseURL, accountId, cloudflareApiToken, ...names] = process.argv.slice(2);

function modelOf(model) {
  const baseUrl = `${baseURL}/accounts/${accountId}/ai/run`;
  return new ChatCloudflareWorkersAI({
    model,
    baseUrl,
    cloudflareAccountId: accountId,
    cloudflareApiToken,
  });
}

const model = modelOf("@cf/meta/llama-2-7b-chat-int8");

const cases = {
  chat: async () => ({ text: (await model.invoke("Name a fruit.")).content }),

  stream: async () =>
    (await all(await model.stream("Name a fruit."))).map((chunk) => chunk.content),

  unknown_model: () => modelOf("@cf/meta/llama-9").invoke("Name a fruit."),
};

await printOutcomes(cases, names);
