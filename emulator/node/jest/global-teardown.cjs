"use strict";
// jest's globalTeardown: stops the emulator that global-setup.cjs has started.

module.exports = async function globalTeardown() {
  await globalThis.__stopWorkersAi?.();
};
