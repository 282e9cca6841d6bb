// Calls tools and gets objects from Workers AI with OpenAI's client `openai` for node.
//
//   node openai_tools_node.mjs BASE_URL ACCOUNT_ID TOKEN CASE...
//
// A case is a name and a model. Prints one JSON line for each case: its value or its error.

import { createRequire } from "node:module";
import { all, printOutcomes } from "./outcomes.mjs";
import * as weather from "./weather.mjs";

const { forced, functionTool, tool, temperatures, reportSchema } = weather;
const { question, open_question, request } = weather;
const require = createRequire(import.meta.url); // needed, because `import` ignores NODE_PATH
const OpenAI = require("openai");
const { zodResponseFormat } = require("openai/helpers/zod");
const { z } = require("zod");

const [baseURL, accountId, apiKey, ...names] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${baseURL}/accounts/${accountId}/ai/v1`, apiKey });
const MAX_TURNS = 4;
const options = { temperature: 0, max_tokens: 200 };
const asking = (model) => ({ model, messages: user(question), tools: [functionTool], ...options });
const user = (content) => [{ role: "user", content }];
const called = (calls) =>
  calls.map(({ function: { name, arguments: text } }) => [name, JSON.parse(text)]);
const result = ({ id, function: { arguments: text } }) => ({
  role: "tool",
  tool_call_id: id,
  content: String(temperatures[JSON.parse(text).city]),
});
const outputOf = ({ call_id, arguments: text }) => ({
  type: "function_call_output",
  call_id,
  output: String(temperatures[JSON.parse(text).city]),
});
const outcome = (turns) => ({
  calls: called(turns.flatMap((turn) => turn.tool_calls ?? [])),
  text: turns.at(-1).content,
  reasoning: turns[0].reasoning_content,
});

const cases = {
  /** Sends the content of the model's turns as a text, which may be empty. */
  async loop(model) {
    const messages = user(question);
    const turns = [];
    do {
      const completion = await client.chat.completions.create({ ...asking(model), messages });
      turns.push(completion.choices[0].message);
      const calls = turns.at(-1).tool_calls ?? [];
      messages.push({ ...turns.at(-1), content: "" }, ...calls.map(result));
    } while (turns.at(-1).tool_calls?.length && turns.length < MAX_TURNS);
    return outcome(turns);
  },

  /** Lets the client's helper `runTools()` call the tool: it sends the turns with content null. */
  async loop_null(model) {
    const parse = JSON.parse;
    const ours = { ...functionTool.function, parse, function: ({ city }) => temperatures[city] };
    const tools = [{ type: "function", function: ours }];
    const runner = client.chat.completions.runTools({ ...asking(model), tools });
    await runner.done();
    return outcome(runner.messages.filter(({ role }) => role === "assistant"));
  },

  async stream(model) {
    const stream = await client.chat.completions.create({ ...asking(model), stream: true });
    const chunks = await all(stream);
    const deltas = chunks.flatMap(({ choices }) => choices.map(({ delta }) => delta));
    const pieces = deltas.flatMap((delta) => delta.tool_calls ?? []);
    const [name] = pieces.map((piece) => piece.function.name).filter(Boolean);
    const text = pieces.map((piece) => piece.function.arguments ?? "").join("");
    const reasoning = deltas.map((delta) => delta.reasoning_content ?? "").join("");
    return { calls: [[name, JSON.parse(text)]], reasoning };
  },

  /** Lets the client's helper `stream()` assemble the completion from the events. */
  async stream_helper(model) {
    const completion = await client.chat.completions.stream(asking(model)).finalChatCompletion();
    return { calls: called(completion.choices[0].message.tool_calls) };
  },

  async forced(model) {
    const completion = await client.chat.completions.create({
      ...asking(model),
      tool_choice: forced,
      parallel_tool_calls: false,
    });
    return called(completion.choices[0].message.tool_calls);
  },

  async report(model) {
    const completion = await client.chat.completions.parse({
      model,
      messages: user(request),
      response_format: zodResponseFormat(reportSchema(z), "report"),
      ...options,
    });
    return completion.choices[0].message.parsed;
  },

  async response(model) {
    const { responses } = client;
    const { output_text, output, usage } = await responses.create({ model, input: open_question });
    return { text: output_text, types: output.map(({ type }) => type), usage };
  },

  async response_loop(model) {
    const input = user(question);
    const calls = [];
    for (let turn = 0; turn < MAX_TURNS; turn++) {
      const tools = [{ type: "function", ...tool }];
      const { output, output_text: text } = await client.responses.create({ model, input, tools });
      const fresh = output.filter(({ type }) => type === "function_call");
      if (!fresh.length) return { calls, text };
      input.push(...output, ...fresh.map(outputOf));
      calls.push(...fresh.map(({ name, arguments: text }) => [name, JSON.parse(text)]));
    }
  },

  async response_stream(model) {
    const stream = await client.responses.create({ model, input: open_question, stream: true });
    const events = await all(stream);
    const deltas = events.filter(({ type }) => type === "response.output_text.delta");
    return { text: deltas.map(({ delta }) => delta).join(""), last: events.at(-1).type };
  },
};

await printOutcomes(cases, names);
