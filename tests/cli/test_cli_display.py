"""What is shown during a run and at its end, from numbers made up here."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from made_up import new_episode, new_turn
from spiral.core.metrics import Matchup
from spiral.core.transcript import game_excerpt, game_text, turn_text
from spiral.runs.display import (
    LiveDisplay,
    Pace,
    PlainDisplay,
    Watched,
    cluster_lines,
    duration,
    evaluation_lines,
    phase_seconds,
    plain_line,
    progress_line,
    rate,
    worker_metrics,
)
from spiral.runs.evaluation_results import EvaluationResults
from spiral.runs.summary import arena_table, exploitability_table, rate_text

GAMES = Matchup(game="tictactoe")
WATCHED = Watched(
    trained=(GAMES,), evaluated=(Matchup(game="tictactoe", opponent="random"),), exact=("kuhn_poker",), workers=11
)
EVALUATED = {
    "evaluation/tictactoe/random/win": 0.75,
    "evaluation/tictactoe/random/draw": 0.125,
    "evaluation/tictactoe/random/loss": 0.125,
    "evaluation/tictactoe/random/illegal": 0.0,
    "evaluation/kuhn_poker/exploitability": 0.25,
}

CLUSTER = {
    "time/collect_s": 0.5,
    "time/credit_s": 0.01,
    "time/update_s": 0.25,
    "time/publish_s": 0.04,
    "time/step_s": 0.8,
    "cluster/wall_s": 1.0,
    "cluster/workers": 2.0,
    "cluster/restarts": 1.0,
    "cluster/staleness": 0.5,
    "cluster/staleness_max": 1.0,
    "cluster/dropped_turns": 0.0,
    "cluster/worker0/tokens_per_s": 1200.0,
    "cluster/worker0/idle": 0.25,
    "cluster/worker1/tokens_per_s": 0.0,
    "cluster/worker1/idle": 1.0,
    "cluster/worker10/tokens_per_s": 800.4,
    "cluster/worker10/idle": 0.5,
}


class Clock:
    """Stands where it is put."""

    now = 100.0

    def __call__(self):
        return self.now


def step_metrics(returns=(0.5, -0.5), illegal=(0.0, 0.25), **more):
    """The metrics of a step of tic-tac-toe."""
    metrics = {"time/turns_per_s": 1234.0, "time/tokens_per_s": 5678.0, "selfplay/tictactoe/draw": 0.1}
    for player in (0, 1):
        metrics |= {
            GAMES.key("return", player): returns[player],
            GAMES.key("win", player): 0.6 - 0.3 * player,
            GAMES.key("illegal", player): illegal[player],
            GAMES.key("response_length", player): 12.0 + player,
        }
    return metrics | more


def rates(win, draw, loss):
    """A result as `ArenaResult.to_json` gives it."""
    values = {"win": win, "draw": draw, "loss": loss, "not_lost": win + draw}
    result = {"game": "tictactoe", "opponent": "random", "illegal": 0.05, "episodes": 100}
    for key, value in values.items():
        result |= {key: value, f"{key}_low": max(0.0, value - 0.1), f"{key}_high": min(1.0, value + 0.1)}
    return result


def rendered(renderable):
    console = Console(file=io.StringIO(), width=120)
    console.print(renderable)
    return console.file.getvalue()


def test_pace():
    clock = Clock()
    pace = Pace(first_step=11, steps=30, per_step=8, clock=clock)
    clock.now += 20
    assert pace.elapsed == 20
    assert pace.remaining(20) == 20
    assert pace.remaining(30) == 0


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3661, "1:01:01")])
def test_duration(seconds, text):
    assert duration(seconds) == text


def shown_steps(steps, seconds):
    """The lines about a run whose steps take so long."""
    clock, lines = Clock(), []
    with PlainDisplay(lines.append, Pace(1, steps, 8, clock), WATCHED) as display:
        for step in range(1, steps + 1):
            clock.now += seconds
            display.show(step, step_metrics())
    return lines


def test_plain_lines_come_every_five_seconds_and_at_the_last_step():
    lines = shown_steps(25, 0.5)
    steps = [line.split()[1] for line in lines if line.startswith("step")]
    assert steps == ["1/25", "11/25", "21/25", "25/25"]
    assert lines[1] == "the first step took 0:00; at this speed 0:12 are left until the last evaluation\n"
    assert lines[2] == (
        "step 11/25  0:06 elapsed, 0:07 left  1,234 turns/s  5,678 tokens/s  88 games"
        "  tictactoe +0.50/-0.50 illegal 0%/25%\n"
    )


def test_a_slow_step_always_has_a_line():
    lines = shown_steps(20, 2.0)
    assert [line.split()[1] for line in lines if line.startswith("step")] == [f"{step}/20" for step in range(1, 21)]
    assert [line for line in lines if "at this speed 0:38 are left" in line] == [lines[1]]
    assert len(shown_steps(1, 60.0)) == 1, "nothing is left to foretell"


@pytest.mark.parametrize("games", [1, 3, 6, 40])
def test_a_plain_line_is_short_whatever_is_played(games):
    metrics = {"time/turns_per_s": 0.31, "time/tokens_per_s": 12.4, "loss/entropy": 1.2, "loss/kl_reference": 0.7}
    for number in range(games):
        for player in (0, 1):
            metrics[Matchup(game=f"game_{number}").key("return", player)] = -1.5
            metrics[Matchup(game=f"game_{number}").key("illegal", player)] = 1.0
    watched = Watched(trained=tuple(Matchup(game=f"game_{number}") for number in range(games)))
    line = plain_line(5, metrics, Pace(1, 10, 8, Clock()), watched)
    assert len(line) <= 160
    assert line.startswith("step 5/10  0:00 elapsed, 0:00 left  0.31 turns/s  12 tokens/s  40 games  game_0 -1.50/")
    shown = line.count("illegal 100%/100%")
    assert line.endswith(f"  and {games - shown} more") == (shown < games)
    assert ("entropy 1.200" in line) == (games == 1)


@pytest.mark.parametrize("width", [60, 80, 110, 200])
def test_the_progress_line_fits(width):
    metrics = step_metrics(**{"time/turns_per_s": 0.047, "time/tokens_per_s": 99_999.0})
    clock = Clock()
    pace = Pace(1, 100_000, 768, clock)
    clock.now += 400_000
    line = progress_line(99_990, metrics, pace, width)
    assert len(line) <= width
    assert "step 99990/100000" in line
    assert ("111:06:40 elapsed, 0:40 left" in line) == (width >= 60)
    assert ("0.047 turns/s" in line) == (width >= 80)
    assert ("━━━" in line) == (width > 112)
    assert progress_line(99_990, metrics, pace, 30) == "step 99990/100000"
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=60)
    display = LiveDisplay(console, "spiral train  a-model  " + "runs/x" * 30, pace, WATCHED, EVALUATED)
    display.show(99_990, metrics)
    narrow = Console(file=io.StringIO(), width=width)
    narrow.print(display.render())
    lines = narrow.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert lines[1] == line, "one line of the screen, not wrapped"


@pytest.mark.parametrize(
    ("per_second", "text"),
    [(0.0, "0"), (0.031, "0.031"), (0.31, "0.31"), (3.14, "3.1"), (31.4, "31"), (1234.5, "1,234")],
)
def test_speeds_have_digits_that_say_something(per_second, text):
    assert rate(per_second) == text


def test_evaluations_are_always_shown():
    clock, lines = Clock(), []
    display = PlainDisplay(lines.append, Pace(1, 10, 8, clock), WATCHED)
    display.show(1, step_metrics())
    display.show(2, step_metrics(**EVALUATED))
    assert lines[-1] == (
        "evaluated after step 2: tictactoe against random: win 75% draw 12% loss 12% illegal 0%;"
        " kuhn_poker: exploitability 0.2500\n"
    )
    assert evaluation_lines(step_metrics(), WATCHED) == []


def test_live_display():
    console = Console(file=io.StringIO(), force_terminal=True, width=120, height=40)
    clock = Clock()
    display = LiveDisplay(console, "spiral train", Pace(1, 10, 8, clock), WATCHED, EVALUATED)
    assert "first step is running" in rendered(display.render())
    learning = {"learner/grad_norm": 0.5, "loss/kl_reference": 0.01, "loss/entropy": 1.2, "loss/clip_fraction": 0.25}
    with display:
        clock.now += 3
        display.show(5, step_metrics(**learning))
    text = rendered(display.render())
    assert "step 5/10  0:03 elapsed, 0:03 left  1,234 turns/s  5,678 tokens/s  40 games" in text
    assert "gradient norm 0.50  KL to reference 0.010  entropy 1.200  clipped 25.0%" in text
    assert "tictactoe against random: win 75%" in text
    assert "+0.50    60%     10%      0.0%             12" in text
    assert "-0.50    30%     10%     25.0%             13" in text
    assert "Ctrl-C" in text
    assert "step 5/10" in console.file.getvalue()


def test_where_the_time_of_a_step_goes():
    phases = phase_seconds(CLUSTER)
    assert phases == {"play": 0.5, "credit": 0.01, "update": 0.25, "publish": 0.04, "record": pytest.approx(0.2)}
    assert list(phases)[-1] == "record"
    assert "record" not in phase_seconds({"time/collect_s": 0.5, "time/step_s": 0.8}), "not known of a first step"
    assert phase_seconds(CLUSTER | {"cluster/wall_s": 0.7})["record"] == 0.0, "clocks differ by a little"
    assert phase_seconds({}) == {}


def test_the_processes_of_a_run():
    assert worker_metrics(CLUSTER, "idle", 11) == {0: 0.25, 1: 1.0, 10: 0.5}
    assert cluster_lines(CLUSTER, 11) == [
        "2 of 3 workers  0 to 1,200 tokens/s each  idle 25% to 100%  staleness 0.5  restarts 1",
        "play 0.50 s  credit 0.01 s  update 0.25 s  publish 0.04 s  record 0.20 s",
    ]
    assert cluster_lines(CLUSTER | {"cluster/dropped_turns": 3.0}, 11)[0].endswith("restarts 1  3 turns too old")
    assert cluster_lines(step_metrics(), 0) == [], "a run in one process has none"
    one = {key: value for key, value in CLUSTER.items() if "worker1" not in key}
    assert "1,200 tokens/s each  idle 25%  staleness" in cluster_lines(one, 11)[0]


def test_displays_of_a_cluster():
    metrics = step_metrics(**CLUSTER)
    lines = []
    PlainDisplay(lines.append, Pace(1, 10, 8, Clock()), WATCHED).show(5, metrics)
    assert [line[2:-1] for line in lines[1:]] == cluster_lines(metrics, 11)
    display = LiveDisplay(
        Console(file=io.StringIO(), width=120), "spiral train", Pace(1, 10, 8, Clock()), WATCHED, EVALUATED
    )
    display.show(5, metrics)
    lines = rendered(display.render()).splitlines()
    assert [line for line in lines if line in cluster_lines(metrics, 11)] == cluster_lines(metrics, 11)


def test_before_and_after():
    before = EvaluationResults(arena=(rates(0.4, 0.1, 0.5),), exploitability=())
    exact = {"game": "kuhn_poker", "exploitability": 0.25, "illegal_mass": 0.5, "method": "scored"}
    after = EvaluationResults(arena=(rates(0.6, 0.2, 0.2),), exploitability=(exact,))
    lines = rendered(arena_table(before, after)).splitlines()
    assert lines[2].split() == [
        "tictactoe", "random", "before", "40%", "(30", "to", "50)", "10%", "(0", "to", "20)", "50%", "(40", "to", "60)",
        "50%", "(40", "to", "60)", "5.0%",
    ]  # fmt: skip
    assert lines[3].split()[0] == "after"
    assert "80% (70 to 90)" in lines[3]
    assert rendered(exploitability_table(before, after)).splitlines()[2].split() == [
        "kuhn_poker", "0.2500", "50.0%", "scored",
    ]  # fmt: skip
    assert rate_text(rates(0.61, 0.1, 0.29), "win") == "61% (51 to 71)"


def test_a_game_is_shown_in_a_few_lines():
    turns = [new_turn(number % 2, action=action) for number, action in enumerate(["0", "3", "1", "4", "2"])]
    episode = new_episode((1.0, -1.0), turns)
    lines, whole = game_excerpt(episode).splitlines(), game_text(episode).splitlines()
    assert len(whole) > 25 >= len(lines)
    assert lines[0] == whole[0]
    assert lines[1] == f"(its last {len(lines) - 3} lines of {len(whole)})"
    assert lines[3:] == whole[-(len(lines) - 3) :]
    assert lines[-1].startswith("Result: player 0 won")
    short = new_episode((0.0, 0.0), [], outcome="truncated")
    assert game_excerpt(short) == game_text(short)


def test_a_game_in_words():
    turns = [new_turn(number % 2, action=action) for number, action in enumerate(["0", "3", "1", "4", "2"])]
    text = game_text(new_episode((1.0, -1.0), turns))
    assert text.count("You are playing tic-tac-toe") == 1, "the rules are printed once"
    assert " X | X | X\n---+---+---\n O | O | 5\n---+---+---\n 6 | 7 | 8" in text
    assert text.endswith("Result: player 0 won (returns: player 0 +1, player 1 -1).")


def test_a_game_that_is_forfeited():
    turns = [new_turn(0, action="0"), new_turn(1, action=None)]
    text = game_text(new_episode((0.5, -1.5), turns, outcome="illegal_move"))
    assert "player 1 replies: r\nplayer 1 forfeits: no legal action in the reply" in text
    assert text.endswith("Result: player 0 won by forfeit (returns: player 0 +0.5, player 1 -1.5).")


def test_replies_are_described():
    assert turn_text("minimax", "4", "4") == "minimax plays: 4"
    assert turn_text("nano", "I think 4.\n\\boxed{4}", "4") == "nano replies: I think 4.\n\\boxed{4}\nnano plays: 4"
    assert turn_text("nano", " ", None).startswith("nano replies: (nothing)\n")
