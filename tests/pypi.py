"""Installs PyPI packages into a cache folder, for tests that need certain versions."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock


def install(requirements: Sequence[str], folder: Path) -> Path:
    """Installs requirements such as `name==version` into the folder, unless the folder exists.

    Also installs the packages' dependencies. Returns the folder.
    """
    if requirements:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):  # several processes of pytest may install the same
            if not folder.is_dir():
                _install(requirements, folder)
    return folder


def _install(requirements: Sequence[str], folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    with TemporaryDirectory(dir=folder.parent) as temporary:
        target = Path(temporary) / folder.name
        # --no-compile saves time: a test imports only a few of the modules, which Python then
        # compiles.
        options = ["--no-compile", "--target", str(target)]
        subprocess.run([*pip, *options, *requirements], check=True, timeout=300)
        target.rename(folder)
