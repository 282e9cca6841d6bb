// Answers with the verdicts of Cloudflare's own validator, one JSON line for each line it reads.
//
//   node cabidela_oracle.mjs NODE_MODULES
//   in   first line: an array of schemas; then {"schema": index, "body": "JSON text"}
//   out  null where the body is valid, else the error's message

import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";

// The package uses two methods that node has from version 22 on. Order matters: ours come first.
Set.prototype.union ??= function (other) {
  return new Set([...this, ...other]);
};
Set.prototype.difference ??= function (other) {
  return new Set([...this].filter((element) => !other.has(element)));
};

const require = createRequire(join(resolve(process.argv[2]), "oracle.cjs"));
const { Cabidela } = require("@cloudflare/cabidela");

function verdict(validator, body) {
  try {
    validator.validate(JSON.parse(body));
    return null;
  } catch (error) {
    return error.message;
  }
}

let validators;
for await (const line of createInterface({ input: process.stdin, crlfDelay: Infinity })) {
  const message = JSON.parse(line);
  if (validators === undefined) {
    validators = message.map((schema) => new Cabidela(schema));
  } else {
    process.stdout.write(JSON.stringify(verdict(validators[message.schema], message.body)) + "\n");
  }
}
