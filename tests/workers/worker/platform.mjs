// Calls the AI binding outside of a Worker, as the development servers of frameworks do.

import { getPlatformProxy } from "wrangler";

const { env, dispose } = await getPlatformProxy({ configPath: process.argv[2] });
const inputs = { prompt: "A cat", max_tokens: 8, temperature: 0 };
console.log(JSON.stringify(await env.AI.run("@cf/meta/llama-2-7b-chat-int8", inputs)));
await dispose();
