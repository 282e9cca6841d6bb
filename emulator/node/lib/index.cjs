"use strict";

const { newAccountId } = require("./accounts.cjs");
const { aiBinding } = require("./binding.cjs");
const { Emulator } = require("./emulator.cjs");
const { EmulatorError } = require("./errors.cjs");
const { connect, startEmulator } = require("./start.cjs");

module.exports = { Emulator, EmulatorError, aiBinding, connect, newAccountId, startEmulator };
