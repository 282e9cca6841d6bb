"""Runs the installed Chromium without a window, and controls it with Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.npm import cache_folder

# These flags stop background requests, which would delay Chromium on a machine without a network.
_OFFLINE_FLAGS = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@contextmanager
def chromium(*flags: str) -> Iterator[Browser]:
    """Runs Chromium with these flags, and yields the browser.

    If Chromium is missing, skips the test; if the variable `CI` is also set, fails instead.
    """
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        reason = "chromium not found on the PATH"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    sandbox = os.geteuid() != 0  # for root, Chromium has no sandbox
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, chromium_sandbox=sandbox, args=[*_OFFLINE_FLAGS, *flags]
        )
        try:
            yield browser
        finally:
            browser.close()


def keep_screenshot(page: Page, name: str) -> Path:
    """Saves a screenshot in the tests' cache folder, which is not deleted. Returns its path."""
    path = cache_folder("screenshots") / f"{name}.png"
    page.screenshot(path=path)
    return path
