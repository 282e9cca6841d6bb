"""Runs programs from Cloudflare's documentation, in which only the host is changed."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.npm import require_programs
from tests.server import ACCOUNT_ID, INT8, ServerProcess

MESSAGES = (
    '[{ "role": "system", "content": "You are a friendly assistant" }, '
    '{ "role": "user", "content": "Why is pizza so good" }]'
)


def output_of(*command: str, stdin: str | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, input=stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_is_completion(body: dict[str, Any]) -> None:
    assert list(body) == ["result", "success", "errors", "messages"]
    assert (body["success"], body["errors"], body["messages"]) == (True, [], [])
    assert list(body["result"]) == ["response", "usage"]
    assert len(body["result"]["response"].split()) >= 3
    usage = body["result"]["usage"]
    assert list(usage) == ["prompt_tokens", "completion_tokens", "total_tokens"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_curl_gets_a_completion(server: ServerProcess) -> None:
    url = f"{server.base_url}/accounts/{ACCOUNT_ID}/ai/run/{INT8}"
    body = f'{{ "messages": {MESSAGES}}}'
    text = output_of("curl", "-s", url, "-X", "POST", "-H", "Authorization: Bearer x", "-d", body)
    assert_is_completion(json.loads(text))


def test_python_requests_gets_a_completion(server: ServerProcess) -> None:
    program = f"""
import json
import requests

API_BASE_URL = "{server.base_url}/accounts/{ACCOUNT_ID}/ai/run/"
headers = {{"Authorization": "Bearer {{API_TOKEN}}"}}

def run(model, inputs):
    input = {{ "messages": inputs }}
    response = requests.post(f"{{API_BASE_URL}}{{model}}", headers=headers, json=input)
    return response.json()

inputs = {MESSAGES}
print(json.dumps(run("{INT8}", inputs)))
"""
    assert_is_completion(json.loads(output_of(sys.executable, "-c", program)))


@pytest.mark.node
def test_node_fetch_gets_a_completion(server: ServerProcess) -> None:
    require_programs("node")
    program = f"""
async function run(model, input) {{
  const response = await fetch(
    `{server.base_url}/accounts/{ACCOUNT_ID}/ai/run/${{model}}`,
    {{
      headers: {{ Authorization: "Bearer {{API_TOKEN}}" }},
      method: "POST",
      body: JSON.stringify(input),
    }}
  );
  const result = await response.json();
  return result;
}}
run("{INT8}", {{ messages: {MESSAGES} }}).then((response) => {{
  console.log(JSON.stringify(response));
}});
"""
    assert_is_completion(json.loads(output_of("node", "-e", program)))
