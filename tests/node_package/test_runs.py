"""Tests the emulator of a test run: the package's set-up files for vitest and jest."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from tests.node_package.project import COMMAND, Project, block
from tests.server import ServerProcess, server_process

pytestmark = pytest.mark.node

# A program that ignores every error.
CARELESS = """
export async function ask(question) {
  try {
    return await careful(question);
  } catch {
    return "";
  }
}
"""
ACCOUNTS = """
import { EXPECT } from "FRAMEWORK";
import { workersAi } from "workers-ai-emulator/FRAMEWORK";
import { ask } from "./ask.mjs";

for (let number = 0; number < 15; number++)
  test(`test ${number}`, async () => {
    expect(await workersAi.requests()).toEqual([]);
    await workersAi.script({ contains: `question ${number}`, answer: `FILE ${number}` });
    if (number % 3 === 0) {
      await workersAi.fault("capacity");
      await expect(ask("Hi")).rejects.toThrow("429");
    }
    const answers = await Promise.all([1, 2, 3].map(() => ask(`question ${number}`)));
    expect(answers).toEqual(Array(3).fill(`FILE ${number}`));
    expect(await workersAi.requests()).toHaveLength(number % 3 === 0 ? 4 : 3);
    await workersAi.assertAllRulesUsed();
    await workersAi.assertCalled({ times: 3, contains: `question ${number}` });
  });
"""
JEST_CONFIG = block("jest.config.cjs").replace("{\n", "{\n  transform: {},\n", 1)
UNMATCHED = """
test("a call that matches no rule", async () => {
  await workersAi.script({ contains: "pizza", answer: "It is the cheese." });
  expect(await ask("What?")).toBe("");
});
"""


@pytest.fixture
def plain(create: Callable[[Path], Project], tmp_path: Path) -> Project:
    """Returns a project that has installed only this package."""
    empty = tmp_path / "empty"
    empty.mkdir()
    return create(empty)


def careless(project: Project) -> None:
    """Writes a program that ignores errors, for `import` and for `require`."""
    program = block("ask.mjs").replace("export async function ask", "async function careful")
    project.write("ask.mjs", program + CARELESS)
    project.write("ask.cjs", program + CARELESS.replace("export ", "exports.ask = ask; "))


def test_thirty_tests_in_two_files_of_vitest_pass_at_the_same_time(user: Project) -> None:
    user.write_blocks("vitest.config.mjs", "ask.mjs")
    for name in ("one", "two"):
        text = ACCOUNTS.replace("FRAMEWORK", "vitest").replace("EXPECT", "expect, test")
        user.write(f"{name}.test.mjs", text.replace("FILE", name))
    done = user.run("vitest", "run", "--maxWorkers=4", "--minWorkers=4")
    assert "30 passed" in done.stdout and done.returncode == 0, done.stdout + done.stderr


def test_thirty_tests_in_two_files_of_jest_pass_at_the_same_time(user: Project) -> None:
    user.write("jest.config.cjs", JEST_CONFIG)
    user.write_blocks("ask.mjs")
    for name in ("one", "two"):
        text = ACCOUNTS.replace("FRAMEWORK", "@jest/globals", 1).replace("FRAMEWORK", "jest")
        user.write(f"{name}.test.mjs", text.replace("EXPECT", "expect, test").replace("FILE", name))
    done = user.run(
        *("jest", "--maxWorkers=4", "--testMatch", "**/*.test.mjs"),
        NODE_OPTIONS="--experimental-vm-modules",
    )
    assert "30 passed" in done.stderr and done.returncode == 0, done.stdout + done.stderr


def test_a_strict_vitest_fails_although_the_program_ignores_errors(user: Project) -> None:
    careless(user)
    user.write_blocks("vitest.config.mjs")
    user.write("ask.test.mjs", block("ask.test.mjs") + UNMATCHED)
    done = user.run("vitest", "run")
    assert done.returncode == 1 and "1 failed | 1 passed" in done.stdout, done.stdout
    assert "no rule of the script and no recording answered 1 call." in done.stderr
    assert '{"prompt":"What?"}' in done.stderr


def test_a_strict_jest_fails_although_the_program_ignores_errors(user: Project) -> None:
    careless(user)
    user.write("jest.config.cjs", JEST_CONFIG)
    user.write("ask.test.cjs", block("ask.test.cjs") + UNMATCHED)
    done = user.run("jest", "--testMatch", "**/*.test.cjs")
    assert done.returncode == 1 and "1 failed, 1 passed" in done.stderr, done.stderr
    assert '{"prompt":"What?"}' in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            '{ url: "http://127.0.0.1:1", script: "a.json", port: 1 }',
            "script, port: the emulator at",
        ),
        ('{ account: "1".repeat(32) }', "account: leave it out"),
        ('{ url: "http://127.0.0.1:1", script: undefined, strict: true }', "does not answer"),
    ],
)
def test_options_without_an_effect_are_errors(plain: Project, options: str, message: str) -> None:
    error = start_error(plain, options)
    assert error.startswith("EmulatorError: ") and message in error


@pytest.mark.parametrize(
    ("options", "variables"),
    [
        ("{ strct: true }", {}),
        ('{ url: "http://127.0.0.1:1", strct: true }', {}),
        ("{ strct: true }", {"WORKERS_AI_EMULATOR_URL": "http://127.0.0.1:1"}),
    ],
)
def test_an_unknown_option_is_an_error_with_the_options_of_a_run(
    plain: Project, options: str, variables: dict[str, str]
) -> None:
    assert start_error(plain, options, **variables) == (
        "TypeError: unknown option strct; the options are url, script, backend, port, apiToken, "
        "strict, args, command, log, startTimeout\n"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            '{ script: "a.json", backend: "llama", log: "log.txt" }',
            "script, backend, log: the emulator of `exec` (WORKERS_AI_EMULATOR_URL) already runs",
        ),
        ("{ strict: true }", "the emulator at http://127.0.0.1:1 does not answer"),
    ],
)
def test_options_without_an_effect_under_exec_are_errors(
    plain: Project, options: str, message: str
) -> None:
    error = start_error(plain, options, WORKERS_AI_EMULATOR_URL="http://127.0.0.1:1")
    assert error.startswith("EmulatorError: ") and message in error


def start_error(plain: Project, options: str, **variables: str) -> str:
    """Returns the name and the message of the error with which the start of a test run fails."""
    program = f"""
