"""PyPI packages, installed once into a cache folder each, for the tests that need old versions."""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory


def install(requirement: str, folder: Path) -> Path:
    """Install `name==version` with all it needs into the folder unless it is there; the folder."""
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    with TemporaryDirectory(dir=folder.parent) as temporary:
        target = Path(temporary) / folder.name
        subprocess.run([*pip, "--target", str(target), requirement], check=True, timeout=300)
        target.rename(folder)
    return folder
