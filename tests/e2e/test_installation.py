"""Tests the wheel and the source distribution that are uploaded to PyPI.

Installs the wheel without the extra `model` in a virtual environment of its own, and runs it in
folders outside the checkout.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from email import message_from_bytes
from pathlib import Path
from zipfile import ZipFile

import httpx
import pytest
import workers_ai_emulator
from workers_ai_emulator.models.catalog import CATALOG

from tests.pages import ROOT, blocks
from tests.server import ACCOUNT_ID, INT8, ServerProcess, server_process

LIMIT_S = 300
COMMAND = "pip install 'workers-ai-emulator[model]'"
NAME = f"workers_ai_emulator-{workers_ai_emulator.__version__}"
RUN_URL = f"https://api.cloudflare.com/client/v4/accounts/{ACCOUNT_ID}/ai/run/{INT8}"
PYTHON_CLIENT = """if True:
    import sys, urllib.request
    headers = {"Authorization": "Bearer x"}
    request = urllib.request.Request(sys.argv[1], b'{"prompt": "Hi"}', headers)
    print(urllib.request.urlopen(request).read().decode())
"""


def build(folder: Path, *options: str) -> Path:
    """Runs `python -m build`, which writes its results to `folder`. Returns `folder`."""
    command = [sys.executable, "-m", "build", *options, "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and with a wheel that was built from it."""
    return build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    return dist / f"{NAME}-py3-none-any.whl"


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and the packages that the documented tests need.

    No compiler is on the PATH during the installation.
    """
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=LIMIT_S)
    pip = [str(folder / "bin" / "pip"), "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run(
        [*pip, str(wheel), "pytest"],
        env=os.environ | {"PATH": str(folder / "bin")},
        check=True,
        timeout=LIMIT_S,
    )
    return folder


def run(
    environment: Path, *command: str, cwd: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [environment / "bin" / command[0], *command[1:]],
        cwd=cwd,
        env=os.environ | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )


def names(wheel: Path) -> set[str]:
    """Returns the names of the wheel's files, without those of its metadata."""
    with ZipFile(wheel) as file:
        return {name for name in file.namelist() if ".dist-info/" not in name}


def test_the_wheel_contains_the_files_of_the_package_and_no_others(wheel: Path) -> None:
    source = ROOT / "emulator"
    files = (path for path in source.glob("workers_ai_emulator/**/*") if path.is_file())
    assert names(wheel) == {f.relative_to(source).as_posix() for f in files if f.suffix != ".pyc"}


def test_the_source_distribution_contains_the_package_and_the_docs(dist: Path) -> None:
    with tarfile.open(dist / f"{NAME}.tar.gz") as file:
        files = {name.removeprefix(f"{NAME}/") for name in file.getnames()}
    assert {name.split("/")[0] for name in files} == {
        *(".dockerignore", ".gitignore", "CHANGELOG.md", "Dockerfile", "LICENSE", "Makefile"),
        *("PKG-INFO", "README.md", "docs", "emulator", "models", "pyproject.toml"),
    }
    assert {name for name in files if name.startswith("models/")} == {"models/README.md"}
    assert {"docs/testing.md", "emulator/compile/lean.cmake"} < files


def test_the_checkout_and_the_source_distribution_build_the_same_wheel(
    wheel: Path, tmp_path: Path
) -> None:
    assert (build(tmp_path, "--wheel") / wheel.name).read_bytes() == wheel.read_bytes()


