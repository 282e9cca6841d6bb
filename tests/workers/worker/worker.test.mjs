// Calls the Worker with each path, and stores the responses in vitest's report.

import { SELF } from "cloudflare:test";
import { it } from "vitest";

const SDKS = ["native", "1.0.53", "1.1.0", "1.2.2"];
const PATHS = [
  ...["abort", "error", "faults-gateway", "models", "gateway"].map((action) => `/native/${action}`),
  ...["", "-long", "-many", "-api", "-gateway", "-openai"].map((kind) => `/native/reads${kind}`),
  ...SDKS.flatMap((sdk) => [`/${sdk}/json`, `/${sdk}/stream`]),
];

for (const path of PATHS)
  it(path, async ({ task }) => {
    const response = await SELF.fetch(`http://worker${path}`);
    task.meta.response = { status: response.status, text: await response.text() };
  });
