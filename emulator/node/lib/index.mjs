import index from "./index.cjs";

export const { Emulator, EmulatorError, aiBinding, connect, newAccountId, startEmulator } = index;
