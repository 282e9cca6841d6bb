"""The README's first curl, run as it stands there but for the port."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from tests.server import ServerProcess

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")


def test_the_first_curl_gets_the_answer_that_is_shown(server: ServerProcess) -> None:
    match = re.search(r"```bash\n(curl .*?)```\n\n```json\n(.*?)```", README, re.DOTALL)
    assert match
    command = match[1].replace("http://127.0.0.1:8790", server.root).replace("curl ", "curl -s ", 1)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    answer, shown = json.loads(done.stdout), json.loads(match[2])
    assert list(answer) == list(shown)
    assert list(answer["result"]) == list(shown["result"])
    usage, shown_usage = answer["result"]["usage"], shown["result"]["usage"]
    assert list(usage) == list(shown_usage)
    assert usage["prompt_tokens"] == shown_usage["prompt_tokens"]
