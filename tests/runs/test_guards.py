"""Guards: what they find in the metrics of a run, when they warn, and that one that fails costs nothing else."""

from __future__ import annotations

import logging

import pytest

from commands import tiny_run
from spiral.core.metrics import Matchup
from spiral.runs.guards import CollapseGuard, Finding, Guards, GuardWatch, HealthGuard, games_not_known
from spiral.runs.recipe import load_recipe

GAMES = Matchup(game="tictactoe")


def step_metrics(returns=(0.5, -0.5), illegal=(0.0, 0.25), **more):
    """The metrics of a step of tic-tac-toe."""
    metrics = {}
    for player in (0, 1):
        metrics |= {GAMES.key("return", player): returns[player], GAMES.key("illegal", player): illegal[player]}
    return metrics | more


def collapsed(rows, games=GAMES):
    return [found.message for found in CollapseGuard()(rows, [games])]


def test_players_that_collapsed():
    games = {"selfplay/tictactoe/games": 64.0}
    fine = [step_metrics(**games)] * 90
    assert collapsed(fine) == []
    assert collapsed([]) == []
    assert collapsed(fine + [step_metrics(illegal=(0.1, 0.6), **games)] * 10) == [
        "player 1 of tictactoe collapsed: 60% of its moves are illegal; go back to an earlier checkpoint and lower"
        " learner.learning_rate"
    ]
    assert collapsed(fine + [step_metrics(returns=(-1.0, 1.0), **games)] * 10) == [
        "player 0 of tictactoe collapsed: it always loses (mean return -1.00) and learns nothing; raise"
        " loss.entropy_bonus or loss.kl_coefficient, or mix in other opponents"
    ]
    assert collapsed([step_metrics(returns=(-1.0, 1.0), **games)] * 90 + fine) == [], "only the last tenth counts"
    moving = [step_metrics(returns=(-0.9 - 0.1 * (step % 2) - 0.1, 1.0), **games) for step in range(100)]
    assert collapsed(moving) == [], "a return that still moves leaves something to learn from"


@pytest.mark.parametrize(
    ("steps", "games", "illegal", "alarms"),
    [
        (1, 768, 1.0, False),  # one step
        (4, 768, 1.0, False),
        (5, 4, 1.0, False),  # twenty games
        (20, 19, 1.0, False),  # 95 games in the last five steps
        (20, 20, 1.0, True),
        (5, 20, 0.55, False),  # it may as well be less than half
        (5, 400, 0.55, True),
    ],
)
def test_a_few_games_raise_no_alarm(steps, games, illegal, alarms):
    rows = [step_metrics(illegal=(illegal, 0.0), **{"selfplay/tictactoe/games": float(games)})] * steps
    lost = [step_metrics(returns=(-1.0, 1.0), **{"selfplay/tictactoe/games": float(games)})] * steps
    assert len(collapsed(rows)) == alarms
    assert len(collapsed(lost)) == (steps >= 5 and games >= 20)
    old = [{**row, "rollout/games": row["selfplay/tictactoe/games"]} for row in rows]
    for row in old:
        del row["selfplay/tictactoe/games"]
    assert collapsed(old) == collapsed(rows), "runs of earlier versions"


def test_what_was_never_known_has_not_collapsed():
    rows = [step_metrics(illegal=(1.0, 0.0), **{"selfplay/tictactoe/games": 64.0})] * 20
    (warning,) = collapsed(rows)
    assert warning.startswith(
        "player 0 of tictactoe has not learned to move: 100% of its moves are illegal; show it an"
    )
    assert "collapsed" not in warning
    assert games_not_known({"tictactoe": 0.89, "kuhn_poker": 0.2}) is None
    assert games_not_known({"tictactoe": 0.97, "kuhn_poker": 0.2}).startswith(
        "nearly every game ends with an illegal move in tictactoe (97% of games), which teaches little; show it an"
    )
    assert "a (100% of games), b (90% of games)" in games_not_known({"a": 1.0, "b": 0.9})


def test_a_player_that_loses_against_an_opponent_is_warned_of_after_some_steps():
    games = Matchup(game="tictactoe", opponent="minimax")
    row, other = (
        {games.key("return", player): value, games.key("illegal", player): 0.0, games.key("games"): 20.0}
        for player, value in ((0, -1.0), (1, 0.0))
    )
    assert collapsed([row, other] * 10, games) == []
    (warning,) = collapsed([row, other] * 60, games)
    assert warning.startswith("player 0 of tictactoe against minimax collapsed: it always loses")


