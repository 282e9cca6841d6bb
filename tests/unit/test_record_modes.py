"""Tests record modes, the recordings of accounts, and which files change when calls are repeated.

The whole application runs in the test's process; the backend `scripted` gives the responses.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from workers_ai_emulator.app import create_app
from workers_ai_emulator.middleware.recordings import recordings as recordings_module
from workers_ai_emulator.models.models_file import read_catalog
from workers_ai_emulator.routes.services import Services
from workers_ai_emulator.settings import Settings

from tests.asgi import body_of, call, http_scope, status_of
from tests.server import INT8

ONE, OTHER = "1" * 32, "2" * 32


class Emulator:
    """An emulator in the test's process that records from the backend `scripted`."""

    def __init__(self, folder: Path, mode: str | None = "all", **settings: Any) -> None:
        backend: Any = {"backend": "replay"} if mode is None else {"record_mode": mode}
        chosen: Any = {"backend": "record", "record_from": "scripted"} | backend | settings
        all_settings = Settings(cassettes=folder, models_dir=folder / "none", **chosen)
        self._app = create_app(Services.create(all_settings, read_catalog(folder / "none")))

    def control(self, method: str, path: str, body: Any = None) -> Any:
        status, text = self.send(method, f"/_emulator/{path}", body)
        return json.loads(text) | {"http_status": status}

    def answers(self, *answers: str) -> None:
        """Lets the next calls get these completions, one each."""
        self.control("POST", "script", [{"answer": answer, "times": 1} for answer in answers])

    def run(self, prompt: str = "Hello", account: str = ONE, **fields: Any) -> Any:
        """Returns the completion, or the code of the error."""
        path = f"/client/v4/accounts/{account}/ai/run/{INT8}"
        _, text = self.send("POST", path, {"prompt": prompt, **fields})
        if not text.startswith("{"):
            return text
        value = json.loads(text)
        return value["result"]["response"] if value["success"] else value["errors"][0]["code"]

    def reset(self, account: str | None = None) -> None:
        self.control("POST", f"reset?account={account}" if account else "reset")

    def rows(self, account: str) -> list[Any]:
        rows: list[Any] = self.control("GET", f"requests?account={account}")["requests"]
        return rows[::-1]

    def send(self, method: str, path: str, body: Any) -> tuple[int, str]:
        path, _, query = path.partition("?")
        headers = {"host": "localhost", "content-type": "application/json"}
        scope = http_scope(path, method, headers, query_string=query.encode())
        sent = call(self._app, scope, [b"" if body is None else json.dumps(body).encode()])
        return status_of(sent), body_of(sent).decode()


def record(folder: Path, *answers: str, mode: str = "all", **settings: Any) -> None:
    """Records one call for each of the answers."""
    emulator = Emulator(folder, mode, **settings)
    emulator.answers(*answers)
    assert [emulator.run() for _ in answers] == [*answers]


def files_of(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.glob("*.json"))}


def contents(folder: Path) -> list[tuple[str, int]]:
    """Returns the suffix of each file's name, such as `.2.json`, and its number of calls."""
    files = {name: json.loads(text).get("times", 1) for name, text in files_of(folder).items()}
    return sorted((f".{name.split('-')[-1].partition('.')[2]}", n) for name, n in files.items())


# ── record modes ──────────────────────────────────────────────────────────────────────────────


def test_new_episodes_replays_recorded_calls_and_records_the_others(tmp_path: Path) -> None:
    record(tmp_path, "recorded")
    before = files_of(tmp_path)
    emulator = Emulator(tmp_path, "new_episodes")
    emulator.answers("new")
    assert [emulator.run(), emulator.run("Other"), emulator.run()] == [
        "recorded",
        "new",
        "recorded",
    ]
    after = files_of(tmp_path)
    assert len(after) == 2 and before.items() <= after.items()
    replayer = Emulator(tmp_path, None)
    assert [replayer.run(), replayer.run("Other")] == ["recorded", "new"]


def test_new_episodes_records_each_of_several_equal_calls(tmp_path: Path) -> None:
    record(tmp_path, "one", "two", mode="new_episodes")
    emulator = Emulator(tmp_path, "new_episodes")
    assert [emulator.run() for _ in range(3)] == ["one", "two", "two"]


def test_once_records_only_into_a_folder_without_recordings(tmp_path: Path) -> None:
    record(tmp_path, "one", mode="once")
    emulator = Emulator(tmp_path, "once")
    assert (emulator.run(), emulator.run("Other")) == ("one", 3901)


def test_once_still_records_into_its_new_folder_after_a_reset(tmp_path: Path) -> None:
    emulator = Emulator(tmp_path, "once")
    emulator.run()
    emulator.reset()
    assert emulator.run("Other") != 3901 and len(files_of(tmp_path)) == 2


