"""Builds or installs the programs with which the emulator is compared, in the folder `.cache/`.

llama.cpp's programs and libraries are built from the same source as the installed llama-cpp-python.
If the environment variable `LLAMA_CPP_BIN` names a folder, the programs in this folder are used
instead.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from importlib import metadata, util
from pathlib import Path

from workers_ai_emulator import machine

from benchmarks.conditions import BINDINGS

log = logging.getLogger(__name__)

CACHE = Path(__file__).resolve().parents[1] / ".cache"
SERVER, BATCHED_BENCH = "llama-server", "llama-batched-bench"
MOCK, _MOCK_PACKAGE = "aimock", "@copilotkit/aimock@1.43.0"
_PROGRAMS = (SERVER, BATCHED_BENCH)
# CMake options for a library that uses AVX2, but not AVX-512, whatever this machine supports.
_AVX2 = [f"-DGGML_{name}=ON" for name in ("AVX", "AVX2", "FMA", "F16C", "BMI2", "SSE42")]
_AVX2 += ["-DGGML_NATIVE=OFF"]
# llama.cpp's routines for AMX crash if some versions of GCC compiled them: see lean.cmake.
_WITHOUT_AMX = [f"-DCMAKE_{language}_FLAGS=-U__AMX_INT8__" for language in ("C", "CXX")]
_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


def llama_cpp_program(name: str) -> Path:
    """Returns the path of a program of llama.cpp, such as llama-server. Builds it on first use."""
    if given := os.environ.get("LLAMA_CPP_BIN"):
        if not (program := Path(given) / name).is_file():
            raise SystemExit(f"LLAMA_CPP_BIN: there is no {program}")
        return program
    source = _source()
    bin_dir = source / "build" / "bin"
    if not all((bin_dir / program).exists() for program in _PROGRAMS):
        _build(source, "build", *_PROGRAMS)
    return bin_dir / name


def avx2_libraries() -> Path:
    """Returns a folder with llama.cpp's libraries, which use AVX2 but not AVX-512.

    The folder is for the environment variable `LLAMA_CPP_LIB_PATH` of llama-cpp-python. On first
    use, copies the installed libraries, and compiles the library that computes on the CPU.
    """
    folder = CACHE / f"llama_cpp-avx2-{metadata.version(BINDINGS)}"
    if not folder.exists():
        installed = _installed_libraries()
        # The library must refer to the other libraries by the names that the installed ones have.
        has_versions = any(installed.glob("libggml-base.so.*"))
        names = f"-DCMAKE_PLATFORM_NO_VERSIONED_SONAME={'OFF' if has_versions else 'ON'}"
        build = _build(_source(), "build-avx2", "ggml-cpu", options=[*_AVX2, names])
        with tempfile.TemporaryDirectory(dir=CACHE) as partial:
            copies = Path(partial, "lib")
            shutil.copytree(installed, copies)
            for copy in copies.glob("libggml-cpu.so*"):
                shutil.copyfile(build / "bin" / "libggml-cpu.so", copy)
            copies.rename(folder)
    return folder


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


def _installed_libraries() -> Path:
    spec = util.find_spec("llama_cpp")
    assert spec and spec.origin
    return Path(spec.origin).parent / "lib"


def _source() -> Path:
    """Returns the folder with llama.cpp's source. Downloads it on first use."""
    source = CACHE / f"llama.cpp-{metadata.version(BINDINGS)}"
    if not source.exists():
        _download(source)
    return source


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


def _build(source: Path, folder: str, *targets: str, options: Sequence[str] = ()) -> Path:
    """Compiles targets of llama.cpp, with additional CMake options.

    `folder`: the name of the build folder in `source`. Returns the path of the build folder.
    """
    log.info("compiling %s; this takes some minutes", " and ".join(targets))
    build = source / folder
    common = ("-DCMAKE_BUILD_TYPE=Release", "-DLLAMA_BUILD_TESTS=OFF", *_WITHOUT_AMX)
    _run("cmake", "-S", str(source), "-B", str(build), *common, *options)
    jobs = ("--parallel", str(machine.num_cores()))
    _run("cmake", "--build", str(build), *jobs, "--target", *targets)
    return build


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
