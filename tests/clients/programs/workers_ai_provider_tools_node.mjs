// Calls tools and gets objects from Workers AI with the AI SDK `ai` and `workers-ai-provider`.
//
//   node workers_ai_provider_tools_node.mjs BASE_URL ACCOUNT_ID TOKEN CASE...
//
// A case is a name and a model. Prints one JSON line for each case: its value or its error.
// BASE_URL is ignored, because the package always calls api.cloudflare.com.

import { all, printOutcomes } from "./outcomes.mjs";
import { question, reportSchema, request, temperatures, tool } from "./weather.mjs";

const modules = process.env.NODE_PATH; // needed, because `import` ignores NODE_PATH
const ai = await import(`${modules}/ai/dist/index.js`);
const { createWorkersAI } = await import(`${modules}/workers-ai-provider/dist/index.mjs`);
const { z } = await import(`${modules}/zod/index.js`);

const [, accountId, apiKey, ...names] = process.argv.slice(2);
const workersai = createWorkersAI({ accountId, apiKey });
const schema = reportSchema(z);
const tools = {
  [tool.name]: ai.tool({
    description: tool.description,
    inputSchema: ai.jsonSchema(tool.parameters),
    execute: ({ city }) => temperatures[city],
  }),
};
const asking = (model) => ({
  model: workersai(model),
  prompt: question,
  tools,
  temperature: 0,
  maxOutputTokens: 200,
  stopWhen: ai.isStepCount(4),
});
const requesting = (model) => ({
  model: workersai(model),
  prompt: request,
  temperature: 0,
  maxOutputTokens: 200,
});
const called = (calls) => calls.map(({ toolName, input }) => [toolName, input]);

const cases = {
  async loop(model) {
    const { steps, text } = await ai.generateText(asking(model));
    const reasoning = steps[0].reasoningText;
    return { calls: steps.flatMap((step) => called(step.toolCalls)), text, reasoning };
  },

  async stream(model) {
    const result = ai.streamText(asking(model));
    const parts = await all(result.fullStream);
    const calls = parts.filter(({ type }) => type === "tool-call");
    const reasoning = (await result.steps)[0].reasoningText;
    return { calls: called(calls), text: await result.text, reasoning };
  },

  async forced(model) {
    const toolChoice = { type: "tool", toolName: tool.name };
    const options = { ...asking(model), toolChoice, stopWhen: ai.isStepCount(1) };
    return called((await ai.generateText(options)).toolCalls);
  },

  async report(model) {
    return (await ai.generateObject({ ...requesting(model), schema })).object;
  },

  async report_stream(model) {
    const { partialObjectStream, object } = ai.streamObject({ ...requesting(model), schema });
    await all(partialObjectStream);
    return object;
  },
};

await printOutcomes(cases, names);
