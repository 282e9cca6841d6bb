"""Creates projects of users that have installed the npm package of emulator/node."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from tests import npm
from tests.pages import ROOT, blocks

PACKAGE = ROOT / "emulator" / "node"
LIMIT_S = 240
COMMAND = f"{sys.executable} -m workers_ai_emulator"


@dataclass(frozen=True, slots=True)
class Project:
    """A folder with tests in JavaScript and a folder node_modules."""

    folder: Path

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, "utf-8")

    def write_blocks(self, *names: str, after: str = "") -> None:
        """Writes blocks of docs/node.md: those whose first line is a comment with this file name.

        `after`: a text of the page; the blocks before it are ignored.
        """
        for name in names:
            self.write(name, block(name, after))

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs a program of node_modules, or node, and returns its output."""
        program = self.folder / "node_modules" / ".bin" / command[0]
        first = str(program) if program.exists() else command[0]
        return subprocess.run(
            [first, *command[1:]],
            cwd=self.folder,
            env=environment() | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )


def create(folder: Path, package: Path, node_modules: Path) -> Project:
    """Creates a project with the packages of `node_modules` and the unpacked `package`."""
    target = folder / "node_modules"
    target.mkdir()
    for path in node_modules.iterdir():
        (target / path.name).symlink_to(path)
    with tarfile.open(package) as archive:
        archive.extractall(folder, filter="data")
    # The package is a real folder here, and no link: it imports vitest from its own parent folder.
    (folder / "package").rename(target / "workers-ai-emulator")
    return Project(folder)


def block(name: str, after: str = "") -> str:
    """Returns the first block of docs/node.md for a file, among those after the text `after`."""
    page = (ROOT / "docs" / "node.md").read_text("utf-8")
    start, comment = page.index(after), re.compile(rf"// {re.escape(name)}\b")
    texts = [text for text in blocks("node.md", "js") if comment.match(text)]
    return next(text for text in texts if page.index(text) >= start)


def pack(folder: Path) -> Path:
    """Builds the package with `npm pack`, and returns the path of the archive."""
    done = subprocess.run(
        ["npm", "pack", str(PACKAGE), "--pack-destination", str(folder), "--silent"],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return folder / done.stdout.split()[-1]


def environment() -> dict[str, str]:
    """Returns this process's environment variables, without those that configure the tools."""
    unwanted = re.compile("(cloudflare|workers_ai|vitest|jest)_.*|.*_proxy|node_options", re.I)
    ours = {key: value for key, value in os.environ.items() if not unwanted.fullmatch(key)}
    return ours | {"WORKERS_AI_EMULATOR_COMMAND": COMMAND, "NO_COLOR": "1"}


def installed(name: str, *specs: str) -> Path:
    return npm.install(specs, npm.cache_folder("node") / name)
