import "vitest";
import type { Emulator, Run, RunOptions } from "../lib/index.cjs";

declare module "vitest" {
  interface ProvidedContext {
    /** The emulator of this test run. */
    workersAi: Run;
    /** Options of the emulator: set `test.provide.workersAiOptions` in vitest's configuration. */
    workersAiOptions?: RunOptions;
  }
}

/** The emulator, with an account of its own for this worker of vitest. */
export declare const workersAi: Emulator;
