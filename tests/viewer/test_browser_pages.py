"""The pages of `spiral view` in a real browser, on a run that the test trains."""

import json
import re
import shutil
from collections import Counter

import pytest

import spiral
from browser import Page, viewing
from made_runs import add_step, game_of_every_kind, make_run, sampled
from playwright_or_skip import expect
from spiral.core.storage import read_episodes, write_episodes
from viewed_runs import played

pytestmark = pytest.mark.slow


def rows_of(view):
    """The table of games as it stands: one list of cells a row."""
    rows = view.page.locator("tbody tr").all()
    return [[cell.inner_text() for cell in row.locator("td").all()] for row in rows]


def recorded(run):
    """The last step's games, by number."""
    newest = sorted((run / "episodes").iterdir())[-1]
    return int(newest.stem.split("-")[1]), read_episodes(newest)


def total(view):
    return int(view.page.inner_text(".head .sub").split()[0].replace(",", ""))


def settled(view, number):
    """Wait until the table counts `number` games."""
    expect(view.page.locator(".head .sub")).to_have_text(re.compile(rf"^{number} games?$"))


def test_overview_draws_every_metric_and_keeps_its_controls_in_the_address(view, trained):
    page = view.open("")
    expect(page.locator(".group h2").first).to_have_text("At a glance")
    metrics = spiral.read_metrics(trained)
    keys = {re.sub(r"/player\d+/", "/", key) for row in metrics for key in row if key != "step"}
    drawn = page.locator(".group:not(:first-child) .chart-name").all()
    assert {one.get_attribute("aria-label").removeprefix("Enlarge ") for one in drawn} == keys

    page.get_by_label("Find a metric").fill("loss/entropy")
    expect(page.locator(".chart")).to_have_count(1)
    expect(page.locator(".chart canvas")).to_have_count(1)
    page.get_by_label("Smoothing").fill("0.6")
    page.get_by_label("Log scale").check()
    page.get_by_label("first step").fill("2")
    page.get_by_label("last step").fill("5")
    page.get_by_label("last step").press("Enter")
    expect(page).to_have_url(re.compile("q=loss%2Fentropy&smooth=0.6&log=1&from=2&to=5"))

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
    names = [one.inner_text() for one in page.get_by_label("Health").locator(".lamp-name").all()]
    assert [name.lower() for name in names] == [
        "thinking collapse", "seat collapse", "illegal moves", "sampler-learner gap", "staleness",
    ]  # fmt: skip
    page.locator(".lamp summary").nth(2).click()
    expect(page.locator(".lamp").nth(2)).to_contain_text("illegal")
    guards = page.get_by_label("Guards")
    expect(guards.locator(".lamp-name").first).to_have_text("guard collapse")
    guards.locator("summary").first.click()
    expect(guards).to_contain_text("Answer: log.")


def test_games_filter_sort_search_and_come_back_from_the_address(view, trained):
    step, episodes = recorded(trained)
    view.open("games")
    everything = total(view)
    kuhn = sum(one.game == "kuhn_poker" for one in episodes)
    page = view.open(f"games?step_min={step}")
    settled(view, len(episodes))
    page.locator("[name=game]").select_option("kuhn_poker")
    settled(view, kuhn)
    assert f"step_min={step}" in view.place
    assert "game=kuhn_poker" in view.place

    page.reload()
    settled(view, kuhn)
    assert page.locator("[name=game]").input_value() == "kuhn_poker"

    page.locator("[name=player]").select_option("0")
    page.locator("[name=result]").select_option("win")
    settled(view, sum(one.game == "kuhn_poker" and one.result(0) > 0 for one in episodes))
    page.get_by_role("button", name="Clear").click()
    settled(view, everything)

    page.get_by_role("button", name="Turns", exact=True).click()
    expect(page.locator("th[aria-sort=descending]")).to_contain_text("Turns")
    turns = [int(row[6]) for row in rows_of(view)]
    assert turns == sorted(turns, reverse=True)
    page.get_by_role("button", name="Turns", exact=True).click()
    expect(page.locator("th[aria-sort=ascending]")).to_contain_text("Turns")
    assert rows_of(view)[0][6] == str(min(len(one.turns) for one in episodes))

    page.locator("[name=q]").fill("boxed{call")  # replies are searched
    calls = sum(any("boxed{call" in turn.reply for turn in one.turns) for one in episodes)
    assert calls
    page.locator("[name=step_min]").fill(str(step))
    settled(view, calls)
    assert "boxed{call" in page.locator(".excerpt").first.inner_text()
    page.locator("[name=q]").fill("no such words")
    settled(view, 0)
    expect(page.locator(".empty")).to_have_text("No game fits these filters.")