def test_pypi_accepts_the_metadata_and_the_description(dist: Path) -> None:
    files = sorted(map(str, dist.iterdir()))
    command = [sys.executable, "-m", "twine", "check", "--strict", *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0 and done.stdout.count("PASSED") == len(files) == 2, done.stdout


def test_the_description_names_the_pages_without_links_to_them(wheel: Path) -> None:
    with ZipFile(wheel) as file:
        metadata = message_from_bytes(file.read(f"{NAME}.dist-info/METADATA"))
    description = str(metadata.get_payload())
    assert not re.findall(r"\]\((?!https?://)", description)
    assert "recordings (`docs/recordings.md`)" in description
    assert "see `docs/workers.md`" in description


def test_no_package_for_models_is_installed(environment: Path, tmp_path: Path) -> None:
    listed = run(environment, "pip", "list", "--format", "freeze", cwd=tmp_path).stdout
    names = {line.partition("==")[0].lower().replace("-", "_") for line in listed.splitlines()}
    assert "workers_ai_emulator" in names
    assert not names & {
        "llama-cpp-python",
        "llama_cpp_python",
        "numpy",
        "huggingface-hub",
    }


def test_the_documented_tests_pass(environment: Path, tmp_path: Path) -> None:
    (tmp_path / "test_page.py").write_text(blocks("testing.md", "python")[0])
    done = run(environment, "python", "-m", "pytest", "-q", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "--port", "0"],
        ["pull", "--accept-license", "@cf/meta/llama-2-7b-chat-int8"],
        ["models", "verify"],
    ],
    ids=" ".join,
)
def test_a_command_that_needs_a_model_names_the_missing_part(
    environment: Path, tmp_path: Path, arguments: list[str]
) -> None:
    done = run(environment, "workers-ai-emulator", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if line.startswith("workers-ai-emulator:")]
    assert COMMAND in line
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [["--version"], ["models", "list"], ["worker", "config"], ["exec", "--print-env"]]
)
def test_other_commands_work(environment: Path, tmp_path: Path, arguments: list[str]) -> None:
    variables = {"WORKERS_AI_EMULATOR_BACKEND": "scripted"}  # `exec` starts an emulator
    done = run(environment, "workers-ai-emulator", *arguments, cwd=tmp_path, **variables)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize(
    "variables",
    [{"HOME": ""}, {"HOME": "/proc/none"}, {"XDG_CACHE_HOME": "relative"}, {"LC_ALL": "C"}],
    ids=str,
)
def test_a_server_with_a_script_starts_without_a_usable_home_or_locale(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    python = str(environment / "bin" / "python")
    with server_process("--backend", "scripted", python=python) as server:
        assert answer(server, "scripted").startswith('{"result":{"response":"This is a scripted')
    assert not any(tmp_path.iterdir())


def test_exec_redirects_a_python_program(environment: Path, tmp_path: Path) -> None:
    command = ["exec", "--port", "0", "--", "python3", "-c", PYTHON_CLIENT, RUN_URL]
    variables = {"WORKERS_AI_EMULATOR_BACKEND": "scripted"}
    done = run(environment, "workers-ai-emulator", *command, cwd=tmp_path, **variables)
    assert done.stdout.startswith('{"result":{"response":"This is a scripted'), done.stderr


def test_the_dashboard_and_the_cards_of_the_models_are_installed(environment: Path) -> None:
    python = str(environment / "bin" / "python")
    with server_process("--backend", "scripted", python=python) as server:
        page = httpx.get(f"{server.root}/_emulator/").text
        [script] = re.findall(r'<script src="([^"]+)" type="module">', page)
        assert httpx.get(f"{server.root}/_emulator/{script}").status_code == 200
        url = f"{server.base_url}/accounts/{ACCOUNT_ID}/ai/models/search?per_page=100"
        headers = {"Authorization": "Bearer x"}
        cards = httpx.get(url, headers=headers).json()["result"]
        assert {card["name"] for card in cards} == set(CATALOG)


def test_a_request_for_the_backend_llama_is_an_error(environment: Path) -> None:
    python = str(environment / "bin" / "python")
    with server_process("--backend", "scripted", python=python) as server:
        assert answer(server, "scripted").startswith('{"result":{"response":"This is a scripted')
        assert '"code":3043' in answer(server, "llama")
        server.wait_for_line(COMMAND)
        assert not any("Traceback" in line for line in server.log)


def answer(server: ServerProcess, backend: str) -> str:
    return server.post(server.run_url(), {"prompt": "Hi"}, {"x-emulator-backend": backend}).text