def test_a_health_light_that_turns_is_warned_of_early(caplog):
    games = {GAMES.key("games"): 64.0, GAMES.key("draw"): 0.0, GAMES.key("win", 0): 0.6, GAMES.key("win", 1): 0.4}
    fine = step_metrics(illegal=(0.01, 0.01), **games, **{"thinking/length": 80.0, "thinking/empty": 0.1})
    worse = fine | {GAMES.key("illegal", 0): 0.3, "thinking/length": 15.0}
    empty = worse | {"thinking/length": 5.0, "thinking/empty": 0.9}
    with caplog.at_level(logging.WARNING, "spiral"):
        watch = GuardWatch(Guards.from_names(["collapse", "gap", "health"], {}), [GAMES])
        for step, row in enumerate([*[fine] * 20, *[worse] * 20, *[empty] * 20], 1):
            watch(step, row)
    short, illegal, collapsed_thoughts = (record.getMessage() for record in caplog.records)
    assert short.startswith("step 25: thinking collapse, the run: 10% of thoughts are empty (10% at first), 15 tokens")
    assert illegal.startswith(
        "step 25: illegal moves, player 0 of tictactoe: 30.0% of its moves are illegal; it forgets"
    )
    assert collapsed_thoughts.startswith(
        "step 44: thinking collapse, the run: 74% of thoughts are empty (10% at first)"
    )
    (found,) = [found for found in HealthGuard()([*[fine] * 9, *[empty] * 9], [GAMES]) if found.level == "collapsed"]
    assert found.about == "the run: thinking collapse, bad"


def test_what_was_so_from_the_start_has_not_turned():
    games = {GAMES.key("games"): 64.0, GAMES.key("draw"): 0.0, GAMES.key("win", 0): 0.98, GAMES.key("win", 1): 0.02}
    rows = [step_metrics(illegal=(0.3, 0.3), **games)] * 40
    assert list(HealthGuard()(rows, [GAMES])) == []
    better = step_metrics(illegal=(0.1, 0.1), **(games | {GAMES.key("win", 1): 0.4}))
    turned = [found.about for found in HealthGuard()([*[better] * 5, *rows], [GAMES])]
    assert turned == [
        "player 1 of tictactoe: seat collapse, warn",
        "player 0 of tictactoe: illegal moves, warn",
        "player 1 of tictactoe: illegal moves, warn",
    ]


def test_guards_warn_once_about_each_thing(caplog):
    guards = Guards.from_names(["room", "gap"], {})
    watch = GuardWatch(guards, [GAMES])
    with caplog.at_level(logging.WARNING, "spiral"):
        watch(1, {"rollout/prompt_too_long": 0.0})
        assert not caplog.records
        for step in (2, 3):
            watch(step, {"rollout/prompt_too_long": 0.25, "sampler/gap_warning": 1.0, "sampler/gap_mean": 0.5})
    room, gap = (record.getMessage() for record in caplog.records)
    assert room.startswith("step 2: 25.00% of the prompts fill the model's context")
    assert gap.startswith("step 2: engine and learner disagreed in 1 of 2 steps, by up to 0.500 nats a token")


def test_a_resumed_run_is_watched_as_if_it_had_not_stopped(caplog):
    rows = [step_metrics(illegal=(1.0, 0.0), **{GAMES.key("games"): 64.0})] * 4
    with caplog.at_level(logging.WARNING, "spiral"):
        GuardWatch(Guards.from_names(["collapse"], {}), [GAMES], rows[:3])(4, rows[3])
        assert not caplog.records
        GuardWatch(Guards.from_names(["collapse"], {}), [GAMES], rows)(5, rows[3])
    assert "step 5: player 0 of tictactoe has not learned to move" in caplog.text


class TooLong:
    """A guard of one's own."""

    def __init__(self, limit=100.0):
        self.limit = limit

    def __call__(self, rows, trained):
        raise RuntimeError(f"limit {self.limit}, {len(rows)} rows, {trained[0]}")


