"""Guards watch a run's metrics and say when training has gone wrong, and what to do.

A recipe names guards in `run.guards`, by a built-in name, an entry point of the group "spiral.guards", or
"module:attribute", and their settings in `run.guard_options`. A guard is made by calling what was named with its
settings, and is then called after every step with the metrics so far. It keeps no state: what it says follows from the
rows alone, so that a resumed run is watched as if it had never stopped.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, cast

from spiral.core.metrics import Matchup, Metrics, metric_name
from spiral.core.plugins import check_options, resolve
from spiral.core.settings import shown
from spiral.games.failures import UserCodeError, describe_error
from spiral.runs.answers import Answers
from spiral.runs.findings import Finding, Level, Rows
from spiral.runs.guard_record import GuardRecord
from spiral.runs.health import (
    ILLEGAL_LIMIT,
    ILLEGAL_WARN,
    LOST_WARN,
    MIN_STEPS,
    Light,
    health,
    judged_players,
)
from spiral.runs.rules import RULES

__all__ = ["Finding", "Guard", "GuardWatch", "Guards", "Level", "Rows", "find_guard", "games_not_known"]

logger = logging.getLogger(__name__)

UNKNOWN_LIMIT = 0.9
"""Share of games that end with an illegal move of a model that does not know the game."""
MAX_ROWS = 500
"""Steps that are kept for the guards during a run, besides the first ones."""
REMEDY = (
    "show it an example (prompt.example=true), leave out thinking (prompt.thinking=false), or start from a larger model"
    " or one trained on examples of the game"
)


class Guard(Protocol):
    """Judges a run by its metrics."""

    def __call__(self, rows: Rows, trained: Sequence[Matchup]) -> Iterable[Finding]:
        """The problems after the last of `rows`, if any. `trained` are the games of the recipe."""
        ...


class CollapseGuard:
    """Finds players that do not learn, judged by the last tenth of the steps and never by a few games.

    Either more than half of a player's moves are illegal, by the lower bound of the share's 95% interval, or it loses
    practically every game: a mean return of -0.95 or less (a lost game costs at least 1) that hardly changes from step
    to step, which leaves nothing to learn from.
    """

    def __call__(self, rows: Rows, trained: Sequence[Matchup]) -> Iterable[Finding]:
        """One finding for each player that does not learn."""
        for record in judged_players(rows, trained):
            who = f"player {record.player} of {record.matchup}"
            if record.mostly_illegal:
                key = record.matchup.key("illegal", record.player)
                yield _illegal_moves(who, record.illegal, next(row[key] for row in rows if key in row))
            elif record.collapsed:
                message = (
                    f"{who} collapsed: it always loses (mean return {record.mean_return:+.2f}) and learns nothing;"
                    " raise loss.entropy_bonus or loss.kl_coefficient, or mix in other opponents"
                )
                yield Finding(level="collapsed", about=who, message=message)


def _illegal_moves(who: str, illegal: float, at_first: float) -> Finding:
    """A player whose moves are mostly illegal never knew how to move, or has forgotten."""
    if at_first > ILLEGAL_LIMIT:
        message = f"{who} has not learned to move: {illegal:.0%} of its moves are illegal; {REMEDY}"
        return Finding(level="warning", about=who, message=message)
    message = (
        f"{who} collapsed: {illegal:.0%} of its moves are illegal; go back to an earlier checkpoint and lower"
        " learner.learning_rate"
    )
    return Finding(level="collapsed", about=who, message=message)


class GapGuard:
    """Finds steps at which the engine and the learner gave the same tokens different probabilities."""

    def __call__(self, rows: Rows, trained: Sequence[Matchup]) -> Iterable[Finding]:
        """One finding for all of these steps."""
        over = [row for row in rows if row.get("sampler/gap_warning")]
        if over:
            largest = max(row["sampler/gap_mean"] for row in over)
            message = (
                f"engine and learner disagreed in {len(over)} of {len(rows)} steps, by up to {largest:.3f} nats a token"
                " (sampler/gap_mean is over loss.gap_limit); compare engine.kind, model.compute and sampling"
            )
            yield Finding(level="warning", about="gap", message=message)


class RoomGuard:
    """Finds prompts that filled the model's context in the last step."""

    def __call__(self, rows: Rows, trained: Sequence[Matchup]) -> Iterable[Finding]:
        """One finding for all of these prompts."""
        share = rows[-1].get("rollout/prompt_too_long", 0.0) if rows else 0.0
        if share > 0:
            message = (
                f"{share:.2%} of the prompts fill the model's context and count as illegal moves"
                " (rollout/prompt_too_long); set prompt.observation = 'compact', or choose a longer context or games"
                " that end sooner"
            )
            yield Finding(level="warning", about="room", message=message)


