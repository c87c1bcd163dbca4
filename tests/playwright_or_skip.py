"""Playwright's `expect`; a module that needs it is skipped where Playwright is not installed."""

import pytest

pytest.importorskip("playwright", reason="Playwright is not installed: pip install 'spiral-selfplay[dev]'")

from playwright.sync_api import expect

__all__ = ["expect"]
