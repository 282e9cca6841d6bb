"""Tests the commands' flags and variables, which are generated from the settings' declarations."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.exceptions import TyperException
from workers_ai_emulator.cli import main
from workers_ai_emulator.cli.options import with_settings, with_some_settings
from workers_ai_emulator.settings import Settings
from workers_ai_emulator.settings.declaration import declarations


def parse(*flags: str) -> Settings:
    """Returns the settings that a command gets from these flags and from the environment."""
    parsed = []

    @with_settings
    def command(settings: Settings) -> None:
        parsed.append(settings)

    app = typer.Typer()
    app.command()(command)
    app(flags, standalone_mode=False)
    return parsed[0]


def error_of(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    """Runs a command that fails. Returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["workers-ai-emulator", *arguments])
    with pytest.raises(SystemExit) as exit:
        main()
    return exit.value.code


def test_without_flags_every_setting_has_its_default() -> None:
    assert parse() == Settings()


def test_an_environment_variable_replaces_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKERS_AI_EMULATOR_PORT", "1")
    monkeypatch.setenv("WORKERS_AI_EMULATOR_MEMORY", "1KiB")
    monkeypatch.setenv("WORKERS_AI_EMULATOR_DETERMINISTIC", "0")
    settings = parse()
    assert (settings.port, settings.memory_limit, settings.deterministic) == (1, 1024, False)


def test_a_flag_replaces_the_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKERS_AI_EMULATOR_PORT", "1")
    monkeypatch.setenv("WORKERS_AI_EMULATOR_PARALLEL", "many")
    monkeypatch.setenv("WORKERS_AI_EMULATOR_API_TOKEN", "one")
    settings = parse("--port", "2", "--parallel", "auto", "--api-token", "two")
    assert (settings.port, settings.parallel) == (2, None)
    assert settings.api_tokens == {"two"}


def test_a_command_can_have_some_of_the_flags_and_own_parameters() -> None:
    parsed = []

    @with_some_settings("threads", "parallel")
    def command(settings: Settings, name: Annotated[str, typer.Argument()]) -> None:
        parsed.append((settings, name))

    app = typer.Typer()
    app.command()(command)
    app(["--parallel", "3", "one", "--threads", "2"], standalone_mode=False)
    assert parsed == [(Settings(parallel=3, threads=2), "one")]
    with pytest.raises(TyperException, match="--seed"):
        app(["one", "--seed", "1"], standalone_mode=False)


def test_a_repeated_flag_collects_its_values() -> None:
    assert parse("--preload", "b", "--preload", "a").preload == ("b", "a")


