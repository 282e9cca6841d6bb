"""Runs the first curl command of the README, with the port of a test server."""

from __future__ import annotations

import json
import re
import subprocess

from tests.pages import ROOT
from tests.server import ServerProcess

README = (ROOT / "README.md").read_text("utf-8")


def test_the_first_curl_gets_a_response_like_the_one_shown(server: ServerProcess) -> None:
    match = re.search(r"```bash\n(curl .*?)```\n\n```json\n(.*?)```", README, re.DOTALL)
    assert match
    command = match[1].replace("http://127.0.0.1:8790", server.root).replace("curl ", "curl -s ", 1)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    response, shown = json.loads(done.stdout), json.loads(match[2])
    assert list(response) == list(shown)
    assert list(response["result"]) == list(shown["result"])
    usage, shown_usage = response["result"]["usage"], shown["result"]["usage"]
    assert list(usage) == list(shown_usage)
    assert usage["prompt_tokens"] == shown_usage["prompt_tokens"]
