import type { Emulator } from "../lib/index.cjs";

/** The emulator, with an account of its own for this worker of jest. */
export declare const workersAi: Emulator;
