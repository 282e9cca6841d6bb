"""Tests the declarations of the settings, and the conversion of their values."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from workers_ai_emulator.errors import SettingInvalid
from workers_ai_emulator.settings import Settings
from workers_ai_emulator.settings.declaration import declarations
from workers_ai_emulator.settings.settings import default_models_dir

from tests import irregular_files
from tests.pages import ROOT

DECLARATIONS = declarations(Settings())


def value_of(name: str, given: Any) -> Any:
    return DECLARATIONS[name].value_of(given)


def error_of(name: str, given: Any) -> str:
    with pytest.raises(SettingInvalid) as failure:
        value_of(name, given)
    return str(failure.value)


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("10", 10),
        ("500M", 500 * 2**20),
        ("12GiB", 12 * 2**30),
        ("12 gb", 12 * 2**30),
        ("1.5T", 1.5 * 2**40),
    ],
)
def test_a_size_is_converted_to_bytes(text: str, num_bytes: int) -> None:
    assert value_of("memory_limit", text) == num_bytes


@pytest.mark.parametrize("text", ["", "x", "-1", "12 apples", "AUTO", "0", "0.1", "0G"])
def test_a_bad_size_is_refused_with_an_example(text: str) -> None:
    assert error_of("memory_limit", text) == (
        "--memory (or WORKERS_AI_EMULATOR_MEMORY) takes `auto` or a size such as 12GiB, "
        f"not {text!r}"
    )


def test_a_size_beyond_all_limits_is_refused_in_a_short_line() -> None:
    line = error_of("memory_limit", "9" * 400)
    assert line.endswith(f"not '{'9' * 40}…'")
    assert value_of("memory_limit", "0.5K") == 512


def test_a_number_of_too_many_digits_is_refused() -> None:
    assert error_of("parallel", "1" * 5000).endswith(f"not '{'1' * 40}…'")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [("parallel", "1", 1), ("parallel", "256", 256), ("gpu_layers", "0", 0)],
)
def test_a_number_within_its_limits_is_accepted(name: str, text: str, expected: int) -> None:
    assert value_of(name, text) == expected


@pytest.mark.parametrize("text", ["0", "257", "-1", "many", "", "²", "1" * 40])
def test_a_bad_number_is_refused_with_its_limits(text: str) -> None:
    assert error_of("parallel", text) == (
        "--parallel (or WORKERS_AI_EMULATOR_PARALLEL) takes `auto` or a number from 1 to 256, "
        f"not {text!r}"
    )


@pytest.mark.parametrize("name", ["memory_limit", "parallel", "gpu_layers"])
def test_auto_is_none(name: str) -> None:
    assert value_of(name, "auto") is None


def test_tokens_are_the_lines_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(" one \n\ntwo\n")
    assert value_of("file_tokens", tmp_path / "tokens") == {"one", "two"}


def test_a_token_file_without_tokens_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(" \n\n")
    with pytest.raises(SettingInvalid, match=r"^--api-token-file: .* holds no token; write one"):
        value_of("file_tokens", tmp_path / "tokens")


def test_a_token_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_bytes(b"\xff")
    with pytest.raises(SettingInvalid, match=r"^--api-token-file: .*: is not UTF-8 text"):
        value_of("file_tokens", tmp_path / "tokens")


def test_a_token_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert value_of("file_tokens", tmp_path / "tokens") == {"one", "two"}


@pytest.mark.parametrize("line", ["two three", "\ufefftwo", "tw\u00f6"])
def test_a_line_that_no_header_can_hold_is_refused_without_showing_it(
    tmp_path: Path, line: str
) -> None:
    (tmp_path / "tokens").write_text(f"one\n{line}\n", "utf-8")
    with pytest.raises(SettingInvalid, match=r": line 2 is no token: ") as failure:
        value_of("file_tokens", tmp_path / "tokens")
    assert line not in str(failure.value)


@pytest.mark.parametrize("kind", irregular_files.KINDS)
def test_a_token_file_that_is_no_regular_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "tokens"
    irregular_files.make(path, kind)
    with pytest.raises(SettingInvalid, match=r"^--api-token-file: .*tokens: is a "):
        value_of("file_tokens", path)


@pytest.mark.parametrize("tokens", [[""], ["one", ""], ["one", " \t"]])
def test_an_empty_token_is_refused(tokens: list[str]) -> None:
    with pytest.raises(SettingInvalid, match=r"^--api-token \(or .*\) is empty: give a value"):
        value_of("inline_tokens", tokens)


@pytest.mark.parametrize("name", ["host", "upstream_url", "upstream_api_key", "cloudflare_url"])
def test_an_empty_text_is_refused(name: str) -> None:
    with pytest.raises(SettingInvalid, match=r"is empty: give a value, or leave it out$"):
        value_of(name, " ")


def test_a_token_with_characters_that_no_header_can_hold_is_refused_without_showing_it() -> None:
    with pytest.raises(SettingInvalid, match=r"^--api-token .* ASCII without spaces") as failure:
        value_of("inline_tokens", ["k\u00e9y"])
    assert "k\u00e9y" not in str(failure.value)


def test_white_space_around_a_token_is_removed() -> None:
    assert value_of("inline_tokens", [" one\n"]) == {"one"}


@pytest.mark.parametrize(
    ("host", "tokens", "is_open"),
    [
        ("0.0.0.0", [], True),
        ("::", [], True),
        ("192.168.0.2", [], True),
        ("build.example", [], True),
        ("0.0.0.0", ["one"], False),
        ("127.0.0.2", [], False),
        ("::1", [], False),
        ("localhost", [], False),
    ],
)
def test_a_server_without_tokens_is_open_unless_it_listens_on_this_machine_only(
    host: str, tokens: list[str], is_open: bool
) -> None:
    assert Settings(host=host, inline_tokens=frozenset(tokens)).is_open_to_others is is_open


def test_white_space_around_the_host_is_removed() -> None:
    assert value_of("host", " localhost \r") == "localhost"


@pytest.mark.parametrize("host", ["my host", "a\tb", "a\x00", "a\x7fb", "a\u00a0b"])
def test_a_host_with_white_space_or_control_characters_is_refused(host: str) -> None:
    assert error_of("host", host) == (
        "--host (or WORKERS_AI_EMULATOR_HOST) takes a host name or an IP address, such as "
        f"127.0.0.1, not {host!r}"
    )


@pytest.mark.parametrize("name", ["request_timeout", "stall_timeout", "replay_speed"])
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_refused(name: str, number: float) -> None:
    assert error_of(name, number).endswith(f" takes a finite number, not {number}")


def test_tokens_of_flags_and_of_the_file_are_accepted() -> None:
    settings = Settings(inline_tokens=frozenset({"one"}), file_tokens=frozenset({"two"}))
    assert settings.api_tokens == {"one", "two"}


def test_origins_are_stored_as_browsers_write_them() -> None:
    given = ["https://App.example:3000/", "null", "*", "https://app.example:3000"]
    assert value_of("allowed_origins", given) == {"https://app.example:3000", "null", "*"}


@pytest.mark.parametrize("text", ["app.example", "http://app.example/path", "http://a http://b"])
def test_a_bad_origin_is_refused_with_an_example(text: str) -> None:
    assert error_of("allowed_origins", ["*", text]) == (
        "--allow-origin (or WORKERS_AI_EMULATOR_ALLOW_ORIGIN) takes an origin such as "
        f"https://app.example:3000, `null` or `*`, not {text!r}"
    )


@pytest.mark.parametrize(
    ("flag", "settings"),
    [
        ("backend", Settings(backend="upstream", record_from="upstream")),
        ("record-from", Settings(record_from="upstream")),
    ],
)
def test_the_upstream_server_needs_its_url(flag: str, settings: Settings) -> None:
    with pytest.raises(SettingInvalid, match=f"^--{flag} upstream needs --upstream-url$"):
        settings.check_upstream()
    replace(settings, upstream_url="http://127.0.0.1:8080/v1").check_upstream()


@pytest.mark.parametrize(
    ("host", "expected"),
    [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]"), ("a.example", "a.example")],
)
def test_the_host_is_written_as_in_a_url(host: str, expected: str) -> None:
    assert Settings(host=host).base_url_host == expected


def test_the_api_key_is_not_in_the_representation() -> None:
    assert "secret" not in repr(Settings(upstream_api_key="secret"))


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HOME": "/home/user"}, "/home/user/.cache/workers-ai-emulator/models"),
        ({"HOME": "/home/user", "XDG_CACHE_HOME": "/c"}, "/c/workers-ai-emulator/models"),
        (
            {"HOME": "/home/user", "XDG_CACHE_HOME": "relative"},
            "/home/user/.cache/workers-ai-emulator/models",
        ),
        (
            {"HOME": "/home/user", "XDG_CACHE_HOME": ""},
            "/home/user/.cache/workers-ai-emulator/models",
        ),
        ({"XDG_CACHE_HOME": "/c"}, "/c/workers-ai-emulator/models"),
        ({}, "models"),
        ({"HOME": ""}, "models"),
    ],
    ids=str,
)
@pytest.mark.skipif(sys.platform != "linux", reason="tests the cache folder of Linux")
def test_outside_a_checkout_the_models_folder_is_in_the_cache_folder(
    variables: dict[str, str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A project of the user in which `pip install --target FOLDER` has installed the package.
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "models").mkdir()
    monkeypatch.setattr("workers_ai_emulator.settings.settings._CHECKOUT", tmp_path)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])  # the user has no entry
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert default_models_dir() == Path(expected)


def test_in_a_checkout_the_models_folder_is_in_the_checkout() -> None:
    assert default_models_dir() == ROOT / "models"


def test_every_field_is_declared_with_a_sentence() -> None:
    assert list(DECLARATIONS) == [field.name for field in fields(Settings)]
    assert all(d.setting.help.endswith(".") for d in DECLARATIONS.values())


def test_no_secret_is_in_the_values_that_the_server_shows() -> None:
    shown = Settings(
        inline_tokens=frozenset({"secret-1"}),
        file_tokens=frozenset({"secret-2"}),
        upstream_api_key="secret-3",
        upstream_url="https://user:secret-4@host.example:1/v1?key=secret-5",
        script=Path("rules.yaml"),
        preload=("@cf/a/b",),
    ).to_json()
    assert "secret" not in json.dumps(shown)
    assert shown["upstream-url"] == "https://host.example:1/v1"
    assert (shown["script"], shown["preload"]) == (str(Path.cwd() / "rules.yaml"), ["@cf/a/b"])
    assert shown.keys() == {d.flag for d in DECLARATIONS.values() if not d.setting.is_secret}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://[::1]:8080/v1", "http://[::1]:8080/v1"),
        ("localhost:8080/v1", "localhost:8080/v1"),
        ("user:secret@host.example/v1", "host.example/v1"),
        ("user:secret@host.example/?next=http://a", "host.example/"),
        ("http://host.example/v1#secret", "http://host.example/v1"),
        ("http://host.example/v1/%40cf/a", "http://host.example/v1/%40cf/a"),
        ("http://host.example/v1/@cf/a", "(not a valid URL)"),
        ("http://host.example:1/me@host.example", "(not a valid URL)"),
        ("http://user:sec@ret@host.example/v1", "http://host.example/v1"),
        ("http://user:secret/1@host.example/v1", "(not a valid URL)"),
        ("http://user:secret?1@host.example/v1", "(not a valid URL)"),
        ("http://user:12/3@host.example/v1", "(not a valid URL)"),
        ("http://user:12/@host.example/v1", "(not a valid URL)"),
        ("http://user:12?3@host.example/v1", "(not a valid URL)"),
        ("http://user:12#3@host.example/v1", "(not a valid URL)"),
        ("http://12/3@host.example/v1", "(not a valid URL)"),
        ("http://user:1@2/@host.example/v1", "(not a valid URL)"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert Settings(upstream_url=url).to_json()["upstream-url"] == shown


def test_in_a_deleted_working_folder_paths_are_shown_as_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "deleted"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert Settings(script=Path("rules.yaml")).to_json()["script"] == "rules.yaml"


def test_every_setting_that_holds_a_credential_is_secret() -> None:
    secret = {d.flag for d in DECLARATIONS.values() if d.setting.is_secret}
    assert secret == {"api-token", "api-token-file", "upstream-api-key"}


@pytest.mark.parametrize(
    ("values", "flags"),
    [
        ({"backend": "llama"}, ["--script", "--strict"]),
        ({"backend": "upstream"}, ["--script", "--strict"]),
        ({"backend": "scripted"}, []),
        ({"backend": "replay"}, ["--script"]),
        ({"backend": "record", "record_from": "llama"}, ["--script"]),
        ({"backend": "record", "record_from": "scripted"}, []),
        ({"backend": "llama", "script": None, "strict": False}, []),
    ],
)
def test_flags_of_the_script_that_the_backend_does_not_use_are_found(
    values: dict[str, Any], flags: list[str]
) -> None:
    given: dict[str, Any] = {"script": Path("rules.yaml"), "strict": True, **values}
    settings = Settings(**given)
    assert settings.unused_script_flags == flags
