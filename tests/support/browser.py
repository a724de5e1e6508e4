"""The browser that is there, for tests of the page: Chromium as Debian packages it, driven by Playwright."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str:
    """The browser's program: TEST_CHROMIUM, or one on the PATH. Skips the test where there is none."""
    found = os.environ.get("TEST_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if not found:
        pytest.skip("there is no Chromium (apt-get install chromium, or TEST_CHROMIUM)")
    return found


def axe() -> str:
    """The text of axe-core. Skips the test where TEST_AXE does not name its axe.min.js."""
    path = os.environ.get("TEST_AXE")
    if not path:
        pytest.skip("TEST_AXE does not name axe-core's axe.min.js (npm pack axe-core)")
    return Path(path).read_text(encoding="utf-8")


def runtime() -> str:
    """A folder with onnxruntime-web. Skips the test where TEST_ONNXRUNTIME_WEB names none."""
    path = os.environ.get("TEST_ONNXRUNTIME_WEB")
    if not path:
        pytest.skip("TEST_ONNXRUNTIME_WEB names no folder with onnxruntime-web (npm ci --ignore-scripts)")
    return path


@contextmanager
def started() -> Iterator[Any]:
    """A running browser, as Playwright has it."""
    program = chromium()
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        # Root may not use its sandbox; the pages are our own.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


class Tab:
    """One page of a browser; what goes wrong in it is kept in `problems`."""

    def __init__(self, browser: Any, url: str, **context: Any) -> None:
        self.problems: list[str] = []
        self.url = url
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.page.set_default_timeout(15_000)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda said: said.type == "error" and self.problems.append(said.text))

    def open(self, where: str = "") -> Any:
        """Go to that place of the server, such as `/#stack`; the page."""
        self.page.goto(self.url + where)
        return self.page

    def close(self) -> None:
        """Close it."""
        self.context.close()
