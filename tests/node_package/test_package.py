"""Tests what the npm package contains, and that projects can install it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest
from workers_ai_emulator import __version__

from tests import npm
from tests.node_package.project import PACKAGE, Project, environment
from tests.pages import ROOT, blocks

pytestmark = pytest.mark.node

MODULE = """
import { EmulatorError, connect, newAccountId, startEmulator } from "workers-ai-emulator";
console.log(typeof startEmulator, typeof connect, newAccountId().length, EmulatorError.name);
"""
COMMONJS = MODULE.replace("import", "const").replace(
    ' from "workers-ai-emulator"', ' = require("workers-ai-emulator")'
)
TYPESCRIPT = """
import { aiBinding, connect, startEmulator, type Call, type Rule } from "workers-ai-emulator";
import { workersAi as ofJest } from "workers-ai-emulator/jest";
import { workersAi } from "workers-ai-emulator/vitest";
import { inject } from "vitest";

const rule: Rule = { contains: "pizza", answer: "It is the cheese." };
export async function main(): Promise<string> {
  const args = ["--seed", "1"];
  await using emulator = await startEmulator({ script: [rule, "Hi"], strict: true, args });
  await emulator.fault("capacity", { times: null });
  await emulator.script(rule, "Hi");
  const calls: Call[] = await emulator.requests();
  const url: URL = aiBinding(inject("workersAi")).remoteProxyConnectionString;
  await workersAi.assertCalled({ times: calls.length, contains: "pizza" });
  await connect({ url: emulator.url }).reset();
  return ofJest.env().CLOUDFLARE_BASE_URL + url.href;
}
// @ts-expect-error: the option is misspelt
startEmulator({ strct: true });
// @ts-expect-error: `times` is a number
workersAi.assertCalled({ times: "1" });
"""
NPM_OPTIONS = {"offline": "true", "audit": "false", "fund": "false"}
TSCONFIG = {
    "compilerOptions": {
        "strict": True,
        "noEmit": True,
        "target": "es2022",
        "lib": ["es2022", "dom"],  # vite's types need the DOM
        "types": ["node"],
        "skipLibCheck": False,
    },
    "files": ["user.mts", "user.cts"],
}


def test_the_commands_of_the_page_install_the_package_into_an_empty_folder(
    tmp_path: Path,
) -> None:
    npm.require_node()
    (text,) = blocks("node.md", "bash")
    text = text.replace("./emulator/node", shlex.quote(str(PACKAGE)))
    (tmp_path / "package.json").write_text("{}")  # without it, npm would use a parent folder
    options = {f"npm_config_{name}": value for name, value in NPM_OPTIONS.items()}
    subprocess.run(
        ["bash", "-ec", text],
        cwd=tmp_path,
        env=os.environ | options,
        check=True,
        capture_output=True,
        timeout=120,
    )
    assert [p.name for p in (tmp_path / "node_modules").glob("[!.]*")] == ["workers-ai-emulator"]
    user = Project(tmp_path)
    user.write("user.mjs", MODULE)
    user.write("user.cjs", COMMONJS)
    for name in ("user.mjs", "user.cjs"):
        done = user.run("node", name)
        assert done.stdout == "function function 32 EmulatorError\n", done.stderr


@pytest.mark.parametrize("module", ["node16", "nodenext", "preserve"])
def test_the_types_match_the_use(typescript_user: Project, module: str) -> None:
    options = TSCONFIG["compilerOptions"] | {"module": module}  # type: ignore[operator]
    typescript_user.write("tsconfig.json", json.dumps(TSCONFIG | {"compilerOptions": options}))
    typescript_user.write("user.mts", TYPESCRIPT)
    typescript_user.write("user.cts", COMMONJS_TYPES)
    done = typescript_user.run("tsc", "--project", ".")
    assert done.returncode == 0, done.stdout


COMMONJS_TYPES = """
import { startEmulator } from "workers-ai-emulator";
startEmulator().then((emulator) => emulator.stop());
"""


def test_the_version_is_the_version_of_the_emulator() -> None:
    manifest = json.loads((PACKAGE / "package.json").read_text("utf-8"))
    assert manifest["version"] == __version__
    page = (ROOT / "docs" / "node.md").read_text("utf-8")
    assert f"workers-ai-emulator-{__version__}.tgz" in page


def test_yarn_unpacks_the_package_which_starts_node_with_one_of_its_files() -> None:
    manifest = json.loads((PACKAGE / "package.json").read_text("utf-8"))
    assert manifest["preferUnplugged"] is True


def test_the_functions_of_require_and_import_are_the_same() -> None:
    text = (
        f"import('{PACKAGE}/lib/index.mjs').then((m) => console.log(JSON.stringify("
        f"[Object.keys(m).sort(), Object.keys(require('{PACKAGE}/lib/index.cjs')).sort()])))"
    )
    done = subprocess.run(
        ["node", "-e", text], env=environment(), check=True, capture_output=True, text=True
    )
    imported, required = json.loads(done.stdout)
    assert imported == required and "startEmulator" in imported
