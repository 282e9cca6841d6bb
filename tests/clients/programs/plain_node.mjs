// Calls Workers AI by HTTP without an SDK, with `fetch` or node's module `https`.
//
//   node plain_node.mjs LIBRARY BASE_URL ACCOUNT_ID TOKEN CASE...
//
// Prints one JSON line for each case: its value or its error.

import http from "node:http";
import https from "node:https";
import { printOutcomes } from "./outcomes.mjs";

const MODEL = "@cf/meta/llama-2-7b-chat-int8";
const CHAT = {
  messages: [{ role: "user", content: "Name a fruit. 🍎" }],
  max_tokens: 6,
  temperature: 0,
};
const [library, baseURL, accountId, token, ...names] = process.argv.slice(2);
const options = { method: "POST", headers: { Authorization: `Bearer ${token}` } };

const libraries = {
  async fetch(url, body) {
    const response = await fetch(url, { ...options, body });
    return { status: response.status, lines: (await response.text()).split("\n") };
  },

  https(url, body) {
    const { request } = url.startsWith("https:") ? https : http;
    return new Promise((resolve, reject) => {
      const sent = request(url, options, async (response) => {
        response.setEncoding("utf8");
        const text = (await response.toArray()).join("");
        resolve({ status: response.statusCode, lines: text.split("\n") });
      });
      sent.on("error", reject).end(body);
    });
  },
};

function post(model, body) {
  const url = `${baseURL}/accounts/${accountId}/ai/run/${model}`;
  return libraries[library](url, JSON.stringify(body));
}

const cases = {
  chat: () => post(MODEL, CHAT),
  stream: () => post(MODEL, { ...CHAT, stream: true }),
  unknown_model: () => post("@cf/meta/llama-9", CHAT),
};

await printOutcomes(cases, names);
