"""A real browser on the page of `spiral view`, which runs in a process of its own."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
AXE = Path(__file__).parent / "viewer/vendor/axe-core/axe.min.js"
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
WAIT_MS = 30_000
"""The machine of a test may be busy."""


def require_browser() -> str:
    """The path of a Chromium; the test is skipped where there is none, or no Playwright to drive it."""
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("Playwright is not installed: pip install 'spiral-selfplay[dev]'")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("there is no Chromium on the path (Debian: apt install chromium)")
    return found


@contextlib.contextmanager
def launched() -> Iterator[Any]:
    """A browser, closed afterwards with the event loop that drives it, which other tests could not live beside."""
    path = require_browser()
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def viewing(*runs: Path) -> Iterator[str]:
    """The address that `spiral view` prints, token included; the server is stopped afterwards."""
    command = [sys.executable, "-m", "spiral", "view", *map(str, runs), "--no-open", "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as server:
        try:
            assert server.stdout is not None
            assert server.stderr is not None
            line = server.stdout.readline()
            assert line, server.stderr.read()
            yield json.loads(line)["address"]
        finally:
            server.terminate()
            server.communicate(timeout=30)


class Page:
    """A page of the viewer, and what went wrong on it."""

    def __init__(self, browser: Any, address: str, **context: Any) -> None:
        self.context = browser.new_context(**({"viewport": {"width": 1280, "height": 860}} | context))
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.faults: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("console", self._message)
        self.page.goto(address)
        self.origin = self.page.url.split("/?")[0].split("/#")[0].rstrip("/")

    def _message(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(f"{message.type}: {message.text}")

    def open(self, place: str) -> Any:
        """Go to an address after the #, load the page anew there, and wait until it is drawn."""
        self.page.goto("about:blank")
        self.page.goto(f"{self.origin}/#/{place}")
        self.page.wait_for_selector("main h1")
        return self.page

    @property
    def place(self) -> str:
        """The address after the #."""
        return str(self.page.evaluate("location.hash"))

    def axe(self) -> list[str]:
        """What axe-core finds serious on the page as it is now."""
        self.page.evaluate(AXE.read_text(encoding="utf-8") + "; undefined")
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{one['id']} ({one['impact']}): {one['nodes'][0]['html'][:200]} {one['nodes'][0]['failureSummary'][:300]}"
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ]

    def close(self) -> None:
        """Closes the page."""
        self.context.close()
