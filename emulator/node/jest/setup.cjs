"use strict";
// jest's setupFilesAfterEnv: sets CLOUDFLARE_… variables, and resets the emulator before each test.

const { afterEach, beforeEach } = require("@jest/globals");
const { addHooks } = require("../lib/run-worker.cjs");
const { run, workersAi } = require("./index.cjs");

Object.assign(process.env, workersAi.env());
addHooks({ beforeEach, afterEach }, workersAi, run);
