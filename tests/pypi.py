"""PyPI packages, installed once into a cache folder each, for the tests that need old versions."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory


def install(requirements: Sequence[str], folder: Path) -> Path:
    """Install `name==version` and all it needs into the folder unless it is there; the folder."""
    if not requirements or folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    with TemporaryDirectory(dir=folder.parent) as temporary:
        target = Path(temporary) / folder.name
        # Not compiled: that is done for what is imported, which is a small part of some packages.
        options = ["--no-compile", "--target", str(target)]
        subprocess.run([*pip, *options, *requirements], check=True, timeout=300)
        target.rename(folder)
    return folder