class HealthGuard:
    """Finds health lights that have turned, before a player has collapsed.

    What `collapse` and `gap` find is left to them. A player that moved illegally or lost as often from the start, as
    against a strong opponent, has not turned.
    """

    def __call__(self, rows: Rows, trained: Sequence[Matchup]) -> Iterable[Finding]:
        """One finding for each light that is not fine any more."""
        for light in health(rows, trained):
            advice = ADVICE.get((light.name, light.state))
            if advice is None or (light.state == "warn" and light.game is not None and self._was_so(light, rows)):
                continue
            yield Finding(
                level="collapsed" if light.name == "thinking collapse" and light.state == "bad" else "warning",
                about=f"{light.about}: {light.name}, {light.state}",
                message=f"{light.name}, {light.about}: {light.reading}; {advice}",
            )

    def _was_so(self, light: Light, rows: Rows) -> bool:
        """Whether a player moved illegally, or lost, about as often in the first steps."""
        matchup = Matchup(game=light.game or "", opponent=light.opponent or "")
        for record in judged_players(rows[:MIN_STEPS], [matchup]):
            if record.player == light.player:
                if light.name == "illegal moves":
                    return record.illegal > ILLEGAL_WARN
                return light.name == "seat collapse" and record.lost is not None and record.lost > LOST_WARN
        return False


_KEEP_THINKING = "the estimator 'rae' and a loss.kl_coefficient above 0 keep thoughts; look at games: spiral show RUN"
_FRESHER = "lower cluster.max_staleness, or take fewer rollout workers"
ADVICE: Mapping[tuple[str, str], str] = {
    ("thinking collapse", "warn"): _KEEP_THINKING,
    ("thinking collapse", "bad"): _KEEP_THINKING,
    (
        "seat collapse",
        "warn",
    ): "it may soon have nothing to learn from; raise loss.entropy_bonus or loss.kl_coefficient",
    ("illegal moves", "warn"): "it forgets how to move; lower learner.learning_rate or raise loss.kl_coefficient",
    ("staleness", "warn"): _FRESHER,
    ("staleness", "bad"): _FRESHER,
}
"""What to do about a light, by its name and state."""


BUILTIN: Mapping[str, Callable[..., Guard]] = {
    "collapse": CollapseGuard,
    "gap": GapGuard,
    "health": HealthGuard,
    "room": RoomGuard,
    **cast(Mapping[str, Callable[..., Guard]], RULES),
}
STATES: Mapping[Level | None, float] = {None: 0.0, "warning": 1.0, "collapsed": 2.0}
"""The state of a guard as a metric, by the worst level that it finds."""


def find_guard(name: str, options: Mapping[str, Any]) -> Callable[..., Guard]:
    """The class or function that makes the guard `name`.

    Raises `ValueError` if there is none, or if it does not take `options`.
    """
    found = resolve("guards", name, BUILTIN)
    check_options(name, found, options)
    return found


