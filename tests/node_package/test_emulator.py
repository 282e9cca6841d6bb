"""Tests the functions and methods of the npm package in programs of users."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.node_package.project import COMMAND, Project, environment
from tests.server import wait_until

pytestmark = pytest.mark.node

IMPORTS = """
import { connect, newAccountId, startEmulator } from "workers-ai-emulator";
"""
HELPERS = """
const reason = async (promise) => {
  try {
    return { value: await promise };
  } catch ({ name, message }) {
    return { name, message };
  }
};
const print = (value) => console.log(JSON.stringify(value));
const ask = async (emulator, prompt) => {
  const headers = { authorization: `Bearer ${emulator.apiToken}` };
  const body = JSON.stringify({ prompt });
  const url = emulator.runUrl("@cf/meta/llama-2-7b-chat-int8");
  return (await fetch(url, { method: "POST", headers, body })).json();
};
"""


@pytest.fixture
def plain(create: Any, tmp_path: Path) -> Project:
    """Returns a project that has installed only this package."""
    empty = tmp_path / "empty"
    empty.mkdir()
    project: Project = create(empty)
    return project


def run(project: Project, text: str, **variables: str) -> Any:
    """Runs a program, and returns the JSON that it has printed."""
    project.write("program.mjs", IMPORTS + HELPERS + text)
    done = project.run("node", "program.mjs", **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_the_rules_at_the_start_apply_again_after_a_reset(plain: Project) -> None:
    assert run(
        plain,
        """
const emulator = await startEmulator({ script: [{ contains: "Hi", answer: "first" }, "other"] });
const texts = [];
const next = async () => texts.push((await ask(emulator, "Hi")).result.response);
await next();
await emulator.script("second");
await next();
await emulator.reset();
await next();
print([texts, (await emulator.requests()).length]);
""",
    ) == [["first", "second", "first"], 1]


def test_a_script_for_another_backend_is_an_error(plain: Project, tmp_path: Path) -> None:
    (tmp_path / "cassettes").mkdir()
    replayed, recorded = run(
        plain,
        """
const args = ["--cassettes", process.env.CASSETTES];
const failures = [];
for (const [backend, ...others] of [["replay"], ["record", "--record-from", "scripted"]]) {
  const emulator = await startEmulator({ backend, args: [...args, ...others] });
  failures.push(await reason(emulator.script("Hi")));
  await emulator.stop();
}
print(failures);
""",
        CASSETTES=str(tmp_path / "cassettes"),
    )
    assert replayed == {
        "name": "EmulatorError",
        "message": "script() would have no effect, because the emulator's backend is `replay`: "
        "use the backend `scripted` (--backend scripted)",
    }
    assert recorded == {}


def test_a_fault_applies_to_the_calls_that_nth_names(plain: Project) -> None:
    assert run(
        plain,
        """
const emulator = await startEmulator();
await emulator.fault("capacity", { nth: [2] });
const texts = [];
for (let call = 0; call < 3; call++) texts.push((await ask(emulator, "Hi")).success);
print(texts);
""",
    ) == [True, False, True]


def test_the_token_is_the_first_in_the_environment(plain: Project) -> None:
    found = run(
        plain,
        """
const emulator = await startEmulator();
const other = connect({ url: emulator.url, apiToken: "second" });
print([emulator.apiToken, await emulator.requests(), await other.requests()]);
""",
        WORKERS_AI_EMULATOR_API_TOKEN=" first,1 second\n",
    )
    assert found == ["first,1", [], []]


def test_the_assertions_list_the_calls(plain: Project) -> None:
    used, called, times, matched, nothing = run(
        plain,
        """
