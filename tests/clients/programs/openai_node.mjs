// Calls Workers AI with OpenAI's client `openai` for node, with a changed base URL.
//
//   node openai_node.mjs BASE_URL ACCOUNT_ID TOKEN CASE...
//
// Prints one JSON line for each case: its value or its error. Loads the client with `require`,
// because `import` ignores NODE_PATH.

import { createRequire } from "node:module";
import { all, printOutcomes } from "./outcomes.mjs";

const OpenAI = createRequire(import.meta.url)("openai");

const MODEL = "@cf/meta/llama-2-7b-chat-int8";
const [baseURL, accountId, apiKey, ...names] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${baseURL}/accounts/${accountId}/ai/v1`, apiKey });

const CHAT = {
  model: MODEL,
  messages: [{ role: "user", content: "Name a fruit." }],
  max_tokens: 6,
  temperature: 0,
};
const PROMPT = { model: MODEL, prompt: "Name a fruit.", max_tokens: 6, temperature: 0 };
const USAGE = { stream_options: { include_usage: true } };

const cases = {
  chat: () => client.chat.completions.create(CHAT),

  chat_without_retries: () => client.chat.completions.create(CHAT, { maxRetries: 0 }),

  prompt: () => client.completions.create(PROMPT),

  stream: async () => all(await client.chat.completions.create({ ...CHAT, stream: true })),

  stream_with_usage: async () =>
    all(await client.chat.completions.create({ ...CHAT, stream: true, ...USAGE })),

  // Lets the client's helper `stream()` assemble the completion from the events.
  stream_helper: () => client.chat.completions.stream(CHAT).finalChatCompletion(),

  prompt_stream: async () => all(await client.completions.create({ ...PROMPT, stream: true })),

  unknown_model: () => client.chat.completions.create({ ...CHAT, model: "@cf/meta/llama-9" }),

  bad_input: () => client.chat.completions.create({ ...CHAT, temperature: 9 }),
};

await printOutcomes(cases, names);
