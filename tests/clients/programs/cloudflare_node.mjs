// Calls Workers AI with Cloudflare's client `cloudflare` for node, with a changed base URL.
//
//   node cloudflare_node.mjs BASE_URL ACCOUNT_ID TOKEN CASE...
//
// Prints one JSON line for each case: its value or its error. Loads the client with `require`,
// because `import` ignores NODE_PATH.

import { createRequire } from "node:module";
import { all, printOutcomes } from "./outcomes.mjs";

const Cloudflare = createRequire(import.meta.url)("cloudflare");

const MODEL = "@cf/meta/llama-2-7b-chat-int8";
const [baseURL, account_id, apiToken, ...names] = process.argv.slice(2);
const client = new Cloudflare({ baseURL, apiToken });

const CHAT = {
  account_id,
  messages: [{ role: "user", content: "Name a fruit." }],
  max_tokens: 6,
  temperature: 0,
};

const cases = {
  chat: () => client.ai.run(MODEL, CHAT),

  chat_without_retries: () => client.ai.run(MODEL, CHAT, { maxRetries: 0 }),

  prompt: () =>
    client.ai.run(MODEL, { account_id, prompt: "Name a fruit.", max_tokens: 6, temperature: 0 }),

  async stream() {
    const response = await client.ai.run(MODEL, { ...CHAT, stream: true }).asResponse();
    const lines = (await textOf(response.body)).split("\n").filter((line) => line !== "");
    return lines.map((line) => line.replace(/^data: /, ""));
  },

  unknown_model: () => client.ai.run("@cf/meta/llama-9", { account_id, prompt: "Hi" }),

  bad_input: () => client.ai.run(MODEL, { account_id, prompt: "Hi", temperature: 9 }),

  models: async () => (await all(client.ai.models.list({ account_id }))).map((model) => model.name),

  async models_one_per_page() {
    const first = await client.ai.models.list({ account_id, per_page: 1 });
    return (await all(first.iterPages())).map((page) => page.result.map((model) => model.name));
  },

  async models_found() {
    const filter = { account_id, search: "fp16", task: "Text Generation" };
    return (await all(client.ai.models.list(filter))).map((model) => model.name);
  },

  schema: () => client.ai.models.schema.get({ account_id, model: MODEL }),

  tasks: () => all(client.ai.tasks.list({ account_id })),

  accounts: () => all(client.accounts.list()),

  account: () => client.accounts.get({ account_id }),

  token: () => client.user.tokens.verify(),

  account_token: () => client.accounts.tokens.verify({ account_id }),
};

async function textOf(body) {
  const decoder = new TextDecoder();
  let text = "";
  for await (const bytes of body) {
    text += decoder.decode(bytes, { stream: true });
  }
  return text + decoder.decode();
}

await printOutcomes(cases, names);
