"use strict";
/*
 * Account ids: 32 hexadecimal digits. Rules, faults and calls of an account are visible to this
 * account only, so tests that run at the same time each use an account of their own.
 */

const { EmulatorError } = require("./errors.cjs");

const DEFAULT_ACCOUNT = "0123456789abcdef0123456789abcdef";
const RUN_DIGITS = 24;

/** Returns a random account id. */
function newAccountId() {
  return randomDigits(32);
}

/** Returns the digits with which the account ids of one test run begin. */
function newRunId() {
  return randomDigits(RUN_DIGITS);
}

/** Returns the account id of one worker of a test run. `worker` is the worker's number. */
function accountOfWorker(runId, worker) {
  return runId + Number(worker).toString(16).padStart(32 - RUN_DIGITS, "0");
}

function checkAccountId(value) {
  if (/^[0-9a-f]{32}$/.test(value)) return value;
  throw new EmulatorError(
    `account: it takes 32 hexadecimal digits (0-9, a-f), not ${JSON.stringify(value)}; ` +
      "newAccountId() returns such an id",
  );
}

function randomDigits(length) {
  const bytes = globalThis.crypto
    ? globalThis.crypto.getRandomValues(new Uint8Array(length / 2))
    : require("node:crypto").randomBytes(length / 2); // node 18 has no global crypto
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

module.exports = { DEFAULT_ACCOUNT, accountOfWorker, checkAccountId, newAccountId, newRunId };
