"use strict";

/** An error whose message says what failed and what the user can do next. */
class EmulatorError extends Error {
  constructor(message) {
    super(message);
    this.name = "EmulatorError";
  }
}

module.exports = { EmulatorError };