const emulator = await startEmulator({ script: [{ contains: "pizza", answer: "Yes." }] });
await ask(emulator, "Why?");
print([
  await reason(emulator.assertAllRulesUsed()),
  await reason(emulator.assertCalled({ contains: "pizza" })),
  await reason(emulator.assertCalled({ contains: "Why?", times: 2 })),
  await reason(emulator.assertAllMatched()),
  await reason(emulator.withAccount(newAccountId()).assertCalled()),
]);
""",
    )
    assert 'rule 1: {"answer":"Yes.","contains":"pizza"}' in used["message"]
    assert 'at least 1 call with "pizza", but found 0' in called["message"]
    assert 'expected 2 calls with "Why?", but found 1' in times["message"]
    assert "answered 1 call. " in matched["message"]
    assert "There were no calls." in nothing["message"]
    for failure in (used, called, times, matched):
        assert failure["name"] == "AssertionError" and '{"prompt":"Why?"}' in failure["message"]


def test_the_assertions_pass(plain: Project) -> None:
    assert run(
        plain,
        """
const emulator = await startEmulator({ script: [{ contains: "pizza", answer: "Yes." }] });
await ask(emulator, "Why is pizza good?");
await emulator.assertAllRulesUsed();
await emulator.assertAllMatched();
await emulator.assertCalled();
const model = "@cf/meta/llama-2-7b-chat-int8";
await emulator.assertCalled({ times: 1, contains: "pizza", model });
await emulator.assertCalled({ times: 1, model: "@cf/meta/*" });
await emulator.assertCalled({ times: 1, model: "*7b-chat-int8" });
await emulator.assertCalled({ times: 0, model: "@cf.meta.*" });
await emulator.assertCalled({ times: 0, model: "@cf/no/model" });
print([await emulator.unmatched(), (await emulator.unused()).rules]);
""",
    ) == [[], []]


def test_accounts_do_not_share_rules_and_calls(plain: Project) -> None:
    assert run(
        plain,
        """
const emulator = await startEmulator({ account: "1".repeat(32) });
const other = connect({ url: emulator.url, account: newAccountId() });
await emulator.script("one");
await other.script("other");
await ask(emulator, "Hi");
await other.reset();
const { response } = (await ask(emulator, "Hi")).result;
print([response, (await emulator.requests()).length, await other.requests()]);
""",
    ) == ["one", 2, []]


def test_without_an_account_the_rules_apply_to_calls_of_bindings(plain: Project) -> None:
    assert run(
        plain,
        """
const emulator = await startEmulator({ account: null });
await emulator.script("shared");
await emulator.fault("capacity");
const call = () =>
  fetch(`${emulator.url}/run?version=3`, {
    method: "POST",
    headers: { "cf-consn-model-id": "@cf/meta/llama-2-7b-chat-int8" },
    body: JSON.stringify({ inputs: { prompt: "Hi" }, options: {} }),
  });
print([(await call()).status, (await (await call()).json()).response]);
await emulator.assertCalled({ times: 2, contains: "Hi" });
""",
    ) == [429, "shared"]


def test_mistakes_are_answered_with_the_next_step(plain: Project) -> None:
    mistakes = run(
        plain,
        """
