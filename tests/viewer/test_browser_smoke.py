"""One look at the page in a real browser, quick enough for every run of the tests: every board, and hostile text."""

import re

from browser import Page, launched, viewing
from made_runs import HOSTILE, MEGABYTE, SCRIPT, make_run, with_replies
from viewed_runs import played


def test_pages_open_and_hostile_text_is_inert(tmp_path):
    game = played("kuhn_poker", 1)[0]
    run = make_run(tmp_path / SCRIPT.replace("/", "|"), {1: [with_replies(game, {0: HOSTILE, 1: MEGABYTE})]})
    with launched() as browser, viewing(run) as address:
        view = Page(browser, address)
        page = view.open("")
        page.wait_for_selector("canvas")
        assert "<script>window.hacked" in page.inner_text("h1")
        page = view.open("games")
        assert page.inner_text("tbody tr .c-game") == "kuhn_poker"
        page = view.open("game/0/1/0/0")
        text = page.inner_text(".said")
        assert SCRIPT in text
        assert [mark in text for mark in ("ESC[31m", "RLO", "ZWSP", "BOM", "U+E0041", "LS", "+56 marks")] == [True] * 7
        assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b\x1b]", text)
        page.keyboard.press("ArrowRight")
        observation = page.locator(".said").first
        more = observation.get_by_role("button", name="Show all 1,048,580 characters")
        more.wait_for()
        assert len(observation.text_content()) < 13_000
        more.click()
        more.wait_for(state="detached")
        assert len(observation.text_content()) > len(MEGABYTE)
        assert page.evaluate("[window.hacked, document.getElementById('injected')]") == [None, None]
        assert view.faults == []