def test_games_are_paged(browser, tmp_path):
    run = make_run(tmp_path / "run", {1: played("kuhn_poker", 120)}, "kuhn_poker")
    with viewing(run) as address:
        view = Page(browser, address)
        page = view.open("games")
        seen = Counter(row[1] for row in rows_of(view))
        for offset in (50, 100):
            page.get_by_role("button", name="Next").click()
            expect(page).to_have_url(re.compile(f"offset={offset}"))
            expect(page.locator(".pages")).to_contain_text(f"{offset + 1} to")
            seen.update(row[1] for row in rows_of(view))
        assert seen == Counter(map(str, range(120)))
        expect(page.get_by_role("button", name="Next")).to_be_disabled()


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


def test_tokens_are_coloured_by_what_was_recorded(view, trained):
    step, episodes = recorded(trained)
    page = view.open(f"game/0/{step}/0")
    logprobs = episodes[0].turns[0].generation.logprobs
    tokens = page.locator(".tokens .tint")
    expect(tokens).to_have_count(len(logprobs))
    strengths = [float(one.evaluate("(span) => span.style.getPropertyValue('--strength')")) for one in tokens.all()]
    assert strengths == pytest.approx([min(1.0, -value / 4) for value in logprobs.tolist()], abs=1e-3)
    page.keyboard.press("c")
    expect(page.get_by_role("button", name="Gap")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Advantage").click()
    expect(page.locator(".tint-legend")).to_contain_text("Which way learning pushes")
    page.get_by_role("button", name="Plain").click()
    expect(tokens).to_have_count(0)
    page.get_by_text("Numbers of the tokens").click()
    expect(page.locator(".said table tbody tr")).to_have_count(len(logprobs))


def test_games_before_and_after_follow_the_filtered_list(view, trained):
    step, episodes = recorded(trained)
    kuhn = [number for number, one in enumerate(episodes) if one.game == "kuhn_poker"]
    page = view.open(f"games?game=kuhn_poker&step_min={step}&sort=step")
    page.locator("tbody a").first.click()
    expect(page.locator(".crumbs")).to_contain_text(f"episode {kuhn[0]}")
    page.keyboard.press("]")
    expect(page.locator(".crumbs")).to_contain_text(f"episode {kuhn[1]}")
    page.keyboard.press("[")
    expect(page.locator(".crumbs")).to_contain_text(f"episode {kuhn[0]}")
    page.keyboard.press("[")
    expect(page.locator("#toast")).to_have_text("This is the first game.")
    page.get_by_role("link", name="Games").last.click()
    settled(view, len(kuhn))
    assert view.faults == []


def test_evaluation_shows_what_the_files_say(view, trained):
    page = view.open("evaluation")
    last = json.loads((trained / "evaluation/step-000006.json").read_text())
    rows = [row.inner_text().split("\t") for row in page.locator("section:has(h2:text('opponents')) tbody tr").all()]
    assert [(row[0], row[1], row[2]) for row in rows] == [(one["game"], one["opponent"], "6") for one in last["arena"]]
    for row, one in zip(rows, last["arena"], strict=True):
        assert [float(cell.split("%")[0]) for cell in row[3:6]] == pytest.approx(
            [100 * one["win"], 100 * one["draw"], 100 * one["loss"]], abs=0.51
        )
    bars = page.locator(".kuhn-row")
    expect(bars).to_have_count(12)
    lines = (trained / "evaluation/step-000006/kuhn_poker-states.jsonl").read_text().splitlines()
    states = [json.loads(line) for line in lines]
    bets = {
        one["information_state"]: one["probabilities"].get("bet", one["probabilities"].get("call")) for one in states
    }
    jack = bars.filter(has_text="J, first to act").locator("b").inner_text()
    assert float(jack.rstrip("%")) == pytest.approx(100 * bets["J-:"], abs=0.51)
    page.locator(".sections input[type=range]").fill("0")
    expect(page.locator("output")).to_have_text("after step 0")


def test_two_runs_lie_over_each_other_and_their_differences_are_listed(browser, trained, tmp_path):
    other = shutil.copytree(trained, tmp_path / "second", symlinks=True)
    config = (other / "config.toml").read_text()
    (other / "config.toml").write_text(config.replace("kl_coefficient = 0.15", "kl_coefficient = 0.3"))
    assert config != (other / "config.toml").read_text()
    with viewing(trained, other) as address:
        view = Page(browser, address)
        page = view.open("?q=loss/entropy")
        expect(page.locator(".legend-item")).to_have_count(2)
        page.locator(".chip", has_text="second").click()
        expect(page.locator(".legend-item")).to_have_count(1)
        assert "hide=1" in view.place
        page = view.open("compare?run=1")
        rows = [row.inner_text().split("\t") for row in page.locator("section:has(h2:text('differs')) tbody tr").all()]
        assert rows == [["loss.kl_coefficient", "0.15", "0.3"]]
        page.get_by_label("Find a setting").fill("kl_coefficient")
        expect(page.locator(".settings tbody tr")).to_have_count(1)
        assert view.faults == []


def test_page_follows_a_run_that_goes_on(browser, tmp_path):
    games = played("kuhn_poker", 4)
    run = make_run(tmp_path / "run", {1: games}, "kuhn_poker")
    with viewing(run) as address:
        view = Page(browser, address)
        page = view.open("?q=rollout/illegal")
        expect(page.locator(".legend b")).to_have_text("0.5")
        add_step(run, 2)
        expect(page.locator(".legend b")).to_have_text("0.25")
        view.open("games")
        settled(view, 4)
        write_episodes(run / "episodes/step-000002.parquet", games[:3])
        add_step(run, 3)
        settled(view, 7)
        with (run / "metrics.jsonl").open("a") as file:
            file.write('{"step": 4, "rollout/ill')
        page = view.open("?q=rollout/illegal")
        expect(page.locator(".legend b")).to_have_text("0.1667")
        assert view.faults == []


@pytest.fixture(scope="module")
def kinds(browser, tmp_path_factory):
    with viewing(game_of_every_kind(tmp_path_factory.mktemp("kinds") / "run")) as address:
        yield address


@pytest.mark.parametrize(("place", "drawn"), [
    ("game/0/1/0/3", ".grid-board.marks .cell"), ("game/0/2/0/9", ".grid-board.discs .cell"),
    ("game/0/3/0/1", ".cards-board .card"), ("game/0/4/0/3", ".trade-board tbody tr"),
])  # fmt: skip
def test_boards_are_drawn(browser, kinds, place, drawn):
    numbers = {"game/0/1/0/3": 16, "game/0/2/0/9": 42, "game/0/3/0/1": 2, "game/0/4/0/3": 6}
    view = Page(browser, kinds)
    page = view.open(place)
    expect(page.locator(drawn)).to_have_count(numbers[place])
    assert view.faults == []
    view.close()


def test_a_policy_named_by_a_script_is_only_text(browser, kinds):
    view = Page(browser, kinds)
    page = view.open("game/0/5/1/1")
    expect(page.locator(".players")).to_contain_text("<script>")
    page = view.open("games?q=RLO")
    assert page.evaluate("window.hacked") is None
    view.close()


def test_long_replies_of_a_model_are_shown_in_parts(browser, tmp_path):
    episode = sampled(played("kuhn_poker", 1)[0], 5000)
    with viewing(make_run(tmp_path / "run", {1: [episode]}, "kuhn_poker")) as address:
        view = Page(browser, address)
        page = view.open("game/0/1/0/0")
        expect(page.locator(".tokens .tint")).to_have_count(3000)
        page.get_by_role("button", name="Show 2,000 of 2,000 more tokens").click()
        expect(page.locator(".tokens .tint")).to_have_count(5000)
        assert view.faults == []


def test_addresses_that_name_nothing_are_answered_in_a_sentence(view):
    page = view.open("nowhere")
    assert page.inner_text("h1") == "No such page"
    page = view.open("game/0/999/0")
    expect(page.locator(".notice")).to_contain_text("999")
    view.faults.clear()
