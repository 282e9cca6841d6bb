"use strict";

/**
 * Returns the option `ai` of Miniflare, and of @cloudflare/vitest-pool-workers under `miniflare`.
 *
 * `emulator`: an Emulator, or any object with `url` and `accountId`. `binding`: the name of the
 * binding in the Worker's env.
 */
function aiBinding({ url, accountId }, binding = "AI") {
  const remoteProxyConnectionString = new URL(`${url}/_emulator/accounts/${accountId}`);
  return { binding, remoteProxyConnectionString };
}

module.exports = { aiBinding };
