// Computes embeddings and rankings with the AI SDK `ai` and `workers-ai-provider`.
//
//   node workers_ai_provider_embeddings_node.mjs BASE_URL ACCOUNT_ID TOKEN CASE...
//
// A case is a name and a model. Prints one JSON line for each case: its value or its error. BASE_URL
// is ignored, because the package always calls api.cloudflare.com.

import { printOutcomes } from "./outcomes.mjs";
import { TOO_LONG, found, passages, questions } from "./passages.mjs";

const modules = process.env.NODE_PATH; // needed, because `import` ignores NODE_PATH
const { embed, embedMany, rerank } = await import(`${modules}/ai/dist/index.js`);
const { createWorkersAI } = await import(`${modules}/workers-ai-provider/dist/index.mjs`);

const [, accountId, apiKey, ...names] = process.argv.slice(2);
const workersai = createWorkersAI({ accountId, apiKey });
const modelOf = (model) => workersai.textEmbeddingModel(model);
const vectors = async (model, values) =>
  (await embedMany({ model: modelOf(model), values })).embeddings;

const cases = {
  search: async (model) => found(await vectors(model, passages), await vectors(model, questions)),

  async rank(model) {
    const [query] = questions;
    const asking = { model: workersai.rerankingModel(model), query, documents: passages };
    return (await rerank(asking)).rerankedDocuments;
  },

  unknown_model: () => embed({ model: modelOf("@cf/baai/bge-9"), value: questions[0] }),

  too_long: (model) => embed({ model: modelOf(model), value: TOO_LONG }),
};

await printOutcomes(cases, names);
