// A Worker whose programs call tools and get objects from the AI binding. The path of a request is
// /CASE/MODEL. Returns the outcome as JSON.

import { runWithTools } from "@cloudflare/ai-utils";
import { Output, generateText, isStepCount, jsonSchema, streamText, tool } from "ai";
import { createWorkersAI } from "workers-ai-provider";
import weather from "./weather.json";

const temperature = ({ city }) => weather.temperatures[city];
const tools = {
  [weather.tool.name]: tool({
    description: weather.tool.description,
    inputSchema: jsonSchema(weather.tool.parameters),
    execute: temperature,
  }),
};
const asking = (binding, model) => ({
  model: createWorkersAI({ binding })(model),
  prompt: weather.question,
  tools,
  stopWhen: isStepCount(4),
});
const called = (steps) =>
  steps.flatMap(({ toolCalls }) => toolCalls.map(({ toolName, input }) => [toolName, input]));

const CASES = {
  async loop(binding, model) {
    const { steps, text } = await generateText(asking(binding, model));
    return { calls: called(steps), text };
  },

  async stream(binding, model) {
    const result = streamText(asking(binding, model));
    return { calls: called(await result.steps), text: await result.text };
  },

  async report(binding, model) {
    const { output } = await generateText({
      model: createWorkersAI({ binding })(model),
      prompt: weather.request,
      output: Output.object({ schema: jsonSchema(weather.report) }),
    });
    return output;
  },

  async utils(binding, model) {
    const { calls, result } = await callsOfUtils(binding, model, {});
    return { calls, text: result.response };
  },

  async utils_stream(binding, model) {
    const { calls, result } = await callsOfUtils(binding, model, { streamFinalResponse: true });
    return { calls, events: await new Response(result).text() };
  },
};

/** Calls tools with the package `@cloudflare/ai-utils`, which reads the form `response`. */
async function callsOfUtils(binding, model, options) {
  const calls = [];
  const ours = {
    ...weather.tool,
    function: async (input) => {
      calls.push([weather.tool.name, input]);
      return temperature(input);
    },
  };
  const input = { messages: [{ role: "user", content: weather.question }], tools: [ours] };
  const all = { maxRecursiveToolRuns: 2, strictValidation: true, ...options };
  return { calls, result: await runWithTools(binding, model, input, all) };
}

export default {
  async fetch(request, env) {
    const [, key, ...model] = new URL(request.url).pathname.split("/");
    if (!key) return new Response("ready");
    return Response.json(await CASES[key](env.AI, model.join("/")));
  },
};
