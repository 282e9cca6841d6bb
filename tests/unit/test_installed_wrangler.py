"""Tests which wrangler `worker init` finds for a project, and which versions it accepts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from workers_ai_emulator.errors import CommandError
from workers_ai_emulator.interception.installed_wrangler import (
    Wrangler,
    check_plugins,
    find_wrangler,
)


def install(folder: Path, package_json: str) -> Path:
    """Writes node_modules/wrangler/package.json into a folder, and returns the folder."""
    wrangler = folder / "node_modules" / "wrangler"
    wrangler.mkdir(parents=True)
    (wrangler / "package.json").write_text(package_json, "utf-8")
    return folder


def install_version(folder: Path, version: str) -> Path:
    return install(folder, json.dumps({"name": "wrangler", "version": version}))


def test_a_wrangler_beside_the_configuration_is_found(tmp_path: Path) -> None:
    install_version(tmp_path, "4.86.0")
    assert find_wrangler(tmp_path) == Wrangler(tmp_path / "node_modules" / "wrangler", "4.86.0")


def test_a_wrangler_of_a_monorepo_is_found_in_a_parent_folder(tmp_path: Path) -> None:
    package = install_version(tmp_path, "4.86.0") / "packages" / "api"
    package.mkdir(parents=True)
    found = find_wrangler(package)
    assert found is not None and found.version == "4.86.0"


def test_the_nearest_wrangler_is_found(tmp_path: Path) -> None:
    package = install_version(tmp_path, "4.86.0") / "packages" / "api"
    found = find_wrangler(install_version(package, "4.20.0"))
    assert found is not None and found.version == "4.20.0"


def test_a_folder_without_package_json_is_skipped(tmp_path: Path) -> None:
    package = install_version(tmp_path, "4.86.0") / "api"
    (package / "node_modules" / "wrangler").mkdir(parents=True)
    found = find_wrangler(package)
    assert found is not None and found.version == "4.86.0"


def test_a_linked_package_is_found_as_in_pnpm_s_layout(tmp_path: Path) -> None:
    store = install_version(tmp_path / "store", "4.20.0") / "node_modules" / "wrangler"
    modules = tmp_path / "project" / "node_modules"
    modules.mkdir(parents=True)
    (modules / "wrangler").symlink_to(store)
    found = find_wrangler(tmp_path / "project")
    assert found is not None and found.version == "4.20.0"


@pytest.mark.parametrize(
    "package_json",
    [
        "",
        "{",
        "[]",
        "null",
        '{"name": "wrangler"}',
        '{"version": 4}',
        '{"version": ""}',
        '{"version": "4.86"}',
        '{"version": "latest"}',
        "[" * 100_000,
    ],
)
def test_a_broken_package_json_is_an_error_of_one_line(tmp_path: Path, package_json: str) -> None:
    with pytest.raises(CommandError, match=r"^\S+package.json has no valid version: .+\Z"):
        find_wrangler(install(tmp_path, package_json))


def test_a_package_json_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    (install(tmp_path, "{}") / "node_modules" / "wrangler" / "package.json").write_bytes(b"\xff")
    with pytest.raises(CommandError, match=r"^cannot read .+: is not UTF-8 text: "):
        find_wrangler(tmp_path)


@pytest.mark.parametrize("version", ["4.36.0", "4.36.0-rc.1", "4.100.0", "5.0.0", "10.0.0"])
def test_a_version_from_4_36_on_is_new_enough(version: str) -> None:
    assert check_plugins(Wrangler(Path("wrangler"), version)) is None


@pytest.mark.parametrize("version", ["4.35.9", "4.35.0-beta.1", "4.4.0", "3.114.17", "3.40.0"])
def test_an_older_version_is_an_error_that_names_exec(version: str) -> None:
    with pytest.raises(CommandError) as caught:
        check_plugins(Wrangler(Path("/p/node_modules/wrangler"), version))
    message = str(caught.value)
    assert f"needs wrangler 4.36 or newer, but /p/node_modules/wrangler has version {version}" in (
        message
    )
    assert "run `workers-ai-emulator exec -- npx wrangler dev` instead" in message


@pytest.mark.parametrize(
    ("wrangler", "reason"),
    [
        (None, "no wrangler is installed"),
        (Wrangler(Path("wrangler"), "0.0.0-a1b2c3"), "has the test build 0.0.0-a1b2c3"),
    ],
)
def test_a_wrangler_of_unknown_version_gets_a_hint(wrangler: Wrangler | None, reason: str) -> None:
    hint = check_plugins(wrangler)
    assert hint is not None and "needs wrangler 4.36 or newer" in hint and reason in hint
