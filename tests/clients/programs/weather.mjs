// What the programs ask and the tool that they offer, from weather.json.

import { readFileSync } from "node:fs";

const weather = JSON.parse(readFileSync(new URL("weather.json", import.meta.url), "utf8"));

export const { question, open_question, request, tool, temperatures } = weather;
export const functionTool = { type: "function", function: tool }; // in OpenAI's form
export const forced = { type: "function", function: { name: tool.name } };

/** Returns the schema of a report, made with the given `zod`. */
export const reportSchema = (z) =>
  z.object({
    city: z.enum(["Paris", "Oslo"]),
    sky: z.enum(["sunny", "cloudy"]),
    is_warm: z.boolean(),
  });