const emulator = await startEmulator();
print(await Promise.all([
  startEmulator({ strct: true }),
  startEmulator({ account: "x" }),
  startEmulator({ args: ["--sed", "1"] }),
  startEmulator({ command: "/no/such/program" }),
  startEmulator({ script: "/no/such/file" }),
  (async () => connect({ url: "127.0.0.1:8790" }))(),
  (async () => connect())(),
  (async () => connect({ url: emulator.url, acount: newAccountId() }))(),
  emulator.assertCalled({ containing: "pizza" }),
  emulator.fault("capacty"),
  emulator.script({ answr: "Hi" }),
  connect({ url: emulator.url + "/client/v4" }).requests(),
  connect({ url: "http://127.0.0.1:1" }).requests(),
].map(reason)));
""",
    )
    names = [mistake.get("name") for mistake in mistakes]
    expected_names = ["TypeError", *["EmulatorError"] * 6, *["TypeError"] * 2]
    assert names == [*expected_names, *["EmulatorError"] * 2, None, "EmulatorError"]
    expected = [
        "unknown option strct; the options are script, ",
        "newAccountId() returns such an id",
        "exit status 2\nworkers-ai-emulator: No such option: --sed",
        "cannot run /no/such/program",
        "file '/no/such/file' does not exist",
        "such as http://127.0.0.1:8790, not 127.0.0.1:8790",
        "url: missing",
        "unknown option acount; the options are url, account, apiToken",
        "unknown option containing; the options are times, contains, model",
        "capacty",
        "did you mean `answer`?",
        "",
        "the emulator at http://127.0.0.1:1 does not answer: connect ECONNREFUSED",
    ]
    for mistake, text in zip(mistakes, expected, strict=True):
        assert text in mistake.get("message", ""), mistake


def test_an_error_about_the_url_shows_no_password(plain: Project) -> None:
    urls = ["https://me:s3cret@x:1/?key=s3cret", "me:s3cret@x:1", "https://me:s3/cret@x:1"]
    found = run(
        plain,
        f"""
const connected = async (url) => connect({{ url }});
print(await Promise.all({json.dumps(urls)}.map((url) => reason(connected(url)))));
""",
    )
    ends = [failure["message"].partition("8790")[2] for failure in found]
    assert ends == [", not https://x:1/", ", not x:1", ""]


def test_the_methods_work_while_a_test_replaces_http_clients_and_timers(plain: Project) -> None:
    assert run(
        plain,
        """
import http from "node:http";
const emulator = await startEmulator();
const unusable = () => { throw new Error("replaced"); };
http.request = http.get = globalThis.fetch = globalThis.setTimeout = unusable;
await emulator.script("Hi");
await emulator.reset();
print([await emulator.requests(), (await emulator.unused()).rules]);
await emulator.stop();
""",
    ) == [[], []]


def test_calls_that_the_journal_has_removed_are_an_error(plain: Project) -> None:
    """Uses a server that says how many calls it has removed: 0 after the reset, then 3."""
    after_reset, later = run(
        plain,
        """
import http from "node:http";
let dropped = 0;
const server = http.createServer((request, response) =>
  response.end(JSON.stringify({ epoch: "a", dropped, requests: [] })));
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const emulator = connect({ url: `http://127.0.0.1:${server.address().port}` });
await emulator.reset();
const afterReset = await emulator.requests();
dropped = 3;
print([afterReset, await reason(emulator.requests())]);
server.close();
""",
    )
    assert after_reset == []
    assert later["name"] == "EmulatorError" and "has removed 3" in later["message"]


def test_a_start_that_takes_too_long_fails(plain: Project) -> None:
    plain.write("slow.sh", "#!/bin/sh\necho loading >&2\nexec sleep 100\n")
    (plain.folder / "slow.sh").chmod(0o755)
    failure = run(
        plain, 'print(await reason(startEmulator({ command: "./slow.sh", startTimeout: 500 })));'
    )
    assert failure["message"].startswith("the emulator did not start: it was not ready after 0.5 s")


@pytest.mark.parametrize(
    ("users", "expected"),
    [
        ("a.example", "a.example,127.0.0.1"),
        ("*", "*"),
        ("a.example,*", "a.example,*,127.0.0.1"),
        ("a.example, *", "a.example, *,127.0.0.1"),
        ("", "127.0.0.1"),
    ],
)
def test_the_emulator_is_an_exception_from_the_users_proxy(
    plain: Project, users: str, expected: str
) -> None:
    text = 'print(connect({ url: "http://127.0.0.1:1" }).env());'
    found = run(plain, text, NO_PROXY=users)
    assert found["NO_PROXY"] == found["no_proxy"] == expected


def test_lines_before_the_url_are_ignored(plain: Project) -> None:
    """`npm run` prints such lines."""
    assert (
        run(
            plain,
            """
