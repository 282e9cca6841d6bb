"""Tests programs from Cloudflare's documentation, unchanged, under `exec` and without a network."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.chromium import chromium, keep_screenshot
from tests.server import ACCOUNT_ID, ServerProcess
from tests.workers.project import URL, Project
from tests.workers.tools import SDKS, WRANGLER_4

pytestmark = [pytest.mark.documented, pytest.mark.node]

WORKER = """\
import { Ai } from '@cloudflare/ai';
export default {
  async fetch(request, env) {
    const ai = new Ai(env.AI);
    const messages = [
      { role: 'system', content: 'You are a friendly assistant' },
      { role: 'user', content: 'What is the origin of the phrase Hello, World' }
    ];
"""
STREAMING_WORKER = f"""{WORKER}
    const stream = await ai.run('@cf/meta/llama-2-7b-chat-int8', {{ messages, stream: true }});
    return new Response(
      stream,
      {{ headers: {{ "content-type": "text/event-stream" }} }}
    );
  }},
}};
"""
PLAIN_WORKER = f"""{WORKER}
    const response = await ai.run('@cf/meta/llama-2-7b-chat-int8', {{ messages }});
    return Response.json(response);
  }},
}};
"""
PAGE = """\
<!doctype html>
<title>Hello, World</title>
<link rel="icon" href="data:,"><!-- The Worker would answer /favicon.ico with a completion. -->
<h1>What is the origin of the phrase Hello, World?</h1>
<p id="el"></p>
<script>
const el = document.getElementById("el");
const source = new EventSource("/");
source.onmessage = (event) => {
  if (event.data == "[DONE]") {
    source.close();
    el.dataset.ended = "";  // for the test to see
    return;
  }
  const data = JSON.parse(event.data);
  el.innerHTML += data.response;
}
</script>
"""
CONFIGURATION = """\
{
  "name": "hello-world",
  "main": "worker.js",
  "compatibility_date": "2025-07-01",
  "assets": { "directory": "public" },
  "ai": { "binding": "AI" }
}
"""
NODE = """\
async function run(model, input) {
  const response = await fetch(
    `https://api.cloudflare.com/client/v4/accounts/{ACCOUNT_ID}/ai/run/${model}`,
    {
      headers: { Authorization: "Bearer {API_TOKEN}" },
      method: "POST",
      body: JSON.stringify(input),
    }
  );
  const result = await response.json();
  return result;
}
run('@cf/meta/llama-2-7b-chat-int8', {
  messages: [
    { role: 'system', content: 'You are a friendly assistant' },
    { role: 'user', content: 'Write a short story about a llama that goes on a journey' }
  ]
}).then((response) => {
  console.log(JSON.stringify(response));
});
"""
PYTHON = """\
import json
import requests
API_BASE_URL = "https://api.cloudflare.com/client/v4/accounts/{account_id}/ai/run/"
headers = {"Authorization": "Bearer {API_TOKEN}"}
def run(model, inputs):
    input = { "messages": inputs }
    response = requests.post(f"{API_BASE_URL}{model}", headers=headers, json=input)
    return response.json()
inputs = [
    { "role": "system", "content": "You are a friendly assistant" },
    { "role": "user", "content": "Write a short story about a llama that goes on a journey" }
]
output = run("@cf/meta/llama-2-7b-chat-int8", inputs)
print(json.dumps(output))
"""
CURL = """\
curl https://api.cloudflare.com/client/v4/accounts/{ACCOUNT_ID}/ai/run/\
@cf/meta/llama-2-7b-chat-int8 \\
  -X POST \\
  -H "Authorization: Bearer {API_TOKEN}" \\
  -d '{ "messages": [{ "role": "system", "content": "You are a friendly assistant" }, \
{ "role": "user", "content": "Why is pizza so good" }]}'
"""


@pytest.mark.parametrize(
    "command",
    [["node", "-e", NODE], [sys.executable, "-c", PYTHON], ["sh", "-c", CURL]],
    ids=["node", "python", "curl"],
)
def test_a_program_gets_a_completion(
    server: ServerProcess, tmp_path: Path, command: list[str]
) -> None:
    filled = [re.sub(r"\{account_id\}", ACCOUNT_ID, part, flags=re.I) for part in command]
    project = Project(tmp_path, server)
    response = json.loads(project.run(*project.under_exec(*filled)))
    assert list(response) == ["result", "success", "errors", "messages"]
    assert_is_completion(response["result"])


@pytest.mark.parametrize("sdk", SDKS)
def test_the_worker_gets_a_completion(server: ServerProcess, tmp_path: Path, sdk: str) -> None:
    with running_worker(tmp_path, server, PLAIN_WORKER, sdk):
        response = httpx.get(URL, timeout=120).json()
    assert response["response"].strip()


@pytest.fixture(scope="module")
def browser(server: ServerProcess) -> Iterator[Browser]:
    """Starts the browser after `server`, so that both are in the same network namespace."""
    with chromium() as running:
        yield running


@pytest.mark.browser
@pytest.mark.parametrize("sdk", SDKS)
def test_the_streaming_worker_s_page_shows_the_completion(
    server: ServerProcess, browser: Browser, tmp_path: Path, sdk: str
) -> None:
    with running_worker(tmp_path, server, STREAMING_WORKER, sdk), browser.new_page() as page:
        page.goto(f"{URL}/page.html")
        element = page.locator("#el")
        expect(element).to_have_attribute("data-ended", "", timeout=120_000)
        assert len(element.inner_text().split()) > 10
        keep_screenshot(page, f"event-source-{sdk}")


@contextmanager
def running_worker(folder: Path, server: ServerProcess, program: str, sdk: str) -> Iterator[None]:
    """Runs the Worker `program` in wrangler, under `exec`, with a static page /page.html."""
    (folder / "node_modules").symlink_to(SDKS[sdk].node_modules)
    (folder / "public").mkdir()
    (folder / "public" / "page.html").write_text(PAGE, "utf-8")
    (folder / "worker.js").write_text(program, "utf-8")
    (folder / "wrangler.jsonc").write_text(CONFIGURATION, "utf-8")
    wrangler = str(WRANGLER_4.node_modules / ".bin" / "wrangler")
    # Waits for /page.html, a static file, because every other path calls the model.
    project = Project(folder, server)
    with project.serve(*project.under_exec(wrangler, "dev"), path="/page.html"):
        yield


def assert_is_completion(result: dict[str, Any]) -> None:
    assert len(result["response"].split()) >= 3
    assert result["usage"]["completion_tokens"] > 3
