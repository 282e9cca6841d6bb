// vitest's setupFiles: sets CLOUDFLARE_… variables, and resets the emulator before each test.

import { afterEach, beforeEach } from "vitest";
import runWorker from "../lib/run-worker.cjs";
import { run, workersAi } from "./index.mjs";

Object.assign(process.env, workersAi.env());
runWorker.addHooks({ beforeEach, afterEach }, workersAi, run);
