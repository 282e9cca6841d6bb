// A Worker that answers questions with quotations. It keeps texts and their embeddings in memory,
// finds the texts that are nearest to a question, and lets a model choose one of them.

import { CloudflareWorkersAIEmbeddings } from "@langchain/cloudflare";
import { Output, cosineSimilarity, embed, embedMany, generateText, jsonSchema, rerank } from "ai";
import { Hono } from "hono";
import { createWorkersAI } from "workers-ai-provider";

const EMBEDDING_MODEL = "@cf/baai/bge-base-en-v1.5";
const RERANKER = "@cf/baai/bge-reranker-base";
const CHAT_MODEL = "@cf/meta/llama-3.3-70b-instruct-fp8-fast";
const NUM_FOUND = 3; // texts that the model sees

let index = []; // an entry is `{ text, vector }`
const app = new Hono();

app.get("/", (c) => c.text("ready"));

/** Replaces the index. The request's body is a list of texts. */
app.post("/texts", async (c) => {
  const values = await c.req.json();
  const { embeddings } = await embedMany({ model: embeddingModel(c), values });
  index = values.map((text, i) => ({ text, vector: embeddings[i] }));
  return c.json({ num_texts: index.length });
});

/** Answers a question with a quotation from the nearest texts. */
app.get("/answer", async (c) => {
  const question = c.req.query("question");
  const { embedding } = await embed({ model: embeddingModel(c), value: question });
  const found = nearest(embedding);
  const { output } = await generateText({
    model: createWorkersAI({ binding: c.env.AI })(CHAT_MODEL),
    prompt: `${found.join("\n")}\n\nWhich of these texts answers the question: ${question}`,
    output: Output.object({ schema: jsonSchema(quotationOf(found)) }),
  });
  return c.json({ found, quotation: output.quotation });
});

/** Sorts the whole index by how well the texts answer a question, and returns the best texts. */
app.get("/rerank", async (c) => {
  const { rerankedDocuments } = await rerank({
    model: createWorkersAI({ binding: c.env.AI }).rerankingModel(RERANKER),
    query: c.req.query("question"),
    documents: index.map(({ text }) => text),
    topN: NUM_FOUND,
  });
  return c.json({ found: rerankedDocuments });
});

/** Finds the nearest texts with the embedding that LangChain computes for a question. */
app.get("/langchain", async (c) => {
  const model = { binding: c.env.AI, model: EMBEDDING_MODEL };
  const vector = await new CloudflareWorkersAIEmbeddings(model).embedQuery(c.req.query("question"));
  return c.json({ found: nearest(vector) });
});

const embeddingModel = (c) =>
  createWorkersAI({ binding: c.env.AI }).textEmbeddingModel(EMBEDDING_MODEL);

function nearest(question) {
  const scored = index.map(({ text, vector }) => [cosineSimilarity(question, vector), text]);
  scored.sort(([one], [other]) => other - one);
  return scored.slice(0, NUM_FOUND).map(([, text]) => text);
}

/** Returns the JSON schema of an answer, which must quote one of the texts. */
const quotationOf = (texts) => ({
  type: "object",
  properties: { quotation: { type: "string", enum: texts } },
  required: ["quotation"],
  additionalProperties: false,
});

export default app;
