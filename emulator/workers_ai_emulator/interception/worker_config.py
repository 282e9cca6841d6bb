"""Creates configurations with which the AI binding of a Worker calls the emulator.

`blocks` returns text to paste into the configuration of wrangler, Miniflare or vitest.
`local_config` converts the whole text of a wrangler file. Neither function reads or writes files.
"""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass
from datetime import date, time
from pathlib import Path
from string import Template
from typing import Any

import json5
from pydantic import BaseModel, ValidationError

from workers_ai_emulator.errors import CommandError

# The names of wrangler's configuration file; wrangler uses the first file that exists.
FILE_NAMES = (
    "wrangler.json",
    "wrangler.jsonc",
    "wrangler.toml",
)
LOCAL_FILE_NAME = "wrangler.local.jsonc"
PLUGIN = Path(__file__).with_name("hooks") / "miniflare-plugin.cjs"

_SIGNATURE = "// Written by `workers-ai-emulator worker init`"
_ADDRESS = re.compile(r"(?:[\w.-]+|\[[\da-f:.]+\]):(\d{1,5})", re.ASCII | re.IGNORECASE)
# Our texts for two types of pydantic's errors; for other types, we use pydantic's text.
_REASONS = {"missing": "is missing", "model_type": "is not a table"}
_BINDING = re.compile(r"[a-z_$][\w$]*", re.ASCII | re.IGNORECASE)

# `remoteBindings: false` prevents sessions with Cloudflare. By default, vitest's Workers pool opens
# such a session for every AI binding, even if the binding calls the emulator.
_VITEST_POOL_CONFIG = Template("""\
import { defineWorkersConfig } from "@cloudflare/vitest-pool-workers/config";

export default defineWorkersConfig({
  test: {
    poolOptions: {
      workers: {
        remoteBindings: false,
        wrangler: { configPath: "./wrangler.jsonc" },
        miniflare: {
          $ai
        },
      },
    },
  },
});""")
_VITEST_PLUGIN_CONFIG = Template("""\
import { cloudflareTest } from "@cloudflare/vitest-plugin";
import { defineConfig } from "vitest/config";

export default defineConfig({
  plugins: [
    cloudflareTest({
      remoteBindings: false,
      wrangler: { configPath: "./wrangler.jsonc" },
      miniflare: {
        $ai
      },
    }),
  ],
});""")


@dataclass(frozen=True, slots=True)
class Block:
    """Text to paste into a tool's configuration. `heading` tells the user where to paste it."""

    tool: str
    heading: str
    text: str


def blocks(binding: str, address: str) -> list[Block]:
    """Returns the texts to paste for wrangler, Miniflare and two versions of vitest's Workers pool.

    `binding` is the name of the AI binding in the Worker's env. `address` is the emulator's
    host:port. Raises CommandError if `binding` or `address` is invalid.
    """
    if not _BINDING.fullmatch(binding):
        raise CommandError(
            f"--binding takes a name in the Worker's env, such as AI, not {binding!r}"
        )
    _check_address(address)
    local = {"local": {"unsafe": {"bindings": [_unsafe_binding(binding, address)]}}}
    # Miniflare uses `remoteProxyConnectionString` only if it is a URL object.
    url = f'new URL("http://{address}")'
    ai = f'ai: {{ binding: "{binding}", remoteProxyConnectionString: {url} }},'
    return [
        Block(
            "wrangler",
            "wrangler.jsonc, after its first brace, for wrangler 4.36 or newer; then run "
            "`npx wrangler dev -e local`",
            f'"env": {_to_json(local)},',
        ),
        Block(
            "miniflare", "Miniflare 4, or 5 with convertV4MiniflareOptions: a Worker's option", ai
        ),
        Block(
            "vitest",
            "vitest.config.mjs with @cloudflare/vitest-pool-workers 0.12",
            _VITEST_POOL_CONFIG.substitute(ai=ai),
        ),
        Block(
            "vitest",
            "vitest.config.mjs with @cloudflare/vitest-plugin, or with its predecessor "
            "@cloudflare/vitest-pool-workers 0.23 (import from that package)",
            _VITEST_PLUGIN_CONFIG.substitute(ai=ai),
        ),
    ]


