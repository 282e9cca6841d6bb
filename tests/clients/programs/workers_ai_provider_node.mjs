// Calls Workers AI with the AI SDK `ai` and `workers-ai-provider`.
//
//   node workers_ai_provider_node.mjs BASE_URL ACCOUNT_ID TOKEN CASE...
//
// Prints one JSON line for each case: its value or its error. BASE_URL is ignored, because the
// package always calls api.cloudflare.com.

import { all, printOutcomes } from "./outcomes.mjs";

const modules = process.env.NODE_PATH; // needed, because `import` ignores NODE_PATH
const { generateText, streamText } = await import(`${modules}/ai/dist/index.js`);
const { createWorkersAI } = await import(`${modules}/workers-ai-provider/dist/index.mjs`);

const [, accountId, apiKey, ...names] = process.argv.slice(2);
const workersai = createWorkersAI({ accountId, apiKey });

const CHAT = {
  model: workersai("@cf/meta/llama-2-7b-chat-int8"),
  prompt: "Name a fruit.",
  maxOutputTokens: 6,
  temperature: 0,
};

const cases = {
  async chat() {
    const { text, usage } = await generateText(CHAT);
    return {
      text,
      usage: {
        prompt_tokens: usage.inputTokens,
        completion_tokens: usage.outputTokens,
        total_tokens: usage.totalTokens,
      },
    };
  },

  stream: () => all(streamText(CHAT).textStream),

  unknown_model: () => generateText({ ...CHAT, model: workersai("@cf/meta/llama-9") }),
};

await printOutcomes(cases, names);