require("./node_modules/workers-ai-emulator/lib/run.cjs")
  .startRun({options})
  .catch(({{ name, message }}) => console.log(`${{name}}: ${{message}}`));
"""
    plain.write("program.cjs", program)
    done = plain.run("node", "program.cjs", **variables)
    assert done.returncode == 0 and done.stdout, done.stderr
    return done.stdout


def test_without_strict_a_call_that_matches_no_rule_passes(user: Project) -> None:
    user.write_blocks("ask.mjs")
    user.write("vitest.config.mjs", block("vitest.config.mjs").replace("strict: true", ""))
    answer = '"This is a scripted answer to: What?"'
    user.write("ask.test.mjs", block("ask.test.mjs") + UNMATCHED.replace('""', answer))
    done = user.run("vitest", "run")
    assert "2 passed" in done.stdout and done.returncode == 0, done.stdout + done.stderr


def test_a_run_under_exec_uses_the_emulator_of_exec(user: Project) -> None:
    user.write_blocks("vitest.config.mjs", "ask.test.mjs", "ask.mjs")
    with server_process("--backend", "scripted") as server:
        done = user.run(*under_exec(server), "node_modules/.bin/vitest", "run")
        assert done.returncode == 0, done.stdout + done.stderr
        [call] = httpx.get(f"{server.root}/_emulator/requests").json()["requests"]
    assert call["rule"] == 1


def test_under_exec_a_binding_calls_the_emulator_that_it_names(workers_user: Project) -> None:
    workers_user.write("worker.test.mjs", block("worker.test.mjs", "## AI bindings\n"))
    with server_process("--backend", "scripted") as server:
        done = workers_user.run(*under_exec(server), "node", "--test")
    assert "# pass 1" in done.stdout and done.returncode == 0, done.stdout + done.stderr


BINDING = """
import { Miniflare } from "miniflare";