const script = `echo; echo '> serve'; exec ${process.env.WORKERS_AI_EMULATOR_COMMAND} "$@"`;
const emulator = await startEmulator({ command: ["sh", "-c", script, "sh"] });
print(await emulator.requests());
""",
        )
        == []
    )


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo; echo hello", "the emulator did not start: it was not ready after 2 s"),
        ("echo http://:1", "url: it takes a URL such as http://127.0.0.1:8790, not http://:1"),
    ],
)
def test_a_program_that_is_no_emulator_is_stopped(
    plain: Project, script: str, message: str
) -> None:
    failure, is_running = run(
        plain,
        f"""
import {{ readFileSync }} from "node:fs";
const command = ["sh", "-c", "echo $$ > pid.txt; {script}; exec sleep 100"];
const failure = await reason(startEmulator({{ command, startTimeout: 2000 }}));
const pid = Number(readFileSync("pid.txt", "utf-8"));
const running = await reason((async () => process.kill(pid, 0))());
print([failure, running.value ?? false]);
""",
    )
    assert (failure["message"], is_running) == (message, False)


def test_a_program_that_ends_without_a_url_is_an_error(plain: Project) -> None:
    text = 'print(await reason(startEmulator({ command: ["sh", "-c", "echo; echo hello"] })));'
    message = run(plain, text)["message"]
    assert message == "the emulator did not start: it ended with exit status 0"


@pytest.mark.parametrize(
    ("break_node", "reason"),
    [
        ('process.execPath = "/no/such/node";', "spawn /no/such/node ENOENT"),
        # Two free file descriptors: for the log, and too few for the pipes of a process.
        (
            """
import { closeSync, openSync } from "node:fs";
const open = [];
try { for (;;) open.push(openSync("/dev/null")); } catch {}
for (const file of open.slice(0, 2)) closeSync(file);
setTimeout(() => open.slice(2).forEach((file) => closeSync(file)), 1000);
""",
            "EMFILE",
        ),
    ],
)
def test_a_process_that_cannot_be_started_is_an_error(
    plain: Project, break_node: str, reason: str
) -> None:
    program = f'{break_node}print(await reason(startEmulator({{ command: "true" }})));'
    plain.write("program.mjs", IMPORTS + HELPERS + program)
    done = plain.run("sh", "-c", "ulimit -n 200; exec node program.mjs")
    assert done.returncode == 0, done.stdout + done.stderr
    message = json.loads(done.stdout)["message"]
    assert message.startswith("the emulator did not start: its process cannot be started: ")
    assert reason in message


def test_a_strict_emulator_refuses_calls_that_match_no_rule(plain: Project) -> None:
    [error] = run(
        plain,
        """
const emulator = await startEmulator({ strict: true });
print((await ask(emulator, "Hi")).errors);
""",
    )
    assert error["code"] == 3905


def test_the_error_after_the_emulator_was_killed_has_its_output(plain: Project) -> None:
    failure = run(
        plain,
        """
import { readFileSync } from "node:fs";
const script = `echo $$ > pid.txt; exec ${process.env.WORKERS_AI_EMULATOR_COMMAND} "$@"`;
const emulator = await startEmulator({ command: ["sh", "-c", script, "sh"] });
await ask(emulator, "Hi");
process.kill(Number(readFileSync("pid.txt", "utf-8")), "SIGKILL");
while (emulator.endReason === null) await new Promise((resolve) => setTimeout(resolve, 20));
print(await reason(emulator.requests()));
""",
    )
    assert "does not answer: it ended with the signal SIGKILL" in failure["message"]
    assert "Its output:\n  " in failure["message"] and "POST /client/v4" in failure["message"]


def test_the_log_is_appended_to_the_given_file(plain: Project) -> None:
    run(
        plain,
        """
