"""Finds the wrangler that `npx wrangler` runs in a folder, and reads its version."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from workers_ai_emulator.errors import CommandError
from workers_ai_emulator.files import TextUnreadable, read_small_text

# The oldest wrangler that loads the plugin in wrangler.local.jsonc; older ones leave `env.AI`
# undefined.
_OLDEST_WITH_PLUGINS = (4, 36)
_NEEDED = "wrangler {}.{} or newer".format(*_OLDEST_WITH_PLUGINS)
_VERSION = re.compile(r"(\d{1,9})\.(\d{1,9})\.\d+(-[^+]+)?(\+.+)?", re.ASCII)
_EXEC = "`workers-ai-emulator exec -- npx wrangler dev`"


@dataclass(frozen=True, slots=True)
class Wrangler:
    """An installed wrangler: its folder, and its version as in its package.json."""

    folder: Path
    version: str


def find_wrangler(folder: Path) -> Wrangler | None:
    """Returns the wrangler that is installed for a project in `folder`, or None if there is none.

    Searches `node_modules` of the folder and of its parents, as node does. Raises CommandError if
    the package.json of the wrangler that it finds has no valid version.
    """
    start = folder.resolve()
    for parent in (start, *start.parents):
        installed = parent / "node_modules" / "wrangler"
        if os.path.isfile(installed / "package.json"):
            return Wrangler(installed, _version(installed / "package.json"))
    return None


def check_plugins(wrangler: Wrangler | None) -> str | None:
    """Checks that the installed wrangler can load the plugin in wrangler.local.jsonc.

    Returns None if it can. Returns a hint for the user if no wrangler is installed or its version
    is unknown. Raises CommandError if the wrangler is older than 4.36.
    """
    if wrangler is None:
        return f"The file needs {_NEEDED}; no wrangler is installed in the project."
    if (release := _release(wrangler.version)) is None:
        return f"The file needs {_NEEDED}; the project has the test build {wrangler.version}."
    if release < _OLDEST_WITH_PLUGINS:
        raise CommandError(
            f"`worker init` needs {_NEEDED}, but {wrangler.folder} has version "
            f"{wrangler.version}: run {_EXEC} instead, or upgrade wrangler"
        )
    return None


def _version(package_json: Path) -> str:
    try:
        version = json.loads(read_small_text(package_json))["version"]
    except TextUnreadable as error:
        raise CommandError(f"cannot read {error}; install wrangler again") from error
    except (ValueError, KeyError, TypeError, RecursionError):
        version = None
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise CommandError(f"{package_json} has no valid version: install wrangler again")
    return version


def _release(version: str) -> tuple[int, int] | None:
    """Returns the first two numbers of a version, such as (4, 36) for `4.36.0-rc.1`.

    Returns None for 0.0.0, the version of wrangler's test builds.
    """
    match = _VERSION.fullmatch(version)
    assert match is not None  # `_version` accepts no other text
    release = int(match[1]), int(match[2])
    return None if release == (0, 0) else release