def test_a_failing_custom_guard_is_left_out(caplog):
    name = f"{__name__}:TooLong"
    guards = Guards({name: TooLong(limit=7.0), "collapse": CollapseGuard()})
    lost = [step_metrics(returns=(-1.0, 1.0), **{GAMES.key("games"): 64.0})] * 9
    with caplog.at_level(logging.WARNING, "spiral"):
        assert [found.level for found in guards(lost, [GAMES])] == ["collapsed"]
        assert [found.level for found in guards(lost, [GAMES])] == ["collapsed"]
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith(f"guard {name!r} failed and is disabled: RuntimeError: limit 7.0, 9 rows, ")


def exits(rows, trained):
    raise SystemExit(7)


def unfinished(rows, trained):
    yield Finding(level="warning", about="x", message="x")
    raise KeyError("later")


@pytest.mark.parametrize(
    ("guard", "reason"),
    [
        (lambda rows, trained: None, "it gave None; expected a list of spiral.runs.guards.Finding, empty where"),
        (lambda rows, trained: "text", "it gave 'text'; expected a list"),
        (lambda rows, trained: {"x": 1}, "it gave {'x': 1}; expected a list"),
        (lambda rows, trained: 3, "it gave 3; expected a list"),
        (lambda rows, trained: ["text"], "it gave a list that holds 'text'; expected"),
        (lambda rows, trained: [None], "it gave a list that holds None; expected"),
        (lambda rows, trained: [Finding(level="bad", about="x", message="x")], "ValueError: a Finding got level='bad'"),
        (
            lambda rows, trained: [Finding(level="warning", about=["x"], message="x")],
            "ValueError: a Finding got about=",
        ),
        (exits, "SystemExit: 7"),
        (unfinished, "KeyError: 'later'"),
    ],
)
def test_a_guard_that_gives_no_findings_is_disabled(guard, reason, caplog):
    watch = GuardWatch(Guards({"mine": guard, "room": Guards.from_names(["room"], {})}), [GAMES])
    with caplog.at_level(logging.WARNING, "spiral"):
        watch(1, {"rollout/prompt_too_long": 0.0})
        watch(2, {"rollout/prompt_too_long": 0.5})
    mine, room = (record.getMessage() for record in caplog.records)
    assert mine.startswith(f"guard 'mine' failed and is disabled: {reason}")
    assert room.startswith("step 2: 50.00%")


def test_findings_of_any_iterable(caplog):
    found = Finding(level="collapsed", about="x", message="x")
    guards = Guards({"tuple": lambda *_: (found,), "generator": lambda *_: (item for item in [found])})
    assert guards([], [GAMES]) == [found, found]


class NotCallable:
    pass


def test_a_guard_that_cannot_be_called_is_refused():
    name = f"{__name__}:NotCallable"
    with pytest.raises(ValueError, match=f"guard '{name}' is a NotCallable, which cannot be called; give its class a"):
        Guards.from_names([name], {})


def test_a_failed_guard_is_reported_once_in_a_run(tmp_path):
    name = f"{__name__}:TooLong"
    result = tiny_run(
        tmp_path / "run",
        run__guards=f"['{name}']",
        run__trackers="[]",
        evaluation__games="[]",
        evaluation__exploitability="[]",
    )
    assert result.status == 0, result.err
    assert (result.err + result.out).count("failed and is disabled") == 1


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("run.guards=['colapse']", "run.guards: there is no 'colapse' among the guards; did you mean 'collapse'?"),
        ("run.guard_options={room = {}}", None),
        ("run.guard_options={gap2 = {}}", "run.guards does not name; add it there, or remove its options"),
        ("run.guard_options={room = {limit = 3}}", "limit"),
        ("run.trackers=['wandbb']", "run.trackers: there is no 'wandbb' among the trackers"),
        ("run.tracker_options={tensorboard = {flush = 3}}", "flush"),
    ],
)
def test_what_a_recipe_cannot_name(setting, words):
    if words is None:
        assert load_recipe("nano", [setting]).run.guard_options == {"room": {}}
        return
    with pytest.raises(ValueError, match="run") as refused:
        load_recipe("nano", [setting])
    assert words in str(refused.value)


def test_the_settings_of_a_guard_are_tried_when_the_recipe_is_read():
    with pytest.raises(ValueError, match=r"run\.guards: guard 'seats' cannot be made: warn is -1; expected a number"):
        load_recipe("nano", ["run.guards=['seats']", "run.guard_options={seats = {warn = -1}}"])
