"""Installs PyPI packages into a cache folder, once, for tests that need certain versions."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory


def install(requirements: Sequence[str], folder: Path) -> Path:
    """Installs `name==version` and its dependencies unless the folder exists. Returns it."""
    if not requirements or folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    with TemporaryDirectory(dir=folder.parent) as temporary:
        target = Path(temporary) / folder.name
        # --no-compile saves time: Python compiles the few modules that a test imports.
        options = ["--no-compile", "--target", str(target)]
        subprocess.run([*pip, *options, *requirements], check=True, timeout=300)
        target.rename(folder)
    return folder
