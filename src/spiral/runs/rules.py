"""The rules of guards that compare a run with itself as it was, each for one sign of a collapse.

Every rule has two thresholds (`run.guard_options`): at `warn` its state becomes warning, at `limit` collapsed. What is
judged is the mean (of gradients the median) over the last tenth of the steps, at least five. Illegal moves and rising
entropy are compared with the lowest mean of five steps in a row, most others with the first five; `seats` and
`advantages` with nothing, `anchor` with its best result. A player needs 100 games in these steps.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from spiral.core.metrics import Matchup
from spiral.evaluation.statistics import wilson
from spiral.runs.findings import Finding, Level, Rows
from spiral.runs.health import MIN_STEPS, PlayerRecord, judged_players, numbers_of, tail_of

ANCHOR = "random"
"""The opponent that the rule "anchor" looks at."""


class _Rule:
    """Two thresholds of one number, and the advice that ends a message."""

    name: str
    advice: str
    falls = False
    """Whether a small number is bad, not a large one."""

    def __init__(self, warn: float, limit: float) -> None:
        self.warn, self.limit = _number("warn", warn), _number("limit", limit)
        if (self.warn < self.limit) if self.falls else (self.warn > self.limit):
            wanted = "at least" if self.falls else "at most"
            raise ValueError(f"warn is {warn} and limit {limit}; expected a warn of {wanted} the limit, so set both")

    def over(self, value: float) -> Level | None:
        """The state of a number that is bad when it is large."""
        return "collapsed" if value > self.limit else "warning" if value > self.warn else None

    def under(self, value: float) -> Level | None:
        """The state of a number that is bad when it is small."""
        return "collapsed" if value < self.limit else "warning" if value < self.warn else None

    def found(self, level: Level | None, about: str, reading: str) -> Iterator[Finding]:
        """The finding of a state, if it is not fine."""
        if level is not None:
            message = f"{self.name}, {about}: {reading}; {self.advice}"
            yield Finding(level=level, about=f"{about}: {self.name}, {level}", message=message)


class _PlayerRule(_Rule):
    """A rule that judges every player of every game that is trained on."""

    def __call__(self, rows: Rows, trained: Sequence[Matchup]) -> Iterator[Finding]:
        """One finding for each player whose state is not fine."""
        for record in judged_players(rows, trained):
            if record.judged:
                yield from self.player(rows, record)

    def player(self, rows: Rows, record: PlayerRecord) -> Iterator[Finding]:
        """The finding about one player, if any."""
        raise NotImplementedError


class _ChangeRule(_PlayerRule):
    """A rule that compares a player's metric with that of the first steps."""

    metric: str
    reading: str
    """The text of a finding, formatted with the numbers `now` and `first`."""

    def player(self, rows: Rows, record: PlayerRecord) -> Iterator[Finding]:
        key = record.matchup.key(self.metric, record.player)
        first, now = self.before(rows, key), _now(rows, key)
        if first is not None and now is not None:
            reading = self.reading.format(now=now, first=first)
            yield from self.found(self.level(first, now), _who(record), reading)

    def before(self, rows: Rows, key: str) -> float | None:
        """What the metric is compared with."""
        return _first(rows, key)

    def level(self, first: float, now: float) -> Level | None:
        """The state, from the metric in the first steps and in those that are judged."""
        raise NotImplementedError


class IllegalRule(_PlayerRule):
    """A player makes more illegal moves than when it made fewest, by the lower bound of the share's 95% interval."""

    name, advice = "illegal moves", "it forgets how to move; lower learner.learning_rate or raise loss.kl_coefficient"

    def __init__(self, warn: float = 0.02, limit: float = 0.3) -> None:
        super().__init__(warn, limit)

    def player(self, rows: Rows, record: PlayerRecord) -> Iterator[Finding]:  # noqa: D102
        lowest = _lowest(rows, record.matchup.key("illegal", record.player))
        if lowest is not None:
            rise = wilson(record.illegal * record.games, record.games).low - lowest
            reading = f"{record.illegal:.1%} of its moves are illegal ({lowest:.1%} at best)"
            yield from self.found(self.over(rise), _who(record), reading)


class LengthRule(_ChangeRule):
    """A player's replies are many times as long, or as short, as at first."""

    metric = "response_length"
    reading = "{now:.3g} tokens a reply ({first:.3g} at first)"
    name, advice = "reply length", "look at games (spiral show RUN); lower learner.learning_rate"

    def __init__(self, warn: float = 4.0, limit: float = 10.0) -> None:
        super().__init__(warn, limit)

    def level(self, first: float, now: float) -> Level | None:  # noqa: D102
        return self.over(max(now / first, first / now)) if min(first, now) > 0 else None


