"""The pages of `spiral view` in a real browser, on a run that the test trains."""

import json
import re

import pytest

import spiral
from browser import Page
from playwright_or_skip import expect
from spiral.core.storage import read_episodes

pytestmark = pytest.mark.slow


def recorded(run):
    """The last step's games, by number."""
    newest = sorted((run / "episodes").iterdir())[-1]
    return int(newest.stem.split("-")[1]), read_episodes(newest)


def test_overview_draws_every_metric_and_keeps_its_controls_in_the_address(view, trained):
    page = view.open("")
    expect(page.locator(".group h2").first).to_have_text("At a glance")
    metrics = spiral.read_metrics(trained)
    keys = {re.sub(r"/player\d+/", "/", key) for row in metrics for key in row if key != "step"}
    drawn = page.locator(".group:not(:first-child) .chart-name").all()
    assert {one.get_attribute("aria-label").removeprefix("Enlarge ") for one in drawn} == keys

    page.get_by_label("Find a metric").fill("entropy")
    expect(page.locator(".chart")).to_have_count(1)
    expect(page.locator(".chart canvas")).to_have_count(1)
    page.get_by_label("Smoothing").fill("0.6")
    page.get_by_label("Log scale").check()
    page.get_by_label("first step").fill("2")
    page.get_by_label("last step").fill("5")
    page.get_by_label("last step").press("Enter")
    expect(page).to_have_url(re.compile("q=entropy&smooth=0.6&log=1&from=2&to=5"))

    page.get_by_role("button", name="Enlarge loss/entropy").click()
    page.get_by_text("Values", exact=True).click()
    table = [row.inner_text().split("\t") for row in page.locator(".chart-table tbody tr").all()]
    assert [int(step) for step, _ in table] == [6, 5, 4, 3, 2, 1]
    assert [float(value) for _, value in table] == pytest.approx(
        [row["loss/entropy"] for row in metrics[::-1]], rel=1e-3
    )
    page.keyboard.press("Escape")
    page.get_by_role("button", name="All steps").click()
    expect(page).not_to_have_url(re.compile("from="))


def test_dragging_over_a_curve_zooms_all_of_them(view):
    page = view.open("?q=rollout/games")
    box = page.locator(".chart .u-over").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 40, steps=5)
    page.mouse.up()
    expect(page).to_have_url(re.compile("from=2&to=5"))
    assert page.get_by_label("first step").input_value() == "2"


def test_health_lights_say_their_rules(view):
    page = view.open("")
    names = [one.inner_text() for one in page.locator(".lamp-name").all()]
    assert [name.lower() for name in names] == [
        "thinking collapse", "seat collapse", "illegal moves", "sampler-learner gap", "staleness",
    ]  # fmt: skip
    page.locator(".lamp summary").nth(2).click()
    expect(page.locator(".lamp").nth(2)).to_contain_text("illegal")


def test_replay_walks_by_keys_and_links_to_every_turn(view, trained):
    step, episodes = recorded(trained)
    number = max(range(len(episodes)), key=lambda one: (episodes[one].game == "tictactoe", len(episodes[one].turns)))
    episode = episodes[number]
    page = view.open(f"game/0/{step}/{number}")
    expect(page.locator(".place")).to_have_text(f"Turn 1 of {len(episode.turns)}")
    for keys, turn in (
        ("jj", 2),
        ("k", 1),
        ("ArrowRight", 2),
        ("ArrowLeft", 1),
        ("End", len(episode.turns)),
        ("Home", 0),
    ):
        for key in [keys] if len(keys) > 2 else keys:
            page.keyboard.press(key)
        assert view.place.endswith(f"game/0/{step}/{number}/{turn}")
    page.keyboard.press("j")
    moved = episode.turns[1]
    expect(page.locator(".turn-head")).to_contain_text(f"Player {moved.player}")
    expect(page.locator(".turn-head")).to_contain_text(f"plays {moved.action}" if moved.action else "no legal action")
    assert moved.observation in page.locator(".said").first.inner_text()
    assert moved.reply in page.locator(".said", has_text="Answer").inner_text()

    before = len(episode.actions) - sum(one.action is not None for one in episode.turns) + 1
    marks = page.locator(".grid-board svg")
    expect(marks).to_have_count(before)
    page.keyboard.press("End")
    expect(marks).to_have_count(len(episode.actions))
    expect(page.locator(".turn-head")).to_have_text("End of the game")

    page.locator(".strip a").nth(1).click()
    there = page.url
    other = Page(view.context.browser, there.replace("/#", "/?token=none#"))
    other.context.add_cookies(view.context.cookies())
    other.page.goto(there)
    expect(other.page.locator(".place")).to_have_text(f"Turn 2 of {len(episode.turns)}")
    other.close()


def test_replay_finds_the_worst_move(view, trained):
    step, episodes = recorded(trained)
    page = view.open(f"games?step_min={step}&game=tictactoe")
    for number, episode in enumerate(episodes):
        if episode.game != "tictactoe":
            continue
        answer = page.evaluate(f"fetch('/api/runs/0/episodes/{step}/{number}').then((response) => response.json())")
        if answer["blunder"]:
            break
    page = view.open(f"game/0/{step}/{number}")
    page.get_by_role("button", name="Worst move").click()
    assert view.place.endswith(f"/{answer['blunder']}")
    judged = answer["turns"][answer["blunder"]]["judgement"]
    assert judged["regret"] == max((turn["judgement"] or judged)["regret"] for turn in answer["turns"])
    expect(page.locator(".judgement .tag.bad")).to_have_text(f"loses {judged['regret']:g}")
    bars = {
        row.locator(".move").inner_text(): row.locator(".value").inner_text()
        for row in page.locator(".value-bars li").all()
    }
    assert {move: float(value.replace("\u2212", "-")) for move, value in bars.items()} == judged["values"]
    page.keyboard.press("Home")
    page.keyboard.press("w")
    assert view.place.endswith(f"/{answer['blunder']}")


def test_replay_copies_and_downloads(view, trained):
    step, episodes = recorded(trained)
    view.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = view.open(f"game/0/{step}/0/1")
    page.get_by_role("button", name="Copy as text").click()
    expect(page.locator("#toast")).to_have_text("The game is in the clipboard.")
    text = page.evaluate("navigator.clipboard.readText()")
    assert [turn.reply in text for turn in episodes[0].turns] == [True] * len(episodes[0].turns)
    page.get_by_role("button", name="Copy link").click()
    expect(page.locator("#toast")).to_have_text("The link to this turn is in the clipboard.")
    assert page.evaluate("navigator.clipboard.readText()") == page.url
    with page.expect_download() as download:
        page.get_by_role("link", name="Download JSON").click()
    kept = json.loads(download.value.path().read_text())
    assert [turn["action"] for turn in kept["turns"]] == [turn.action for turn in episodes[0].turns]
    assert download.value.suggested_filename == f"first-step-{step}-episode-0.json"
