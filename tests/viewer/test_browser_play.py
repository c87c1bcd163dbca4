"""Whole games against the built-in model in a real browser: by clicks, by buttons, and as text."""

import re

import pytest

from playwright_or_skip import expect

pytestmark = pytest.mark.slow


def start(view, game, seat):
    page = view.open(f"play?game={game}")
    page.locator("[name=seat]").select_option(str(seat))
    page.locator("[name=seed]").fill("3")
    page.get_by_role("button", name="Start a game").click()
    return page


def wait_for_turn(page):
    page.wait_for_function(
        "() => /^(Your turn|You win|You lose|A draw)/.test(document.querySelector('.play h2')?.textContent ?? '')",
        timeout=120_000,
    )
    return page.locator(".play h2").first.inner_text() == "Your turn"


def test_a_whole_game_of_tictactoe_by_clicks(view):
    page = start(view, "tictactoe", 0)
    moves = 0
    while wait_for_turn(page):
        cells = page.locator("button.cell")
        before = page.locator(".grid-board svg").count()
        assert cells.count() == 9 - before
        cells.first.click()
        moves += 1
        page.wait_for_function("(before) => document.querySelectorAll('.grid-board svg').length > before", arg=before)
    assert moves >= 3 or "illegal" in page.locator(".play h2").first.inner_text()
    result = page.locator(".play h2").first.inner_text()
    assert re.match(r"(You win|You lose|A draw)( by an illegal move)? \([+\u2212]?[\d.]+\)$", result), result
    log = page.locator(".play-log > li")
    assert log.count() >= 2 * moves - 1
    assert log.first.inner_text().startswith("You")
    expect(page.locator(".play-log details").first).to_contain_text(re.compile("Its (thought|reply)"))


def test_a_whole_game_of_kuhn_by_buttons_hides_the_other_card(view):
    page = start(view, "kuhn_poker", 1)
    hidden = []
    while wait_for_turn(page):
        hidden.append((page.locator(".card.back").count(), page.locator(".card.face").count()))
        moves = page.locator(".play-log > li.panel").count()
        page.locator(".actions button").first.click()
        page.wait_for_function(
            "(moves) => document.querySelectorAll('.play-log > li.panel').length > moves", arg=moves, timeout=120_000
        )
    assert hidden
    assert set(hidden) == {(1, 1)}
    assert page.locator(".play h2").first.inner_text().startswith(("You win", "You lose"))


def test_a_game_by_keyboard_alone_as_text(view):
    page = start(view, "tictactoe", 0)
    assert wait_for_turn(page)
    entry = page.locator("[name=move]")
    page.locator("body").press("Tab")
    entry.focus()
    page.keyboard.type("4")
    page.keyboard.press("Enter")
    expect(page.locator(".play-log > li").first).to_have_text(re.compile(r"You\s*4$"))
    wait_for_turn(page)


def test_an_illegal_move_is_refused_in_a_sentence_and_the_game_goes_on(view):
    page = start(view, "tictactoe", 0)
    assert wait_for_turn(page)
    page.locator("[name=move]").fill("99")
    page.get_by_role("button", name="Play", exact=True).click()
    expect(page.locator(".page-play .notice")).to_contain_text("99")
    assert wait_for_turn(page)
    assert page.locator(".play-log > li.panel").count() == 0
    page.get_by_role("button", name="Leave the game").click()
    expect(page.locator(".page-play")).to_contain_text("You left the game.")
