// Computes embeddings and rankings with Cloudflare's client `cloudflare` for node.
//
//   node cloudflare_embeddings_node.mjs BASE_URL ACCOUNT_ID TOKEN CASE...
//
// A case is a name and a model. Prints one JSON line for each case: its value or its error.

import { createRequire } from "node:module";
import { all, printOutcomes } from "./outcomes.mjs";
import { TOO_LONG, found, passages, questions } from "./passages.mjs";

const Cloudflare = createRequire(import.meta.url)("cloudflare"); // `import` ignores NODE_PATH

const [baseURL, account_id, apiToken, ...names] = process.argv.slice(2);
const client = new Cloudflare({ baseURL, apiToken });
const run = (model, inputs) => client.ai.run(model, { account_id, ...inputs });
const embed = async (model, text) => (await run(model, { text })).data;

const cases = {
  search: async (model) => found(await embed(model, passages), await embed(model, questions)),

  async rank(model) {
    const contexts = passages.map((text) => ({ text }));
    const { response } = await run(model, { query: questions[0], contexts });
    return response.map(({ id }) => passages[id]);
  },

  unknown_model: () => embed("@cf/baai/bge-9", questions),

  too_long: (model) => embed(model, TOO_LONG),

  async models() {
    const listed = await all(client.ai.models.list({ account_id, task: "Text Embeddings" }));
    return listed.map(({ name }) => name);
  },
};

await printOutcomes(cases, names);
