"""Tests the configurations that `worker config` prints and the file that `worker init` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import json5
import pytest
from workers_ai_emulator.errors import CommandError
from workers_ai_emulator.interception.worker_config import PLUGIN, blocks, is_ours, local_config

ADDRESS = "127.0.0.1:8790"
JSONC = Path("wrangler.jsonc")
TOML = Path("wrangler.toml")


def converted(text: str, path: Path = JSONC, address: str = ADDRESS) -> dict[str, Any]:
    config: dict[str, Any] = json5.loads(local_config(path, text, address))
    return config


def unsafe_binding(name: str = "AI", address: str = ADDRESS) -> dict[str, Any]:
    plugin = {"package": str(PLUGIN), "name": "workers-ai-emulator"}
    dev = {"plugin": plugin, "options": {"address": address}}
    return {"name": name, "type": "workers_ai_emulator", "dev": dev}


def test_the_package_contains_the_plugin() -> None:
    assert PLUGIN.is_absolute() and PLUGIN.is_file()


def test_the_plugins_binding_replaces_ai() -> None:
    text = '{"name": "w", /* as on Cloudflare */ "ai": {"binding": "MODELS", "remote": true},}'
    expected = {"name": "w", "unsafe": {"bindings": [unsafe_binding("MODELS", "[::1]:80")]}}
    assert converted(text, address="[::1]:80") == expected


def test_other_unsafe_settings_are_kept() -> None:
    unsafe = {"metadata": {"a": 1}, "bindings": [{"name": "X", "type": "plain_text"}]}
    config = converted(json5.dumps({"ai": {"binding": "AI"}, "unsafe": unsafe}, quote_keys=True))
    bindings = [{"name": "X", "type": "plain_text"}, unsafe_binding()]
    assert config == {"unsafe": {"metadata": {"a": 1}, "bindings": bindings}}


def test_each_environment_with_an_ai_binding_is_converted() -> None:
    text = '{"ai": {"binding": "AI"}, "env": {"a": {"ai": {"binding": "B"}}, "b": {"vars": {}}}}'
    assert converted(text) == {
        "unsafe": {"bindings": [unsafe_binding()]},
        "env": {"a": {"unsafe": {"bindings": [unsafe_binding("B")]}}, "b": {"vars": {}}},
    }


def test_toml_is_converted_to_json_with_dates_as_text() -> None:
    text = 'name = "wörker"\ncompatibility_date = 2025-07-01\n[ai]\nbinding = "AI"\n'
    assert converted(text, TOML) == {
        "name": "wörker",
        "compatibility_date": "2025-07-01",
        "unsafe": {"bindings": [unsafe_binding()]},
    }


def test_the_first_line_names_the_command_and_the_source_file() -> None:
    text = local_config(TOML, '[ai]\nbinding = "AI"\n', ADDRESS)
    first, _, _ = text.partition("\n")
    assert first.startswith("// ") and "`workers-ai-emulator worker init`" in first
    assert "wrangler.toml" in first
    assert is_ours(text) and not is_ours(text.removeprefix(first))


@pytest.mark.parametrize(
    ("path", "text", "reason"),
    [
        (JSONC, '{\n"ai": {"binding": "AI"},\n"b" }', r"^wrangler.jsonc is not JSON: line 3 "),
        (JSONC, "", "^wrangler.jsonc is not JSON: "),
        (JSONC, "[]", "^wrangler.jsonc: is not a table"),
        (TOML, "a = 1\nb =\n", r"^wrangler.toml is not TOML: .*line 2"),
        (JSONC, '{"name": "w"}', '^wrangler.jsonc has no AI binding: add "ai": '),
        (JSONC, '{"ai": {}}', "^wrangler.jsonc: ai.binding: is missing"),
        (JSONC, '{"env": {"a": {"ai": "AI"}}}', "^wrangler.jsonc: env.a.ai: is not a table"),
        (JSONC, '{"unsafe": {"bindings": {}}}', "^wrangler.jsonc: unsafe.bindings: "),
        (JSONC, '{"pages_build_output_dir": "."}', "belongs to a Pages project.*: run `"),
    ],
)
def test_an_invalid_configuration_is_one_line_with_the_reason(
    path: Path, text: str, reason: str
) -> None:
    with pytest.raises(CommandError, match=reason) as caught:
        local_config(path, text, ADDRESS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "address", ["", "localhost", "http://localhost:80", "localhost:80/", ":80", "a:0", "a:65536"]
)
def test_an_invalid_address_is_refused(address: str) -> None:
    with pytest.raises(CommandError, match=r"--address .*host:port"):
        blocks("AI", address)
    with pytest.raises(CommandError, match=r"--address .*host:port"):
        local_config(JSONC, '{"ai": {"binding": "AI"}}', address)


@pytest.mark.parametrize("name", ["", "A B", "A-B", "1A", 'A"'])
def test_an_invalid_name_of_a_binding_is_refused(name: str) -> None:
    with pytest.raises(CommandError, match="--binding takes a name"):
        blocks(name, ADDRESS)


def test_every_block_contains_the_name_and_the_address() -> None:
    for block in blocks("$MODELS", "host:80"):
        assert '"$MODELS"' in block.text and "host:80" in block.text


def test_wranglers_block_can_be_pasted_before_other_keys() -> None:
    (block,) = [block for block in blocks("AI", ADDRESS) if block.tool == "wrangler"]
    config = json5.loads(f'{{\n{block.text}\n"name": "w" }}')
    assert config["env"] == {"local": {"unsafe": {"bindings": [unsafe_binding()]}}}
