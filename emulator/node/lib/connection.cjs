"use strict";
/*
 * Sends requests to the emulator's endpoints under /_emulator/.
 *
 * Uses a socket instead of `fetch` or `node:http`, because a test may replace these to record or
 * mock the requests of the program under test. workerd, which runs the tests of
 * @cloudflare/vitest-pool-workers, has no sockets of node. There, uses the function `fetch` that
 * exists when this module is loaded, before a test can replace it.
 */

const RESPONSE_TIMEOUT_MS = 30_000;
const isWorkerd = globalThis.navigator?.userAgent === "Cloudflare-Workers";
const fetchAtLoad = globalThis.fetch;
const net = isWorkerd ? null : require("node:net");

/**
 * Sends a request, and returns the response's status and text.
 *
 * `origin` is the emulator's URL without a path. `body` is sent as JSON, unless it is undefined.
 * Rejects if the connection fails, or if the emulator sends no response.
 */
function exchange({ origin, method, path, token, body }) {
  const text = body === undefined ? "" : JSON.stringify(body);
  const send = isWorkerd ? exchangeWithFetch : exchangeWithSocket;
  return send({ origin, method, path, token, text });
}

async function exchangeWithFetch({ origin, method, path, token, text }) {
  const response = await fetchAtLoad(origin + path, {
    method,
    headers: { authorization: `Bearer ${token}` },
    body: text || undefined,
  });
  return { status: response.status, text: await response.text() };
}

function exchangeWithSocket({ origin, method, path, token, text }) {
  const url = new URL(origin);
  const head = [
    `${method} ${path} HTTP/1.0`, // the server closes the connection after its response
    `host: ${url.host}`,
    `authorization: Bearer ${token}`,
    `content-length: ${Buffer.byteLength(text)}`,
  ];
  return new Promise((resolve, reject) => {
    const socket = net.connect({
      host: url.hostname.replace(/^\[|\]$/g, ""),
      port: Number(url.port || 80),
    });
    const chunks = [];
    socket.setTimeout(RESPONSE_TIMEOUT_MS, () =>
      socket.destroy(new Error(`no response after ${RESPONSE_TIMEOUT_MS / 1000} s`)),
    );
    socket.on("error", reject);
    socket.on("data", (chunk) => chunks.push(chunk));
    socket.on("close", () => {
      try {
        resolve(parse(Buffer.concat(chunks).toString("utf-8")));
      } catch (error) {
        reject(error);
      }
    });
    socket.write(`${head.join("\r\n")}\r\n\r\n${text}`);
  });
}

function parse(response) {
  const [, status] = /^HTTP\/1\.\d (\d{3})/.exec(response) ?? [];
  const end = response.indexOf("\r\n\r\n");
  if (!status || end < 0) throw new Error("the connection was closed without a response");
  return { status: Number(status), text: response.slice(end + 4) };
}

module.exports = { exchange };
