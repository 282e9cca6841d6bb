"""Tests the report and the exit status of the command `check`, with a fake model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from workers_ai_emulator import __version__
from workers_ai_emulator.cli import main
from workers_ai_emulator.cli.report import (
    calls_section,
    determinism_section,
    machine_section,
    speed_section,
)
from workers_ai_emulator.engine.types import SamplingParams
from workers_ai_emulator.runtime.determinism import Difference, Round, Trial, TrialRequest
from workers_ai_emulator.runtime.speed import Run, Speed

from tests.fake_loader import FakeLoader
from tests.fakes import FakeRunner
from tests.gguf_files import llama2_model
from tests.unit.test_check_measurements import DifferingRunner, fake_runner

NAME = "@cf/someone/one"
GREEDY = TrialRequest([1] * 4, SamplingParams(temperature=0.0))
SEEDED = TrialRequest([1] * 600, SamplingParams(temperature=1.0, seed=1))
REQUESTS = [GREEDY, SEEDED]


def test_the_machine_section_names_versions_and_hardware() -> None:
    lines = machine_section().splitlines()
    assert lines[0] == "## Machine" and f"emulator {__version__}, llama-cpp-python" in lines[2]
    assert [line.partition(":")[0] for line in lines[3:]] == [
        "- system", "- processor", "- llama.cpp uses", "- memory", "- GPU",
    ]  # fmt: skip


def test_the_calls_are_a_table_in_milliseconds() -> None:
    assert calls_section({1: 0.0081, 16: 0.125}, is_complete=True) == (
        "## Decode calls\n\n| rows | 1 | 16 |\n|---|--:|--:|\n| ms | 8.1 | 125.0 |\n"
    )


def test_unmeasured_calls_have_a_reason() -> None:
    assert "--drafts" in calls_section({}, is_complete=True)
    assert "time limit" in calls_section({16: 2.0}, is_complete=False)
    assert "time limit" in calls_section({}, is_complete=False)


def test_the_speed_has_one_line_per_number_of_clients() -> None:
    one = Speed(1, [Run([[0.05, 1.05]], is_cut=False)])
    four = Speed(4, [Run([[0.1, 0.6], [0.1, 0.6], [0.1, 0.6], [0.1]], is_cut=True)])
    assert speed_section([one, four, Speed(4, [])]).splitlines()[2:] == [
        "- 1 client: 1.0 tokens/s, first token after 50 ms",
        "- 4 clients: 6.0 tokens/s, first token after 100 ms (the time limit was reached after 7 "
        "tokens)",
        "- 4 clients: not measured, too few tokens before the time limit",
    ]


def test_equal_completions_are_reported_as_equal() -> None:
    section = determinism_section(Trial(REQUESTS, [Round("again", 2, []), Round("twice", 2, [])]))
    assert section.splitlines()[2:] == [
        "2 greedy and seeded requests with prompts of 4 to 600 tokens ran one after the other. The "
        "same requests ran again:",
        "",
        "- again: equal",
        "- twice: equal",
        "",
        "Result: equal",
    ]


def test_different_completions_are_counted_and_described() -> None:
    rounds = [Round("again", 2, [Difference(SEEDED, 4)]), Round("twice", 2, [])]
    lines = determinism_section(Trial(REQUESTS, rounds)).splitlines()
    assert "- again: 1 of 2 differ" in lines
    assert "- the seeded request with 600 prompt tokens differs from token 5 on (again)" in lines
    assert lines[-1] == "Result: 1 of 4 differ"


def test_a_trial_that_was_cut_says_how_much_was_compared() -> None:
    section = determinism_section(Trial(REQUESTS, [Round("again", 1, []), Round("twice", 0, [])]))
    assert "- twice: nothing compared" in section
    assert "Result: equal. The time limit was reached: 1 of 4 completions were compared." in section


# ── the command ─────────────────────────────────────────────────────────────────────────────────


def check(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    *arguments: str,
    runner_of: Callable[[], FakeRunner] = fake_runner,
) -> int | str | None:
    """Runs `check` with a fake model, whose file is in `folder`. Returns its exit code."""
    (folder / "one.gguf").write_bytes(llama2_model())
    (folder / "models.toml").write_text(f'["{NAME}"]\nfile = "one.gguf"\n')
    loader = FakeLoader(runner_of=runner_of)
    monkeypatch.setattr("workers_ai_emulator.runtime.loader.Loader", lambda settings: loader)
    monkeypatch.setattr(
        sys, "argv", ["workers-ai-emulator", "check", "--models-dir", str(folder), *arguments]
    )
    with pytest.raises(SystemExit) as exit:
        main()
    return exit.value.code


def test_a_deterministic_model_exits_with_0(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(monkeypatch, tmp_path, NAME, "--no-drafts") == 0
    captured = capsys.readouterr()
    titles = [line for line in captured.out.splitlines() if line.startswith("## ")]
    assert titles == ["## Machine", "## Model", "## Decode calls", "## Speed", "## Determinism"]
    assert f"- name: {NAME}\n- weights: one.gguf, F32\n" in captured.out
    assert "--no-drafts" in captured.out and captured.out.endswith("Result: equal\n\n")
    assert captured.err.startswith(f"loading {NAME}\n")


def test_a_completion_that_differs_exits_with_1(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def differing() -> FakeRunner:
        return DifferingRunner(context_length=1024, tiling=fake_runner()._tiling)

    assert check(monkeypatch, tmp_path, NAME, "--quiet", runner_of=differing) == 1
    captured = capsys.readouterr()
    assert "of 36 differ" in captured.out.splitlines()[-2]
    assert captured.err == ""


def test_a_model_that_cannot_compute_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing() -> FakeRunner:  # fails after the check at the start, which makes two calls
        return FakeRunner(context_length=1024, fail_at={3})

    assert check(monkeypatch, tmp_path, NAME, "--quiet", runner_of=failing) == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert line == f"workers-ai-emulator: {NAME} does not compute: decode failed"


def test_nothing_to_compare_exits_with_1(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def nothing_compared(*_: object, **__: object) -> Trial:
        return Trial(REQUESTS, [Round("again", 0, [])])

    monkeypatch.setattr("workers_ai_emulator.runtime.determinism.try_determinism", nothing_compared)
    assert check(monkeypatch, tmp_path, NAME, "--quiet") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "no completions were compared" in line and "smaller model" in line


def test_an_unknown_model_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(monkeypatch, tmp_path, "@cf/someone/two") == 1
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert "no model is called @cf/someone/two" in line and captured.out == ""
