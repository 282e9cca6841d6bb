"""Tests that the emulator finds the messages in the prompts that an old SDK makes from messages."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from workers_ai_emulator.prompts.messages import Message, parse_flattened

from tests.npm import cache_folder, install, require_node

pytestmark = [pytest.mark.node, pytest.mark.documented]

FLATTENER = Path(__file__).with_name("flattening_sdk.mjs")
CONVERSATION = [
    Message("system", "Be kind."),
    Message("user", "One?\n\nAnd\ttwo: what?"),
    Message("assistant", "Yes, one."),
    Message("user", "User, how are you?"),
]
# In formats without a system message, the SDK puts the system text before the first user message.
MERGED = [Message("user", f"Be kind. {CONVERSATION[1].content}"), *CONVERSATION[2:]]
UNREADABLE = {
    "@cf/defog/sqlcoder-7b-2",
    "@cf/deepseek-ai/deepseek-math-7b-base",
    "@cf/deepseek-ai/deepseek-math-7b-instruct",
    "@cf/microsoft/phi-2",
    "@cf/thebloke/yarn-mistral-7b-64k-awq",
    "@hf/thebloke/deepseek-coder-6.7b-base-awq",
}


@pytest.fixture(scope="module")
def prompts() -> dict[str, tuple[str, str]]:
    """Returns, for each model, the name of the tensor with the SDK's prompt, and the prompt."""
    require_node()
    package = install(["@cloudflare/ai@1.0.53"], cache_folder()) / "@cloudflare" / "ai"
    messages = [{"role": m.role, "content": m.content} for m in CONVERSATION]
    done = subprocess.run(
        ["node", str(FLATTENER), str(package / "dist" / "index.js")],
        input=json.dumps(messages),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    by_model: dict[str, tuple[str, str]] = json.loads(done.stdout)
    return by_model


def test_the_prompt_of_every_model_is_parsed_into_its_messages(
    prompts: dict[str, tuple[str, str]],
) -> None:
    parsed = {model: parse_flattened(prompt) for model, (_, prompt) in prompts.items()}
    wrong = {
        model: (prompts[model][1], messages)
        for model, messages in parsed.items()
        if messages not in ((None,) if model in UNREADABLE else (CONVERSATION, MERGED))
    }
    assert not wrong
    assert len(parsed) > 20 and sum(m == CONVERSATION for m in parsed.values()) > 10


def test_the_prompt_of_every_model_is_in_a_tensor_that_the_emulator_reads(
    prompts: dict[str, tuple[str, str]],
) -> None:
    assert {name for name, _ in prompts.values()} == {"INPUT_0", "text_input"}