def test_the_variable_of_a_repeated_flag_is_split_at_white_space(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORKERS_AI_EMULATOR_PRELOAD", "b a")
    assert parse().preload == ("b", "a")


def test_tokens_come_from_flags_and_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("one\ntwo\n")
    settings = parse("--api-token", "three", "--api-token-file", str(tmp_path / "tokens"))
    assert settings.api_tokens == {"one", "two", "three"}


def test_a_boolean_can_be_turned_off() -> None:
    assert not parse("--no-deterministic").deterministic


@pytest.mark.parametrize(
    ("flag", "value", "status"),
    [
        ("--port", "70000", 2),
        ("--port", "x", 2),
        ("--backend", "gpt", 2),
        ("--script", "/no/such/file", 2),
        ("--request-timeout", "0", 2),
        ("--request-timeout", "nan", 2),
        ("--request-timeout", "inf", 1),
        ("--memory", "0", 1),
        ("--memory", "much", 1),
        ("--gpu-layers", "257", 1),
        ("--allow-origin", "here", 1),
    ],
)
def test_a_bad_value_is_one_line_with_flag_and_variable(
    flag: str,
    value: str,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert error_of("serve", flag, value, monkeypatch=monkeypatch) == status
    (line,) = capsys.readouterr().err.splitlines()
    variable = "WORKERS_AI_EMULATOR_" + flag.removeprefix("--").upper().replace("-", "_")
    assert line.startswith("workers-ai-emulator: ") and flag in line and variable in line


@pytest.mark.parametrize(
    ("value", "end"),
    [("oncee", "; did you mean once?"), ("it's", ""), ("'\" is not one of ", ""), ("\\x", "")],
)
def test_a_value_that_is_no_choice_is_an_error_with_the_choices(
    value: str, end: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert error_of("serve", "--record-mode", value, monkeypatch=monkeypatch) == 2
    assert capsys.readouterr().err == (
        "workers-ai-emulator: --record-mode (or WORKERS_AI_EMULATOR_RECORD_MODE) takes all, "
        f"new_episodes, once or none, not {value!r}{end}\n"
    )


def test_a_bad_variable_is_one_line_with_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORKERS_AI_EMULATOR_THREADS", "0")
    assert error_of("serve", monkeypatch=monkeypatch) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "WORKERS_AI_EMULATOR_THREADS" in line


def test_typers_own_checks_come_before_the_parsers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("serve", "--memory", "x", "--port", "x")
    assert error_of(*arguments, monkeypatch=monkeypatch) == 2
    assert "--port" in capsys.readouterr().err


def test_a_command_can_narrow_the_limits_of_a_shared_option(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert error_of("wait", "--port", "0", monkeypatch=monkeypatch) == 2
    assert "--port" in capsys.readouterr().err


def test_the_flags_are_listed_in_the_order_of_the_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["workers-ai-emulator", "serve", "--help"])
    main()
    words = capsys.readouterr().out.split()
    positions = [words.index(f"--{d.flag}") for d in declarations(Settings()).values()]
    assert positions == sorted(positions)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("api-token", ""),
        ("api-token", " \n"),
        ("api-token-file", ""),
        ("upstream-api-key", ""),
        ("cloudflare-url", ""),
    ],
)
def test_a_blank_variable_of_a_secret_is_one_line(
    flag: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    variable = "WORKERS_AI_EMULATOR_" + flag.upper().replace("-", "_")
    monkeypatch.setenv(variable, value)
    assert error_of("serve", monkeypatch=monkeypatch) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert variable in line and "empty" in line


def test_a_flag_replaces_a_blank_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKERS_AI_EMULATOR_API_TOKEN", "")
    assert parse("--api-token", "one").api_tokens == {"one"}


def test_a_blank_variable_of_another_setting_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKERS_AI_EMULATOR_SEED", "")
    monkeypatch.setenv("WORKERS_AI_EMULATOR_ALLOW_ORIGIN", "")
    assert parse() == Settings()


@pytest.mark.parametrize("scheme", ["tcp", "udp", "sctp"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["wait", "--timeout", "0", "--url", "http://127.0.0.1:1"],  # port 1 is reserved
        ["exec"],
        ["serve", "--memory", "x"],
    ],
)
def test_the_variable_of_a_kubernetes_service_is_ignored_with_one_line(
    scheme: str,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    value = f"{scheme}://10.96.0.12:8790"
    monkeypatch.setenv("WORKERS_AI_EMULATOR_PORT", value)
    monkeypatch.setenv("WORKERS_AI_EMULATOR_SERVICE_HOST", "10.96.0.12")
    monkeypatch.setenv("WORKERS_AI_EMULATOR_PORT_8790_TCP", value)
    error_of(*arguments, monkeypatch=monkeypatch)
    ignored, *other = capsys.readouterr().err.splitlines()
    assert ignored.startswith(f"ignoring WORKERS_AI_EMULATOR_PORT='{value}': ")
    assert not any("WORKERS_AI_EMULATOR_PORT" in line for line in other)
    assert os.environ["WORKERS_AI_EMULATOR_PORT"] == value  # `exec` passes it on to its command


def test_another_text_in_the_port_variable_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORKERS_AI_EMULATOR_PORT", "http://127.0.0.1:8790")
    assert error_of("wait", monkeypatch=monkeypatch) == 2
    assert "WORKERS_AI_EMULATOR_PORT" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["serve"], ["wait", "--timeout", "0"], ["exec", "true"]])
def test_a_misspelt_variable_is_one_line_with_the_right_name(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORKERS_AI_EMULATOR_BACKND", "scripted")
    assert error_of(*arguments, monkeypatch=monkeypatch) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "workers-ai-emulator: no setting has the variable WORKERS_AI_EMULATOR_BACKND: did you "
        "mean WORKERS_AI_EMULATOR_BACKEND?"
    )