class Guards:
    """Several guards as one, none of which can end the run."""

    def __init__(self, guards: Mapping[str, Guard]) -> None:
        self._guards = dict(guards)

    @classmethod
    def from_names(cls, names: Sequence[str], options: Mapping[str, Mapping[str, Any]]) -> Guards:
        """Makes the named guards. Raises `ValueError` if one cannot be made."""
        made = {}
        for name in dict.fromkeys(names):
            given = options.get(name, {})
            make = find_guard(name, given)
            try:
                guard = made[name] = make(**given)
            except (Exception, SystemExit) as error:
                reason = str(error) if name in BUILTIN else describe_error(error)
                raise ValueError(f"guard {name!r} cannot be made: {reason}") from error
            if not callable(guard):
                raise ValueError(
                    f"guard {name!r} is a {type(guard).__name__}, which cannot be called; give its class a"
                    " __call__(self, rows, trained) that returns a list of Finding"
                )
        return cls(made)

    def __call__(self, rows: Rows, trained: Sequence[Matchup]) -> list[Finding]:
        """The findings of all guards.

        A guard that raises an exception, or gives anything but findings, is reported once and disabled.
        """
        return [found for findings in self.by_name(rows, trained).values() for found in findings]

    def by_name(self, rows: Rows, trained: Sequence[Matchup]) -> dict[str, list[Finding]]:
        """The same, by the names of the guards that are not disabled."""
        found: dict[str, list[Finding]] = {}
        for name, guard in list(self._guards.items()):
            try:
                found[name] = _findings(guard(rows, trained))
            except (Exception, SystemExit) as error:
                del self._guards[name]
                reason = str(error) if isinstance(error, _NoFindingsError) else describe_error(error)
                logger.warning("guard %r failed and is disabled: %s", name, reason)
        return found


class _NoFindingsError(UserCodeError):
    """A guard gave something else than findings."""


def _findings(given: object) -> list[Finding]:
    """The findings that a guard gave."""
    expected = "expected a list of spiral.runs.guards.Finding, empty where nothing is wrong"
    if not isinstance(given, Iterable) or isinstance(given, str | bytes | Mapping):
        raise _NoFindingsError(f"it gave {shown(given)}; {expected}")
    found = list(given)
    for item in found:
        if not isinstance(item, Finding):
            raise _NoFindingsError(f"it gave a list that holds {shown(item)}; {expected}")
    return found


class GuardWatch:
    """Runs the guards after every step, and warns once about each thing that they find."""

    def __init__(
        self,
        guards: Guards,
        trained: Sequence[Matchup],
        rows: Rows = (),
        answers: Answers | None = None,
        record: GuardRecord | None = None,
    ) -> None:
        """`rows` are the steps before a resume; `answers` are given to what is found, and both are put on record."""
        self._answers = answers
        self._record = record
        self._guards = guards
        self._trained = trained
        self._first = list(rows[:MIN_STEPS])
        self._rows = deque(rows[MIN_STEPS:], maxlen=MAX_ROWS)
        self._warned: set[str] = set()

    def __call__(self, step: int, metrics: Metrics) -> Metrics:
        """Takes a step's metrics, logs what the guards find after it, and returns their states as metrics."""
        row = {"step": float(step), **metrics}
        self._first.append(row) if len(self._first) < MIN_STEPS else self._rows.append(row)
        rows: Rows = [*self._first, *self._rows]
        found = self._guards.by_name(rows if self._answers is None else self._answers.judged(rows), self._trained)
        for finding in (finding for findings in found.values() for finding in findings):
            if finding.about not in self._warned:
                self._warned.add(finding.about)
                logger.warning("step %d: %s", step, finding.message)
        states = {f"guard/{metric_name(name)}": _state(findings) for name, findings in found.items()}
        more = {} if self._answers is None else self._answers.observe(step, found)
        if self._record is not None:
            self._record.add(step, found, {} if self._answers is None else self._answers.given(step))
        return states | more


def _state(findings: Sequence[Finding]) -> float:
    """The worst of the states that a guard has found."""
    return max((STATES[finding.level] for finding in findings), default=STATES[None])


def games_not_known(forfeits: Mapping[str, float]) -> str | None:
    """A warning for games that nearly always end with an illegal move; `forfeits` is that share of games by game."""
    unknown = [f"{game} ({share:.0%} of games)" for game, share in forfeits.items() if share >= UNKNOWN_LIMIT]
    if not unknown:
        return None
    return f"nearly every game ends with an illegal move in {', '.join(unknown)}, which teaches little; {REMEDY}"