const miniflare = new Miniflare({
  modules: true,
  script: `export default {
    async fetch(request, env) {
      return Response.json(await env.AI.run("@cf/meta/llama-2-7b-chat-int8", { prompt: "Why?" }));
    },
  }`,
  compatibilityDate: "2025-07-01",
  ai: { binding: "AI" },
});
const response = await miniflare.dispatchFetch("http://worker/");
console.log((await response.json()).response);
await miniflare.dispose();
"""


def test_under_exec_with_an_account_the_calls_of_a_binding_belong_to_it(
    workers_user: Project,
) -> None:
    account = "c" * 32
    workers_user.write("binding.mjs", BINDING)
    with server_process("--backend", "scripted") as server:
        httpx.post(f"{server.root}/_emulator/script?account={account}", json="Own.")
        command = under_exec(server, "--account", account)
        done = workers_user.run(*command, "node", "binding.mjs")
        assert done.stdout == "Own.\n", done.stdout + done.stderr
        [call] = httpx.get(f"{server.root}/_emulator/requests").json()["requests"]
    assert call["account"] == account


def test_under_exec_strict_the_tests_are_strict(user: Project) -> None:
    careless(user)
    config = block("vitest.config.mjs").replace(
        "provide: { workersAiOptions: { strict: true } },", ""
    )
    user.write("vitest.config.mjs", config)
    user.write("ask.test.mjs", block("ask.test.mjs") + UNMATCHED)
    command = [*COMMAND.split(), "exec", "--port", "0", "--strict", "--"]
    done = user.run(
        *command, "node_modules/.bin/vitest", "run", WORKERS_AI_EMULATOR_BACKEND="scripted"
    )
    assert done.returncode == 1 and "1 failed | 1 passed" in done.stdout, done.stdout + done.stderr
    assert "no rule of the script and no recording answered 1 call." in done.stderr


HARD_CODED = """
export async function ask(prompt) {
  const path = `client/v4/accounts/${"d".repeat(32)}/ai/run/@cf/meta/llama-2-7b-chat-int8`;
  const response = await fetch(`https://api.cloudflare.com/${path}`, {
    method: "POST",
    headers: { authorization: "Bearer local" },
    body: JSON.stringify({ prompt }),
  });
  return (await response.json()).result.response;
}
"""


def test_under_exec_with_an_account_the_tests_use_it(user: Project) -> None:
    """The program's requests are redirected to this account, whatever account they name."""
    user.write_blocks("vitest.config.mjs", "ask.test.mjs")
    user.write("ask.mjs", HARD_CODED)
    account = "c" * 32
    with server_process("--backend", "scripted") as server:
        command = under_exec(server, "--account", account)
        done = user.run(*command, "node_modules/.bin/vitest", "run")
        assert done.returncode == 0, done.stdout + done.stderr
        [call] = httpx.get(f"{server.root}/_emulator/requests").json()["requests"]
    assert (call["account"], call["rule"]) == (account, 1)


def test_under_exec_with_an_account_a_second_worker_is_an_error(plain: Project) -> None:
    program = """
const { emulatorOfWorker } = require("./node_modules/workers-ai-emulator/lib/run-worker.cjs");
const accountId = "c".repeat(32);
const run = { url: "http://127.0.0.1:1", apiToken: "a", runId: "d".repeat(24), accountId };
console.log(emulatorOfWorker({ ...run, isShared: true }, 1).accountId);
console.log(emulatorOfWorker(run, 2).accountId);
emulatorOfWorker({ ...run, isShared: true }, 2);
"""
    plain.write("program.cjs", program)
    done = plain.run("node", "program.cjs")
    assert done.stdout.split() == ["c" * 32, "d" * 24 + "2".zfill(8)]
    assert f"several workers would share the account {'c' * 32} of `exec`" in done.stderr


def under_exec(server: ServerProcess, *flags: str) -> list[str]:
    port = server.root.rsplit(":", 1)[1]
    return [*COMMAND.split(), "exec", "--port", port, *flags, "--"]


def test_a_missing_global_setup_is_named(user: Project) -> None:
    user.write_blocks("ask.test.mjs", "ask.mjs")
    done = user.run("vitest", "run")
    assert done.returncode == 1
    assert 'globalSetup: "workers-ai-emulator/vitest/global-setup"' in done.stderr


def test_an_emulator_that_does_not_start_ends_the_run_with_its_own_message(user: Project) -> None:
    user.write_blocks("ask.test.mjs", "ask.mjs")
    config = block("vitest.config.mjs").replace("strict: true", 'args: ["--sed", "1"]')
    user.write("vitest.config.mjs", config)
    done = user.run("vitest", "run")
    assert done.returncode == 1
    assert "No such option: --sed" in done.stdout + done.stderr


KILL = """
import { readFileSync } from "node:fs";

test("the emulator is killed", async () => {
  process.kill(Number(readFileSync("pid.txt", "utf-8")), "SIGKILL");
  await expect(async () => {
    for (;;) await workersAi.unused();
  }).rejects.toThrow("does not answer");
});
"""


def test_the_end_of_an_emulator_that_was_killed_is_reported(user: Project, tmp_path: Path) -> None:
    user.write_blocks("ask.mjs")
    user.write(
        "vitest.config.mjs", block("vitest.config.mjs").replace("strict: true", "strict: false")
    )
    wrapper = tmp_path / "emulator.sh"  # writes the process id of the emulator
    wrapper.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid.txt\nexec {COMMAND} $@\n")
    wrapper.chmod(0o755)
    user.write("ask.test.mjs", block("ask.test.mjs") + KILL)
    done = user.run("vitest", "run", WORKERS_AI_EMULATOR_COMMAND=str(wrapper))
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    assert re.search("ended during the tests: it ended with the signal SIGKILL", done.stderr)
    assert not psutil.pid_exists(int((tmp_path / "pid.txt").read_text()))
