"""Builds or installs the programs with which the emulator is compared, in the folder `.cache/`.

llama.cpp's programs are built from the same source as the installed llama-cpp-python. If the
environment variable `LLAMA_CPP_BIN` names a folder, the programs in this folder are used instead.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tarfile
import tempfile
from importlib import metadata
from pathlib import Path

from workers_ai_emulator import machine

from benchmarks.conditions import BINDINGS

log = logging.getLogger(__name__)

CACHE = Path(__file__).resolve().parents[1] / ".cache"
SERVER, BATCHED_BENCH = "llama-server", "llama-batched-bench"
MOCK, _MOCK_PACKAGE = "aimock", "@copilotkit/aimock@1.43.0"
_PROGRAMS = (SERVER, BATCHED_BENCH)
_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


def llama_cpp_program(name: str) -> Path:
    """Returns the path of a program of llama.cpp, such as llama-server. Builds it on first use."""
    if given := os.environ.get("LLAMA_CPP_BIN"):
        if not (program := Path(given) / name).is_file():
            raise SystemExit(f"LLAMA_CPP_BIN: there is no {program}")
        return program
    source = CACHE / f"llama.cpp-{metadata.version(BINDINGS)}"
    if not source.exists():
        _download(source)
    bin_dir = source / "build" / "bin"
    if not all((bin_dir / program).exists() for program in _PROGRAMS):
        _build(source)
    return bin_dir / name


def python_server_packages() -> Path:
    """Returns a folder for PYTHONPATH with the packages that `llama_cpp.server` needs.

    Installs the packages on first use.
    """
    folder = CACHE / f"llama_cpp.server-{metadata.version(BINDINGS)}"
    if not folder.exists():
        log.info("installing the packages that llama_cpp.server needs")
        CACHE.mkdir(exist_ok=True)
        requirements = [r.partition(";") for r in metadata.requires(BINDINGS) or ()]
        needed = [name for name, _, condition in requirements if "server" in condition]
        with tempfile.TemporaryDirectory(dir=CACHE) as partial:
            _run(*_PIP, "install", "--target", f"{partial}/packages", *needed)
            Path(partial, "packages").rename(folder)
    return folder


def mock_program() -> Path:
    """Returns the path of the program of the mock server @copilotkit/aimock.

    Installs it with npm on first use.
    """
    folder = CACHE / _MOCK_PACKAGE.partition("/")[2]
    program = folder / "node_modules" / ".bin" / "llmock"
    if not program.exists():
        log.info("installing %s", _MOCK_PACKAGE)
        folder.mkdir(parents=True, exist_ok=True)
        options = ("--no-audit", "--no-fund", "--prefix", str(folder))
        _run("npm", "install", *options, _MOCK_PACKAGE)
    return program


def _download(target: Path) -> None:
    """Downloads the source of llama-cpp-python, and moves its copy of llama.cpp to `target`."""
    version = metadata.version(BINDINGS)
    log.info("downloading the source of %s %s", BINDINGS, version)
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as partial:
        source_only = ("--no-deps", "--no-binary", BINDINGS, f"{BINDINGS}=={version}")
        _run(*_PIP, "download", "--dest", partial, *source_only)
        (archive,) = Path(partial).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(partial, filter="data")
        (source,) = Path(partial).glob("*/vendor/llama.cpp")
        source.rename(target)


def _build(source: Path) -> None:
    log.info("compiling %s; this takes some minutes", " and ".join(_PROGRAMS))
    build = str(source / "build")
    options = ("-DCMAKE_BUILD_TYPE=Release", "-DLLAMA_BUILD_TESTS=OFF")
    _run("cmake", "-S", str(source), "-B", build, *options)
    jobs = ("--parallel", str(machine.num_cores()))
    _run("cmake", "--build", build, *jobs, "--target", *_PROGRAMS)


def _run(*command: str) -> None:
    """Runs the command, and appends its output to a log file.

    Raises SystemExit with the path of the log file if the command fails.
    """
    path = CACHE / "benchmark-build.log"
    try:
        with path.open("ab") as output:
            subprocess.run(command, check=True, stdout=output, stderr=output)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"{error}; see {path}") from error