const emulator = await startEmulator({ log: "emulator.log" });
await ask(emulator, "Hi");
await emulator.stop();
print(emulator.endReason);
""",
    )
    assert "POST /client/v4" in (plain.folder / "emulator.log").read_text("utf-8")


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_the_emulator_exits_with_the_program(plain: Project, end: str) -> None:
    waits = "await new Promise(() => setInterval(() => {}, 1000));" if end == "kill" else ""
    text = f'const emulator = await startEmulator(); console.log("" + emulator.url); {waits}'
    plain.write("program.mjs", IMPORTS + text)
    process = subprocess.Popen(
        ["node", "program.mjs"],
        cwd=plain.folder,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    port = int(process.stdout.readline().rsplit(":", 1)[1])
    if end == "kill":
        process.send_signal(signal.SIGKILL)
    process.wait(60)
    process.stdout.close()
    wait_until(lambda: not listens(port), limit_s=60)


@pytest.mark.parametrize("ignored", ["", "trap '' TERM; "])
def test_all_processes_of_a_script_that_starts_the_emulator_end(
    plain: Project, ignored: str
) -> None:
    """The script waits for the emulator. After SIGTERM, it ends without the emulator, or never."""
    number = run(
        plain,
        f"""
import {{ readFileSync }} from "node:fs";
const serve = `${{process.env.WORKERS_AI_EMULATOR_COMMAND}} "$@" & echo $! > pid.txt`;
const script = `{ignored}${{serve}}; wait; while true; do sleep 1; done`;
const emulator = await startEmulator({{ command: ["sh", "-c", script, "sh"] }});
await emulator.requests();
await emulator.stop();
print(Number(readFileSync("pid.txt", "utf-8")));
""",
    )
    has_ended = not psutil.pid_exists(number) or psutil.Process(number).status() == "zombie"
    assert has_ended


def listens(port: int) -> bool:
    connections = psutil.net_connections("tcp")
    return any(c.status == "LISTEN" and c.laddr[1:2] == (port,) for c in connections)


def test_the_command_is_searched(plain: Project, tmp_path: Path) -> None:
    """Finds the command on the PATH, in .venv, as a Python module, with uvx and in Docker."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "node").symlink_to(shell("command -v node"))
    failure = search(plain, bin_folder)
    for text in ("on the PATH: not found", ".venv/bin/", "python3: not", "uvx: not", "docker: not"):
        assert text in failure["message"]
    assert "`pip install .` in a checkout" in failure["message"]
    for name, script in {
        "docker": DOCKER,
        "uvx": f'shift\n[ "$1" = --version ] || exec {COMMAND} "$@"',
        "python3": f'exec {sys.executable} "$@"',
        "workers-ai-emulator": f'exec {COMMAND} "$@"',
    }.items():
        program(bin_folder / name, f"echo {name} >> {tmp_path}/used.txt\n{script}")
        assert search(plain, bin_folder) == {"value": True}
        assert (tmp_path / "used.txt").read_text("utf-8").split()[-1] == name


# Instead of Docker: starts the emulator at the published port, with the mounted script.
DOCKER = f"""
[ "$1" = image ] && exit 0
published="$5" volume="$7"
port="${{published#127.0.0.1:}}" script="${{volume%%:*}}"
shift 8
shift  # serve
exec {COMMAND} serve --backend scripted --script "$script" --port "${{port%%:*}}"
"""


def search(project: Project, path: Path) -> Any:
    text = """
const started = async () => {
  const emulator = await startEmulator({ script: ["Hi"] });
  const { result } = await ask(emulator, "Hi");
  await emulator.stop();
  return result.response === "Hi";
};
print(await reason(started()));
"""
    return run(project, text, PATH=str(path), WORKERS_AI_EMULATOR_COMMAND="")


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
    path.chmod(0o755)


def shell(command: str) -> str:
    done = subprocess.run(["sh", "-c", command], check=True, capture_output=True, text=True)
    return done.stdout.strip()