def local_config(path: Path, text: str, address: str) -> str:
    """Converts the user's wrangler file: in the result, AI bindings call the emulator at `address`.

    `path` and `text` are the path and the content (TOML or JSON) of the user's file. Returns the
    content of the new file (JSON), with all other settings copied. Raises CommandError if `address`
    or `text` is invalid, if `text` has no AI binding, or if it belongs to a Pages project.
    """
    _check_address(address)
    config = _parse(path, text)
    _validate(path, config)
    if "pages_build_output_dir" in config:
        raise CommandError(
            f"{path} belongs to a Pages project, which cannot use another file: run "
            "`workers-ai-emulator exec -- npx wrangler pages dev`"
        )
    local = _with_emulator(config, address)
    # Each environment in the file is converted, too, because environments do not inherit `ai` and
    # `unsafe` from the top level.
    if scopes := config.get("env"):
        local["env"] = {name: _with_emulator(scope, address) for name, scope in scopes.items()}
    if local == config:
        raise CommandError(f'{path} has no AI binding: add "ai": {{ "binding": "AI" }} to it')
    heading = f"{_SIGNATURE} from {path.name}: change that file and run the command again."
    return f"{heading}\n{_to_json(local)}\n"


def is_ours(text: str) -> bool:
    """Returns whether the text of a wrangler file was created by `local_config`."""
    return text.startswith(_SIGNATURE)


def _check_address(address: str) -> None:
    match = _ADDRESS.fullmatch(address)
    if match is None or not 0 < int(match[1]) < 2**16:
        raise CommandError(
            "--address (or WORKERS_AI_EMULATOR_ADDRESS) takes the server's host:port, such as "
            f"127.0.0.1:8790, not {address!r}"
        )


def _unsafe_binding(name: str, address: str) -> dict[str, Any]:
    plugin = {"package": str(PLUGIN), "name": "workers-ai-emulator"}
    return {
        "name": name,
        "type": "workers_ai_emulator",
        "dev": {"plugin": plugin, "options": {"address": address}},
    }


def _with_emulator(scope: dict[str, Any], address: str) -> dict[str, Any]:
    """Returns a copy of `scope` in which a binding of our Miniflare plugin replaces the key `ai`.

    `scope` is the top level, or one environment, of a wrangler configuration. If `scope` has no key
    `ai`, the copy is equal to `scope`.
    """
    if not scope.get("ai"):
        return dict(scope)
    unsafe = scope.get("unsafe") or {}
    bindings = [*unsafe.get("bindings", []), _unsafe_binding(scope["ai"]["binding"], address)]
    others = {key: value for key, value in scope.items() if key != "ai"}
    return others | {"unsafe": unsafe | {"bindings": bindings}}


class _Ai(BaseModel):
    binding: str


class _Unsafe(BaseModel):
    bindings: list[dict[str, Any]] = []


class _Scope(BaseModel):
    ai: _Ai | None = None
    unsafe: _Unsafe | None = None


class _Config(_Scope):
    """The keys of a wrangler configuration that we validate. wrangler validates all other keys."""

    env: dict[str, _Scope] | None = None


def _validate(path: Path, config: Any) -> None:
    try:
        _Config.model_validate(config)
    except ValidationError as error:
        detail = error.errors()[0]
        place = ": ".join(filter(None, (str(path), ".".join(map(str, detail["loc"])))))
        reason = _REASONS.get(detail["type"], detail["msg"])
        raise CommandError(f"{place}: {reason}; correct it first") from error


def _parse(path: Path, text: str) -> Any:
    try:
        return tomllib.loads(text) if path.suffix == ".toml" else json5.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CommandError(f"{path} is not TOML: {error}; correct it first") from error
    except ValueError as error:
        reason = str(error).replace("<string>:", "line ")
        raise CommandError(f"{path} is not JSON: {reason}; correct it first") from error


def _to_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=_to_text)


def _to_text(value: date | time) -> str:
    """Converts a TOML date or time to the JSON string that wrangler expects."""
    return value.isoformat()