class ThoughtsRule(_ChangeRule):
    """More of a player's thoughts are empty than at first."""

    metric = "thinking_empty"
    reading = "{now:.0%} of its thoughts are empty ({first:.0%} at first)"
    name, advice = "empty thoughts", "the estimator 'rae' and a loss.kl_coefficient above 0 keep thoughts"

    def __init__(self, warn: float = 0.25, limit: float = 0.5) -> None:
        super().__init__(warn, limit)

    def level(self, first: float, now: float) -> Level | None:  # noqa: D102
        return self.over(now - first)


class EntropyRule(_ChangeRule):
    """A player's replies are nearly determined. The thresholds are shares of the entropy in the first steps."""

    falls = True
    metric = "entropy"
    reading = "{now:.3g} nats a token ({first:.3g} at first)"
    name, advice = "entropy", "raise loss.entropy_bonus or loss.kl_coefficient, or lower learner.learning_rate"

    def __init__(self, warn: float = 0.2, limit: float = 0.05) -> None:
        super().__init__(warn, limit)

    def level(self, first: float, now: float) -> Level | None:  # noqa: D102
        return self.under(now / first) if first > 0 else None


class EntropyRiseRule(_ChangeRule):
    """A player's replies become more random again: the policy breaks up, often long before its results do.

    While a policy learns, its entropy falls or stays. The thresholds are how many times it is the lowest so far, and
    nothing is judged before it has risen by `min_rise` nats a token: in healthy runs of the built-in models it rises by
    up to 0.15 from a low point (experiments/guards).
    """

    metric = "entropy"
    reading = "{now:.3g} nats a token ({first:.3g} at the lowest)"
    name, advice = "rising entropy", "lower learner.learning_rate or loss.entropy_bonus, or raise loss.kl_coefficient"

    def __init__(self, warn: float = 1.5, limit: float = 3.0, min_rise: float = 0.15) -> None:
        super().__init__(warn, limit)
        self.min_rise = _number("min_rise", min_rise)

    def before(self, rows: Rows, key: str) -> float | None:  # noqa: D102
        return _lowest(rows, key)

    def level(self, first: float, now: float) -> Level | None:  # noqa: D102
        return self.over(now / max(first, 1e-9)) if now - first >= self.min_rise else None


class SeatsRule(_PlayerRule):
    """In self-play one player wins, or loses, practically every game.

    Both the player that wins and the one that loses are reported, because neither has anything left to learn from. In a
    game that best play wins for one player this is no fault. A game with one player is not judged.
    """

    name, advice = "seat win rates", "raise loss.entropy_bonus or loss.kl_coefficient, or mix in other opponents"

    def __init__(self, warn: float = 0.9, limit: float = 0.97) -> None:
        super().__init__(warn, limit)

    def __call__(self, rows: Rows, trained: Sequence[Matchup]) -> Iterator[Finding]:
        """One finding for each player of the policy's games against itself that nearly always wins or loses."""
        records = [record for record in judged_players(rows, trained) if not record.matchup.opponent]
        for record in records:
            alone = sum(other.matchup == record.matchup for other in records) == 1
            if record.judged and record.lost is not None and not alone:
                yield from self.player(rows, record)

    def player(self, rows: Rows, record: PlayerRecord) -> Iterator[Finding]:  # noqa: D102
        assert record.lost is not None
        won = _now(rows, record.matchup.key("win", record.player)) or 0.0
        at_end, word = max((record.lost, "loses"), (won, "wins"))
        first = _first(rows, record.matchup.key("win", record.player)) or 0.0
        reading = f"it {word} {at_end:.1%} of its games (it won {first:.1%} at first)"
        yield from self.found(self.over(wilson(at_end * record.games, record.games).low), _who(record), reading)


class TemplateRule(_ChangeRule):
    """A player's thoughts depend less on the prompt than at first: a template collapse.

    The thresholds are shares of the mutual information between prompt and thought in the first steps
    (`spiral.core.information`). Nothing is judged where that was below `min_information` nats a token, or where most
    replies had no thought: the few that had one make a number, and no template.
    """

    falls = True
    metric = "thought_information"
    reading = "its thoughts tell {now:.3g} nats a token about the prompt ({first:.3g} at first)"
    name, advice = "template collapse", "raise loss.entropy_bonus, or compare thoughts (spiral view RUN)"

    def __init__(self, warn: float = 0.5, limit: float = 0.2, min_information: float = 0.02) -> None:
        super().__init__(warn, limit)
        self.min_information = _number("min_information", min_information)

    def before(self, rows: Rows, key: str) -> float | None:  # noqa: D102
        empty = _first(rows, key.removesuffix(self.metric) + "thinking_empty")
        return None if empty is not None and empty > 0.5 else super().before(rows, key)

    def level(self, first: float, now: float) -> Level | None:  # noqa: D102
        return self.under(now / first) if first >= self.min_information else None


