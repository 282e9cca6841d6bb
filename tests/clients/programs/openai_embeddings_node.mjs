// Computes embeddings with OpenAI's client `openai` for node.
//
//   node openai_embeddings_node.mjs BASE_URL ACCOUNT_ID TOKEN CASE...
//
// A case is a name and a model. Prints one JSON line for each case: its value or its error.

import { createRequire } from "node:module";
import { printOutcomes } from "./outcomes.mjs";
import { TOO_LONG, found, passages, questions } from "./passages.mjs";

const OpenAI = createRequire(import.meta.url)("openai"); // because `import` ignores NODE_PATH

const [baseURL, accountId, apiKey, ...names] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${baseURL}/accounts/${accountId}/ai/v1`, apiKey });

/** Requests embeddings. Without options, the client requests base64, and decodes it. */
const create = (model, input, options = {}) =>
  client.embeddings.create({ model, input, ...options });
const vectors = ({ data }) => data.map(({ embedding }) => embedding);

const cases = {
  search: async (model) =>
    found(vectors(await create(model, passages)), vectors(await create(model, questions))),

  one_text: (model) => create(model, questions[0], { encoding_format: "float" }),

  async formats(model) {
    const texts = questions.slice(0, 2);
    const numbers = await create(model, texts, { encoding_format: "float" });
    return [vectors(numbers), vectors(await create(model, texts))];
  },

  unknown_model: () => create("@cf/baai/bge-9", questions),

  too_long: (model) => create(model, TOO_LONG),
};

await printOutcomes(cases, names);
