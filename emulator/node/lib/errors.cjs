"use strict";

/** An error whose message says what failed and what the user can do next. */
class EmulatorError extends Error {
  constructor(message) {
    super(message);
    this.name = "EmulatorError";
  }
}

/** Throws TypeError if `options` has a name that is not in the list `known`. */
function checkNames(options, known) {
  const unknown = Object.keys(options).filter((name) => !known.includes(name));
  if (unknown.length > 0) {
    const text = `unknown option ${unknown.join(", ")}; the options are ${known.join(", ")}`;
    throw new TypeError(text);
  }
}

module.exports = { EmulatorError, checkNames };