def test_none_only_replays(tmp_path: Path) -> None:
    record(tmp_path, "one")
    emulator = Emulator(tmp_path, "none")
    assert (emulator.run(), emulator.run("Other")) == ("one", 3901)


def test_the_error_for_a_missing_recording_says_how_to_record_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Emulator(tmp_path, None).run()
    assert "--backend record --record-mode new_episodes" in caplog.text


def test_a_missing_recording_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record(tmp_path, "one")
    emulator = Emulator(tmp_path, None)
    caplog.set_level(logging.INFO)
    for prompt in ("a", "a", "b"):
        emulator.run(prompt)
    lines = [record.getMessage() for record in caplog.records]
    assert sum("the most similar recording is" in line for line in lines) == 2
    assert sum("3901: No recording of POST" in line for line in lines) == 3


# ── accounts ──────────────────────────────────────────────────────────────────────────────────


def test_each_account_gets_the_responses_to_equal_calls_from_the_first_one_on(
    tmp_path: Path,
) -> None:
    record(tmp_path, "one", "two")
    emulator = Emulator(tmp_path, None)
    runs = [emulator.run(account=account) for account in (ONE, OTHER, ONE, OTHER)]
    assert runs == ["one", "one", "two", "two"]
    emulator.reset(ONE)
    assert [emulator.run(account=account) for account in (ONE, OTHER)] == ["one", "two"]
    emulator.reset()
    assert [emulator.run(account=account) for account in (ONE, OTHER)] == ["one", "one"]


def test_accounts_record_to_their_own_folders_and_replay_from_them(tmp_path: Path) -> None:
    emulator = Emulator(tmp_path)
    for account, name in ((ONE, "a"), (OTHER, "weather/test_b[1]")):
        shown = emulator.control("POST", f"recordings?account={account}", {"folder": name})
        assert shown == {
            "folder": name,
            "path": str(tmp_path / name),
            "recordings": [],
            "http_status": 200,
        }
        assert not (tmp_path / name).exists()
        emulator.answers(f"of {name}")
        emulator.run(account=account)
    assert not files_of(tmp_path) and len(files_of(tmp_path / "weather" / "test_b[1]")) == 1
    replayer = Emulator(tmp_path, None)
    replayer.control("POST", f"recordings?account={ONE}", "weather/test_b[1]")
    assert (replayer.run(), replayer.run(account=OTHER)) == ("of weather/test_b[1]", 3901)
    replayer.control("POST", "recordings", {"folder": "a"})
    assert (replayer.run(), replayer.run(account=OTHER)) == ("of weather/test_b[1]", "of a")
    replayer.control("POST", f"recordings?account={ONE}", {"folder": None})
    assert replayer.run() == 3901


def test_a_reset_restores_the_folder_of_the_start(tmp_path: Path) -> None:
    emulator = Emulator(tmp_path)
    for target in (f"?account={ONE}", ""):
        emulator.control("POST", f"recordings{target}", {"folder": "a"})
        emulator.control("POST", f"reset{target}")
        assert emulator.control("GET", f"recordings{target}")["folder"] is None


@pytest.mark.parametrize(
    "body",
    [
        {"folder": name}
        for name in ("", ".", "..", "../a", "/a", "a/../b", "a//b", "a/", ".a", "a\\b", "a.json",
                     "a\n", "a" * 201, 1, ["a"])
    ] + [{}, {"folders": "a"}, {"folder": "a", "x": 1}, ["a"], 1],
)  # fmt: skip
def test_a_folder_outside_of_the_cassettes_or_another_body_is_an_error(
    tmp_path: Path, body: Any
) -> None:
    shown = Emulator(tmp_path).control("POST", "recordings", body)
    (error,) = shown["errors"]
    assert shown["http_status"] == 400 and "subfolder of --cassettes" in error["message"]


def test_a_damaged_recording_in_a_subfolder_is_an_error_when_the_folder_is_set(
    tmp_path: Path,
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.json").write_text("{\n}\n}")
    shown = Emulator(tmp_path, "once").control("POST", "recordings", {"folder": "a"})
    assert "x.json is no recording: line 3: Extra data" in shown["errors"][0]["message"]


def test_only_a_limited_number_of_accounts_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path, "one", "two")
    monkeypatch.setattr(recordings_module, "_MAX_ACCOUNTS", 2)
    emulator = Emulator(tmp_path, None)
    accounts = [ONE, OTHER, ONE, "3" * 32, OTHER]
    assert [emulator.run(account=a) for a in accounts] == ["one", "one", "two", "one", "one"]


# ── verification ──────────────────────────────────────────────────────────────────────────────


