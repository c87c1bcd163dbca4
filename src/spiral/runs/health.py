"""Health lights of a run: what its metrics say about the ways in which self-play goes wrong.

`health` is a pure function of the rows of `read_metrics` and of the games that are trained on. `spiral show`, the
viewer and the guards that warn during a run all judge by it. A light is judged by the last tenth of the steps, at
least `MIN_STEPS`, and what it is compared with are the first `MIN_STEPS`.

A word on two thresholds. Thoughts may shorten while a model learns: the paper's run goes from 4,061 tokens a turn to
1,609 and back to 2,032, so a fall to 40% is healthy, and the light turns at a quarter. Turns may be some updates behind
when every token's weight is corrected for it, so that light turns at 4.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from spiral.core.metrics import Matchup, learning_players
from spiral.evaluation.statistics import wilson

State = Literal["fine", "warn", "bad", "unknown"]
SEVERITY: tuple[State, ...] = ("bad", "warn", "fine", "unknown")
"""The states, the worst first."""
Rows = Sequence[Mapping[str, Any]]
"""Metrics by step, oldest first."""

MIN_STEPS, MIN_GAMES = 5, 100
"""Steps with a game, and games in them, before a player is judged; also replies, before the run's thoughts are."""
ILLEGAL_WARN, ILLEGAL_LIMIT = 0.2, 0.5
"""Shares of a player's moves that are illegal."""
LOST_WARN = 0.9
"""Share of a player's games that are lost."""
LOSS_LIMIT, SPREAD_LIMIT = -0.95, 0.05
"""Mean return of a player that always loses, and how little it then changes from step to step."""
SHORT_WARN, SHORT_LIMIT = 0.25, 0.1
"""Length of thoughts over that of the first steps."""
EMPTY_WARN, EMPTY_LIMIT = 0.25, 0.5
"""Rise of the share of empty thoughts since the first steps."""
MIN_THOUGHT = 1.0
"""Tokens of a mean thought in the first steps, below which the run has no thoughts that could collapse."""
STALE_WARN, STALE_LIMIT = 4.0, 8.0
"""Updates that turns are behind, on average."""
DROPPED_WARN, DROPPED_LIMIT = 0.1, 0.3
"""Share of the turns that are dropped because they are too far behind."""

