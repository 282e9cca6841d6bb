"""Tests the binding of the Miniflare plugin, with a fake of workerd's own class."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from workers_ai_emulator import interception

from tests import npm

pytestmark = pytest.mark.node

PROGRAM = """
const { plugins } = require(process.argv[1]);
const [[{ modules: [{ esModule }] }]] = [plugins["workers-ai-emulator"].getExtensions()];
const workerd = `class Ai {
  constructor(fetcher) { this.fetcher = fetcher; }
  run() { return this.fetcher.fetch("http://workers-binding.ai/run?version=3"); }
  websocket() { return this.fetcher.fetch(new URL("http://a/run?version=3&body=x")); }
  supported() { return this.fetcher.fetch("https://a/to-everything/markdown/supported"); }
  aiSearch() { throw new Error("RPC"); }
  websearch() { throw new Error("RPC"); }
}`;
const source = esModule.replace(/import .*/, workerd);
const lost = () => { throw new Error("Network connection lost."); };
const fetchers = {
  stopped: { fetch: async () => lost() },
  cut: { fetch: async (url) => url.endsWith("healthz") ? new Response("{}") : lost() },
  running: { fetch: async () => new Response("{}") },
  refusing: {
    fetch: async () => Response.json({ errors: [{ message: "not here" }] }, { status: 405 }),
  },
};
(async () => {
  const { default: make } = await import("data:text/javascript," + encodeURIComponent(source));
  const binding = make({ fetcher: fetchers[process.argv[2]], address: "127.0.0.1:9" });
  try {
    const response = await binding[process.argv[3]]();
    console.log(JSON.stringify(String(response.status)));
  } catch (error) {
    console.log(JSON.stringify(error.message));
  }
})();
"""


@pytest.mark.parametrize(
    ("fetcher", "method", "outcome"),
    [
        ("running", "run", "200"),
        ("stopped", "run", "workers-ai-emulator is not running at 127.0.0.1:9: start it with "),
        ("stopped", "supported", "workers-ai-emulator is not running at 127.0.0.1:9: start it "),
        ("cut", "run", "Network connection lost."),
        ("refusing", "run", "405"),
        ("refusing", "websocket", "not here"),
        ("refusing", "supported", "not here"),
        ("running", "aiSearch", "workers-ai-emulator does not have env.AI.aiSearch(), only "),
        ("running", "websearch", "workers-ai-emulator does not have env.AI.websearch(), only "),
    ],
)
def test_a_binding_has_an_error_that_names_the_cause(
    fetcher: str, method: str, outcome: str
) -> None:
    npm.require_node()
    plugin = Path(interception.__file__).parent / "hooks" / "miniflare-plugin.cjs"
    output = subprocess.check_output(["node", "-e", PROGRAM, str(plugin), fetcher, method])
    assert json.loads(output).startswith(outcome)
