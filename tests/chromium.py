"""A real browser: the system's Chromium, without a window, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.npm import cache_folder

# It asks its maker for updates and lists, which a machine without network answers with delays.
_QUIET = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@contextmanager
def chromium(*flags: str) -> Iterator[Browser]:
    """Chromium with these flags. Skips the test where it is missing; in CI that is a failure."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        reason = "chromium not found on the PATH"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    sandbox = os.geteuid() != 0  # it has none for root
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, chromium_sandbox=sandbox, args=[*_QUIET, *flags]
        )
        try:
            yield browser
        finally:
            browser.close()


def keep_screenshot(page: Page, name: str) -> Path:
    """A picture of the page, in the cache folder, where it stays to be looked at."""
    path = cache_folder("screenshots") / f"{name}.png"
    page.screenshot(path=path)
    return path
