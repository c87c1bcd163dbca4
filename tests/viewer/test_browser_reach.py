"""The page for everyone: on a phone, by keyboard alone, in light and dark, and as axe-core judges it."""

import pytest

from browser import Page
from playwright_or_skip import expect

pytestmark = pytest.mark.slow

PLACES = ("", "games", "game/0/6/0/1", "game/0/6/0/99", "evaluation", "play", "compare")


@pytest.mark.parametrize("place", PLACES)
def test_pages_fit_a_phone(browser, address, place):
    view = Page(browser, address, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = view.open(place)
    page.wait_for_load_state("networkidle")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.locator("main h1").bounding_box()["width"] > 0
    view.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser, address, scheme):
    view = Page(browser, address, color_scheme=scheme, reduced_motion="reduce")
    found = {}
    for place in PLACES:
        page = view.open(place)
        page.wait_for_load_state("networkidle")
        found[place] = view.axe()
    page.keyboard.press("?")
    found["keys"] = view.axe()
    assert found == {place: [] for place in (*PLACES, "keys")}
    view.close()


def test_theme_follows_the_system_and_the_switch(browser, address):
    grounds = {}
    for scheme in ("light", "dark"):
        view = Page(browser, address, color_scheme=scheme)
        page = view.open("")
        ground = "getComputedStyle(document.body).backgroundColor"
        grounds[scheme] = page.evaluate(ground)
        page.locator("#theme").click()
        switched = page.evaluate(ground)
        page.reload()
        page.wait_for_selector("main h1")
        assert page.evaluate(ground) == switched != grounds[scheme]
        page.keyboard.press("d")
        assert page.evaluate(ground) == grounds[scheme]
        view.close()
    assert grounds["light"] != grounds["dark"]


def test_a_game_is_reached_and_read_by_keyboard_alone(view):
    page = view.open("")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("g")
    page.keyboard.press("g")
    expect(page.locator("h1")).to_have_text("Games")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.name") == "q"
    page.keyboard.type("boxed{c")  # of replies in Kuhn poker alone
    expect(page.locator(".excerpt").first).to_contain_text("boxed{c")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("kuhn_poker")
    page.keyboard.press("End")
    expect(page.locator(".turn-head")).to_have_text("End of the game")
    page.keyboard.press("?")
    expect(page.locator("dialog")).to_contain_text("the worst move")
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)
    page.keyboard.press("g")
    page.keyboard.press("o")
    expect(page.locator(".group h2").first).to_have_text("At a glance")


def test_every_control_has_a_visible_focus(view):
    page = view.open("game/0/6/0/1")
    seen = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        name, style = page.evaluate(
            "[(document.activeElement.ariaLabel || document.activeElement.textContent).trim().slice(0, 30),"
            " getComputedStyle(document.activeElement).outlineStyle]"
        )
        if name in seen or page.evaluate("document.activeElement === document.body"):
            continue
        seen.add(name)
        assert style == "solid", name
    assert {"Copy as text", "Copy link", "Download JSON", "Turn after", "Probability"} <= seen
