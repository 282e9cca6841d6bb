// The emulator of the test file that imports this module.

import { inject } from "vitest";
import errors from "../lib/errors.cjs"; // workerd gives a CommonJS module only a default export
import runWorker from "../lib/run-worker.cjs";

export const run = inject("workersAi");
if (!run) {
  throw new errors.EmulatorError(
    'add globalSetup: "workers-ai-emulator/vitest/global-setup" to `test` in vitest\'s configuration',
  );
}

// In workerd, all test files use the account of the AI binding, which vitest's configuration names.
const isWorkerd = globalThis.navigator?.userAgent === "Cloudflare-Workers";
const worker = isWorkerd ? 0 : Number(process.env.VITEST_POOL_ID ?? 0);

export const workersAi = runWorker.emulatorOfWorker(run, worker);