def test_the_journal_names_the_recording_of_a_call_or_marks_it_as_unmatched(
    tmp_path: Path,
) -> None:
    record(tmp_path, "one")
    (name,) = files_of(tmp_path)
    emulator = Emulator(tmp_path, "none")
    emulator.run()
    emulator.run("Other")
    rows = [(row["recording"], row["unmatched"]) for row in emulator.rows(ONE)]
    assert rows == [(name, False), (None, True)]
    assert len(emulator.control("GET", f"unmatched?account={ONE}")["requests"]) == 1


def test_unused_recordings_are_listed(tmp_path: Path) -> None:
    recorder = Emulator(tmp_path)
    recorder.run()
    recorder.run("Other")
    assert recorder.control("GET", "unused")["recordings"] == []
    hello, other = sorted(files_of(tmp_path), key=lambda name: "Other" in files_of(tmp_path)[name])
    emulator = Emulator(tmp_path, None)
    emulator.run()
    assert emulator.control("GET", "unused")["recordings"] == [other]
    assert emulator.control("GET", f"unused?account={ONE}")["recordings"] == [other]
    unused = emulator.control("GET", f"unused?account={OTHER}")["recordings"]
    assert unused == sorted([hello, other])
    listed = emulator.control("GET", f"recordings?account={ONE}")["recordings"]
    assert {row["file"]: row["used"] for row in listed} == {hello: 1, other: 0}


def test_a_server_that_replays_nothing_has_no_unused_recordings(tmp_path: Path) -> None:
    record(tmp_path, "one")
    emulator = Emulator(tmp_path, backend="scripted")
    assert emulator.control("GET", "unused")["recordings"] == []


# ── stable files ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["a", "a", "a"], [(".json", 3)]),
        (["a", "b", "b", "a"], [(".2.json", 2), (".4.json", 1), (".json", 1)]),
    ],
)
def test_equal_responses_in_a_row_are_stored_once_with_their_number(
    tmp_path: Path, answers: list[str], expected: list[tuple[str, int]]
) -> None:
    record(tmp_path, *answers)
    assert contents(tmp_path) == expected
    emulator = Emulator(tmp_path, None)
    assert [emulator.run() for _ in range(5)] == [*answers, *answers[-1:] * 5][:5]


@pytest.mark.parametrize("fields", [{}, {"stream": True}])
@pytest.mark.parametrize("path", ["ai/run/" + INT8, "ai/v1/chat/completions", "ai/v1/completions"])
def test_recording_again_changes_no_byte_of_a_file_if_the_answer_is_the_same(
    tmp_path: Path, path: str, fields: Any
) -> None:
    stored = []
    body = {"model": INT8} if "v1" in path else {}
    text = {"messages": [{"role": "user", "content": "Hi"}]} if "chat" in path else {"prompt": "a"}
    for _ in range(2):
        emulator = Emulator(tmp_path)
        emulator.send("POST", f"/client/v4/accounts/{ONE}/{path}", body | text | fields)
        stored.append(files_of(tmp_path))
    assert len(stored[0]) == 1 and stored[0] == stored[1]


def test_recording_again_changes_the_file_if_the_answer_is_another_one(tmp_path: Path) -> None:
    record(tmp_path, "one", "two")
    before = files_of(tmp_path)
    record(tmp_path, "one", "three")
    after = files_of(tmp_path)
    assert before.keys() == after.keys()
    assert [before[name] == after[name] for name in sorted(after)] == [False, True]


def test_a_recording_has_times_only_if_they_are_asked_for(tmp_path: Path) -> None:
    for keeps_times in (True, False):
        emulator = Emulator(tmp_path, record_timing=keeps_times)
        emulator.run(stream=True)
        ((_, text),) = files_of(tmp_path).items()
        answer = json.loads(text)["answer"]
        assert ("after_ms" in answer, "timed_events" in answer) == (keeps_times, keeps_times)


def test_a_replay_speed_without_times_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record(tmp_path, "one")
    emulator = Emulator(tmp_path, None, replay_speed=1.0)
    assert [emulator.run(), emulator.run()] == ["one", "one"]
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert ["recorded without --record-timing" in line for line in warnings] == [True]


def test_a_recording_of_version_1_is_replayed_and_kept(tmp_path: Path) -> None:
    record(tmp_path, "one")
    ((name, text),) = files_of(tmp_path).items()
    content = json.loads(text)
    body = json.dumps(content["answer"].pop("json"), separators=(",", ":")).replace("one", "old")
    answer = content["answer"] | {"text": body, "after_ms": 5}
    old = content | {"version": 1, "recorded_at": "2026-01-01T00:00:00+00:00", "answer": answer}
    (tmp_path / name).write_text(json.dumps(old))
    assert Emulator(tmp_path, None).run() == "old"
    emulator = Emulator(tmp_path, "new_episodes")
    assert emulator.run() == "old" and json.loads(files_of(tmp_path)[name]) == old