THINKING_RULE = (
    "Yellow when thoughts are shorter than 25% of those in the first 5 steps or the share of empty ones has risen by 25"
    " points, red at 10% or 50 points."
)
SEAT_RULE = (
    "Yellow when more than 90% of the player's games are lost (95% confidence), red when its mean return is -0.95 or"
    " less and changes by less than 0.05 from step to step, which leaves nothing to learn from."
)
ILLEGAL_RULE = "Yellow when more than 20% of the player's moves are illegal, red at 50% (95% confidence)."
GAP_RULE = (
    "Yellow when the log-probabilities of engine and learner differed by more than loss.gap_limit in one of the last"
    " steps, red when in more than half of them."
)
STALENESS_RULE = (
    "Yellow when the turns learned from are more than 4 updates behind on average or 10% of the turns are dropped as"
    " too old, red at 8 updates or 30%."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Light:
    """One judgement of a run."""

    name: str
    """thinking collapse, seat collapse, illegal moves, sampler-learner gap, or staleness."""
    state: State
    value: float | None
    """The number that the light is about; None when there is none."""
    reading: str
    """The number in words, such as "12% of its moves are illegal"; or why the state is unknown."""
    rule: str
    """One sentence with the thresholds."""
    game: str | None = None
    """The game's spec; None for a light of the whole run."""
    player: int | None = None
    opponent: str | None = None
    """The opponent in these games; None in games of the policy against itself."""

    @property
    def about(self) -> str:
        """The subject: "player 0 of tictactoe", or "the run"."""
        if self.game is None:
            return "the run"
        matchup = Matchup(game=self.game, opponent=self.opponent or "")
        return str(matchup) if self.player is None else f"player {self.player} of {matchup}"

    def to_json(self) -> dict[str, Any]:
        """The light as plain data."""
        return dataclasses.asdict(self)


def health(rows: Rows, trained: Sequence[Matchup] = ()) -> list[Light]:
    """The health lights of a run after the last of `rows`.

    Args:
        rows: What `spiral.read_metrics` returns, or the steps so far.
        trained: The games of the recipe, whose players are judged one by one; without them only the run as a whole is.

    Returns:
        The lights of the run as a whole and of every player that learns, always in the same order.
    """
    lights = [_thinking(rows)]
    players = list(judged_players(rows, trained))
    if lights[0].state != "unknown":
        lights += [_thoughts_of(rows, record) for record in players]
    lights += [_seat(record) for record in players if not _plays_alone(players, record)]
    lights += [_illegal(record) for record in players]
    return [*lights, _gap(rows), _staleness(rows)]


def tail_of(rows: Rows) -> Rows:
    """The steps that are judged: the last tenth, at least `MIN_STEPS`."""
    return rows[-max(MIN_STEPS, len(rows) // 10) :]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlayerRecord:
    """What one learning player did in the steps that are judged."""

    matchup: Matchup
    player: int
    steps: int
    """Steps in which it played."""
    games: float
    illegal: float
    """Share of its moves that are illegal."""
    lost: float | None
    """Share of its games that it lost; None where the rows do not say."""
    returns: tuple[float, ...]
    """Mean return of each step."""

    @property
    def judged(self) -> bool:
        """Whether it played often enough to be judged."""
        return self.steps >= MIN_STEPS and self.games >= MIN_GAMES

    @property
    def mostly_illegal(self) -> bool:
        """Whether more than half of its moves are illegal, by the lower bound of the share's 95% interval."""
        return self.judged and wilson(self.illegal * self.games, self.games).low > ILLEGAL_LIMIT

    @property
    def collapsed(self) -> bool:
        """Whether it loses practically every game: a lost game costs at least 1, and the mean hardly changes."""
        return self.judged and self.mean_return <= LOSS_LIMIT and statistics.pstdev(self.returns) < SPREAD_LIMIT

    @property
    def mean_return(self) -> float:
        """Mean return over the steps."""
        return statistics.fmean(self.returns)


def judged_players(rows: Rows, trained: Sequence[Matchup]) -> Iterator[PlayerRecord]:
    """The record of every player that learns, in the order of the games."""
    tail = tail_of(rows)
    everything = {key: value for row in tail for key, value in row.items()}
    for matchup in trained:
        for player in learning_players(everything, matchup):
            played = [row for row in tail if _number(row, matchup.key("return", player)) is not None]
            if not played:
                continue
            # Runs of earlier versions have no games by kind.
            games = [_number(row, matchup.key("games")) or _number(row, "rollout/games") or 0.0 for row in played]
            illegal = numbers_of(played, matchup.key("illegal", player))
            won, drawn = numbers_of(played, matchup.key("win", player)), numbers_of(played, matchup.key("draw"))
            yield PlayerRecord(
                matchup=matchup,
                player=player,
                steps=len(played),
                games=sum(games),
                illegal=statistics.fmean(illegal) if illegal else 0.0,
                lost=max(0.0, 1 - statistics.fmean(won) - statistics.fmean(drawn)) if won and drawn else None,
                returns=tuple(numbers_of(played, matchup.key("return", player))),
            )


def _plays_alone(players: Sequence[PlayerRecord], record: PlayerRecord) -> bool:
    """Whether the game has one player, such as a problem, and so no other one to lose to."""
    same = [other for other in players if other.matchup == record.matchup]
    return not record.matchup.opponent and len(same) == 1


def _thinking(rows: Rows) -> Light:
    """Thoughts of all replies."""
    now, first = tail_of(rows), rows[:MIN_STEPS]
    lengths, lengths_before = numbers_of(now, "thinking/length"), numbers_of(first, "thinking/length")
    empty, empty_before = numbers_of(now, "thinking/empty"), numbers_of(first, "thinking/empty")
    unknown = _no_judgement(rows, lengths_before, lengths)
    turns = numbers_of(now, "rollout/turns")
    if not unknown and turns and sum(turns) < MIN_GAMES:
        unknown = f"{sum(turns):.0f} of {MIN_GAMES} replies"
    if unknown or not empty or not empty_before:
        reading = unknown or "the metrics say nothing about thoughts"
        return Light(name="thinking collapse", state="unknown", value=None, reading=reading, rule=THINKING_RULE)
    share, before = statistics.fmean(empty), statistics.fmean(empty_before)
    length, start = statistics.fmean(lengths), statistics.fmean(lengths_before)
    state = _worse(_above(share - before, EMPTY_WARN, EMPTY_LIMIT), _below(length / start, SHORT_WARN, SHORT_LIMIT))
    reading = (
        f"{share:.0%} of thoughts are empty ({before:.0%} at first), {length:.3g} tokens long ({start:.3g} at first)"
    )
    return Light(name="thinking collapse", state=state, value=share, reading=reading, rule=THINKING_RULE)


def _thoughts_of(rows: Rows, record: PlayerRecord) -> Light:
    """Thoughts of one player, whose lengths alone are known."""
    key = record.matchup.key("thinking_length", record.player)
    played = [row for row in rows if _number(row, key) is not None]
    lengths, before = numbers_of(tail_of(rows), key), numbers_of(played[:MIN_STEPS], key)
    reading = _no_judgement(played, before, lengths)
    if not reading and not record.judged:
        return _too_early(record, "thinking collapse", THINKING_RULE)
    state: State = "unknown"
    value = None
    if not reading:
        value, start = statistics.fmean(lengths), statistics.fmean(before)
        state = _below(value / start, SHORT_WARN, SHORT_LIMIT)
        reading = f"its thoughts are {value:.3g} tokens long ({start:.3g} at first)"
    return _of_player(record, "thinking collapse", state, value, reading, THINKING_RULE)


def _no_judgement(rows: Rows, before: Sequence[float], now: Sequence[float]) -> str:
    """Why thoughts cannot be judged; empty where they can."""
    if not before or not now:
        return "the metrics say nothing about thoughts"
    if statistics.fmean(before) < MIN_THOUGHT:
        return "there were no thoughts in the first steps"
    return f"{len(rows)} of {MIN_STEPS} steps" if len(rows) < MIN_STEPS else ""


def _seat(record: PlayerRecord) -> Light:
    """Whether a player always loses, and has nothing to learn from."""
    state: State = "fine"
    if not record.judged:
        return _too_early(record, "seat collapse", SEAT_RULE)
    if record.collapsed:
        state = "bad"
    elif record.lost is not None and wilson(record.lost * record.games, record.games).low > LOST_WARN:
        state = "warn"
    lost = "" if record.lost is None else f"it loses {record.lost:.0%} of its games, "
    reading = f"{lost}mean return {record.mean_return:+.2f}"
    value = record.mean_return if record.lost is None else record.lost
    return _of_player(record, "seat collapse", state, value, reading, SEAT_RULE)


def _illegal(record: PlayerRecord) -> Light:
    """Whether a player knows how to move."""
    if not record.judged:
        return _too_early(record, "illegal moves", ILLEGAL_RULE)
    low = wilson(record.illegal * record.games, record.games).low
    reading = f"{record.illegal:.1%} of its moves are illegal"
    state = _above(low, ILLEGAL_WARN, ILLEGAL_LIMIT)
    return _of_player(record, "illegal moves", state, record.illegal, reading, ILLEGAL_RULE)


def _too_early(record: PlayerRecord, name: str, rule: str) -> Light:
    reading = f"{record.steps} of {MIN_STEPS} steps and {record.games:.0f} of {MIN_GAMES} games"
    return _of_player(record, name, "unknown", None, reading, rule)


def _of_player(record: PlayerRecord, name: str, state: State, value: float | None, reading: str, rule: str) -> Light:
    return Light(
        name=name,
        state=state,
        value=value,
        reading=reading,
        rule=rule,
        game=record.matchup.game,
        player=record.player,
        opponent=record.matchup.opponent or None,
    )


def _gap(rows: Rows) -> Light:
    """Whether engine and learner give the same tokens the same probabilities."""
    tail = tail_of(rows)
    gaps, over = numbers_of(tail, "sampler/gap_mean"), numbers_of(tail, "sampler/gap_warning")
    if not gaps:
        reading = "the metrics say nothing about it"
        return Light(name="sampler-learner gap", state="unknown", value=None, reading=reading, rule=GAP_RULE)
    share = statistics.fmean(over) if over else 0.0
    state: State = "fine" if share == 0 else "warn" if share <= 0.5 else "bad"
    value = statistics.fmean(gaps)
    reading = f"{value:.2g} nats a token, over the limit in {sum(over):.0f} of {len(gaps)} steps"
    return Light(name="sampler-learner gap", state=state, value=value, reading=reading, rule=GAP_RULE)


def _staleness(rows: Rows) -> Light:
    """Whether the turns learned from are far behind the learner."""
    tail = tail_of(rows)
    behind = numbers_of(tail, "cluster/staleness")
    if not behind:
        played = bool(numbers_of(tail, "rollout/turns"))
        reading = "one process plays and learns in turn" if played else "the metrics say nothing about it"
        return Light(
            name="staleness",
            state="fine" if played else "unknown",
            value=0.0 if played else None,
            reading=reading,
            rule=STALENESS_RULE,
        )
    value, dropped = statistics.fmean(behind), sum(numbers_of(tail, "cluster/dropped_turns"))
    turns = sum(numbers_of(tail, "credit/samples")) + dropped
    share = dropped / turns if turns else 0.0
    state = _worse(_above(value, STALE_WARN, STALE_LIMIT), _above(share, DROPPED_WARN, DROPPED_LIMIT))
    reading = f"{value:.1f} updates behind, {share:.1%} of the turns dropped as too old"
    return Light(name="staleness", state=state, value=value, reading=reading, rule=STALENESS_RULE)


def _above(value: float, warn: float, limit: float) -> State:
    return "bad" if value > limit else "warn" if value > warn else "fine"


def _below(value: float, warn: float, limit: float) -> State:
    return "bad" if value < limit else "warn" if value < warn else "fine"


def _worse(one: State, other: State) -> State:
    return next((state for state in SEVERITY if state in (one, other)), "unknown")


def numbers_of(rows: Rows, key: str) -> list[float]:
    """The values of a metric in the rows that have it."""
    return [value for row in rows if (value := _number(row, key)) is not None]


def _number(row: Mapping[str, Any], key: str) -> float | None:
    """A metric of a row; None where it is missing or not a finite number."""
    value = row.get(key)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