class AdvantagesRule(_PlayerRule):
    """Nearly all turns of a player have no advantage, so that nothing is learned from them."""

    name, advice = "zero advantages", "its games all end alike; mix in other opponents, or openings"

    def __init__(self, warn: float = 0.8, limit: float = 0.95) -> None:
        super().__init__(warn, limit)

    def player(self, rows: Rows, record: PlayerRecord) -> Iterator[Finding]:  # noqa: D102
        share = _now(rows, record.matchup.key("zero_advantage", record.player))
        if share is not None:
            yield from self.found(self.over(share), _who(record), f"{share:.0%} of its turns have no advantage")


class GradientRule(_Rule):
    """The gradient before clipping is many times as large as at first, or zero. One large step is not enough."""

    name, advice = "gradient norm", "lower learner.learning_rate, or look for what the last batches have in common"

    def __init__(self, warn: float = 3.0, limit: float = 10.0) -> None:
        super().__init__(warn, limit)

    def __call__(self, rows: Rows, trained: Sequence[Matchup]) -> Iterator[Finding]:
        """At most one finding, about the run."""
        first = numbers_of(rows[:MIN_STEPS], "learner/grad_norm")
        now = numbers_of(tail_of(rows), "learner/grad_norm")
        if len(rows) <= MIN_STEPS or len(first) < MIN_STEPS or len(now) < MIN_STEPS:
            return
        before, norm = statistics.median(first), statistics.median(now)
        level = "collapsed" if norm == 0 else self.over(norm / before) if before > 0 else None
        yield from self.found(level, "the run", f"{norm:.3g} in the middle of the last steps ({before:.3g} at first)")


class AnchorRule(_Rule):
    """The policy plays worse against a fixed opponent than it did, whatever it does against itself.

    A result is the share of games won and half of those drawn in `evaluation.games` against `opponent`; the thresholds
    are how far the last one is below the best. The message also gives the share of draws against itself: at 100% both
    players may have stopped learning. It needs `evaluation.every`.
    """

    name, advice = "anchor", "go back to an earlier checkpoint, or lower learner.learning_rate"

    def __init__(self, warn: float = 0.1, limit: float = 0.25, opponent: str = ANCHOR) -> None:
        super().__init__(warn, limit)
        if not isinstance(opponent, str):
            raise ValueError(f"opponent is {opponent!r}; expected the name of one of evaluation.opponents")
        self.opponent = opponent

    def __call__(self, rows: Rows, trained: Sequence[Matchup]) -> Iterator[Finding]:
        """One finding for each game with a result far below the best."""
        for game in dict.fromkeys(matchup.game for matchup in trained):
            matchup, own = Matchup(game=game, opponent=self.opponent), Matchup(game=game)
            win, draw = matchup.evaluation_key("win"), matchup.evaluation_key("draw")
            results = [row[win] + row[draw] / 2 for row in rows if win in row and draw in row]
            if len(results) < 2:
                continue
            best, last = max(results), results[-1]
            drawn = _now(rows, own.key("draw"))
            note = f", and {drawn:.0%} of its games against itself are draws" if drawn is not None else ""
            reading = f"it scores {last:.1%} against {self.opponent} (at best {best:.1%}){note}"
            yield from self.found(self.over(best - last), game, reading)


def _number(setting: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise ValueError(f"{setting} is {value!r}; expected a number from 0")
    return float(value)


RULES: Mapping[str, type[_Rule]] = {
    "illegal": IllegalRule,
    "length": LengthRule,
    "thoughts": ThoughtsRule,
    "entropy": EntropyRule,
    "entropy_rise": EntropyRiseRule,
    "seats": SeatsRule,
    "anchor": AnchorRule,
    "gradient": GradientRule,
    "advantages": AdvantagesRule,
    "template": TemplateRule,
}
"""The rules by the names that recipes give them."""


def _who(record: PlayerRecord) -> str:
    return f"player {record.player} of {record.matchup}"


def _first(rows: Rows, key: str) -> float | None:
    """The mean over the first steps that have a metric; None while there are no later ones."""
    found = numbers_of(rows, key)
    return statistics.fmean(found[:MIN_STEPS]) if len(found) > MIN_STEPS else None


def _lowest(rows: Rows, key: str) -> float | None:
    """The lowest mean of `MIN_STEPS` steps in a row that have a metric; None while there are no later ones."""
    found = numbers_of(rows, key)
    if len(found) <= MIN_STEPS:
        return None
    return min(statistics.fmean(found[start : start + MIN_STEPS]) for start in range(len(found) - MIN_STEPS + 1))


def _now(rows: Rows, key: str) -> float | None:
    """The mean over the steps that are judged."""
    found = numbers_of(tail_of(rows), key)
    return statistics.fmean(found) if found else None
