// Validates bodies with Cloudflare's own validator, the npm package @cloudflare/cabidela.
//
//   node cabidela_oracle.mjs NODE_MODULES
//
// The first line of stdin is an array of schemas; each further line is an object
// {"schema": index, "body": "JSON text"}. For each body, prints a JSON line: null if the body is
// valid, otherwise the error's message.

import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";

// The package calls these two methods, which node has only from version 22 on. As in node, the
// result begins with the elements of `this`.
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
