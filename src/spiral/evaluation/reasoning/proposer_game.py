r"""A proposer and a solver: player 0 chooses the kind and the level of some problems, player 1 answers them.

    load_game("proposer_solver")    load_game("proposer_solver(problems=8,families='gcd chain_sum')")

The kinds and levels are those of `levels`; the problems of a choice come from the seed that chance deals before it, and
from the training split of `problem_game`, so nothing that is held out there is seen here. Each is answered, and graded
by reasoning-gym's own verifier (arXiv 2505.24760), as in that module: the answer is the content of the last box exactly
as it is written, a wrong one is a legal move, and a reply without a box an illegal one.

The solver gets the share p of its answers that are right, a part with each answer. The proposer gets 1 - |2p - 1|:
most, 1, when half of the answers are right, and nothing for none or all of them. So it is paid for problems at the edge
of what the solver can do. The formula is that of R-Zero (arXiv 2508.05004), 1 - 2 |p - 1/2|, where p is the share of
answers to one question that agree with their majority; here it is the share of right answers to several questions of
one level. Absolute Zero (arXiv 2505.03335) pays 1 - p where p is neither 0 nor 1, and so most for what is almost never
solved; SPICE (arXiv 2510.24684) pays most where the variance of right and wrong is largest, which is at 1/2 too. Both
returns are from 0 to 1, and they do not sum to zero: where every answer is right, the solver alone is paid.

Not modelled: a proposer that writes problems of its own, and one that sees how earlier episodes went.

It lies beside the tasks and grader that it needs, like `problem_game`; `games.registry` names it.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
from typing import ClassVar

from spiral.core.settings import shortened
from spiral.evaluation.reasoning.levels import LEVELLED, LEVELS
from spiral.evaluation.reasoning.problem_game import PREFIX, UNKNOWN, ProblemGame, is_answer
from spiral.evaluation.reasoning.procedural import GYM
from spiral.evaluation.reasoning.tasks import SOLVE
from spiral.games.base import CHANCE, MAX_SHOWN, TERMINAL, Game, State, Style
from spiral.games.registry import load_game

DEALS = 10_000
PROBLEMS = range(2, 11)
"""One problem alone is solved or not, which would never pay the proposer."""
CHOOSE = "Please reason step by step, and put your choice within \\boxed{}."


def proposer_return(right: int, problems: int) -> float:
    """What the proposer gets for `right` of `problems` answers: 1 - |2p - 1| for their share p."""
    return 1 - abs(2 * right - problems) / problems


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProposerSolver(Game):
    """One player chooses problems for the other, at the edge of what it can do."""

    name: ClassVar[str] = "proposer_solver"
    summary: ClassVar[str] = "one chooses problems, one solves"
    rules: ClassVar[str] = "paid as in R-Zero (2508.05004)"
    free_text: ClassVar[bool] = True
    zero_sum: ClassVar[bool] = False
    instructs: ClassVar[bool] = True

    problems: int = 4
    """The number of problems of an episode."""
    families: str = ""
    """The families of reasoning-gym among which the proposer chooses; empty for all that have levels."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for values that make no game, and where reasoning-gym is not installed."""
        if importlib.util.find_spec("reasoning_gym") is None:
            raise ValueError(f"game {self.name!r} needs reasoning-gym: pip install reasoning-gym")
        if self.problems not in PROBLEMS:
            raise ValueError(
                f"{self.name} got problems={self.problems}; expected a number from {PROBLEMS[0]} to {PROBLEMS[-1]}"
            )
        words = self.families.split(" ") if self.families else list(LEVELLED)
        if not set(words) <= set(LEVELLED) or len(set(words)) != len(words):
            raise ValueError(
                f"{self.name} got families={self.families[:80]!r}; expected some of {' '.join(LEVELLED)}, each once,"
                " with a space between them"
            )

    @property
    def kinds(self) -> tuple[str, ...]:
        """The families among which the proposer chooses."""
        return tuple(self.families.split() or LEVELLED)

    @property
    def choices(self) -> tuple[str, ...]:
        """Every family with every level, such as "gcd 3"."""
        return tuple(f"{family} {level}" for family in self.kinds for level in range(1, LEVELS + 1))

    @property
    def max_turns(self) -> int:
        """A choice, and an answer to each problem."""
        return 1 + self.problems

    @property
    def min_return(self) -> float:
        """No right answer, for both players."""
        return 0.0

    @property
    def max_return(self) -> float:
        """For the solver all answers right, for the proposer half of them."""
        return 1.0

    def initial_state(self) -> ChoosingState:
        """Chance deals the problems of every choice."""
        return ChoosingState(game=self)

    def example(self) -> tuple[State, str]:
        """The first problem of a deal with its right answer."""
        state = SolvingState(game=self, dealt=0, choice=self.choices[0])
        return state, self.source(state.choice).problem(state.first).answer

    def source(self, choice: str) -> ProblemGame:
        """The problems of a choice, as a game of one player."""
        return _source(choice, DEALS * self.problems)

    def check(self) -> None:
        """Deal and grade a problem of each family. Raise `ValueError` when this is not possible on this machine."""
        for family in self.kinds:
            self.source(f"{family} {LEVELS}").check()


@functools.lru_cache(maxsize=256)
def _source(choice: str, size: int) -> ProblemGame:
    family, level = choice.split()
    game = load_game(f"{PREFIX}{GYM}{family}", level=int(level), size=size)
    assert isinstance(game, ProblemGame)
    return game


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChoosingState(State):
    """Before the deal, or before the proposer's choice."""

    game: ProposerSolver
    dealt: int | None = None

    @property
    def current_player(self) -> int:
        """Chance, then the proposer."""
        return CHANCE if self.dealt is None else 0

    def chance_outcomes(self) -> tuple[tuple[str, float], ...]:
        """The deals, equally likely."""
        return _outcomes() if self.dealt is None else ()

    def legal_actions(self) -> tuple[str, ...]:
        """Every family with every level."""
        return () if self.dealt is None else self.game.choices

    def apply(self, action: str) -> ChoosingState | SolvingState:
        """Deal, or choose."""
        if self.dealt is not None:
            if not self.is_legal(action):
                raise self.refuse(action)
            return SolvingState(game=self.game, dealt=self.dealt, choice=action)
        if action not in _deals():
            raise self.refuse(action)
        return dataclasses.replace(self, dealt=int(action))

    def returns(self) -> tuple[float, float]:
        """Nothing yet."""
        return (0.0, 0.0)

    def information_state(self, player: int) -> str:
        """The same for all deals, which no player sees."""
        return "" if self.dealt is None else "to choose"

    def observation(self, player: int, style: Style = "full") -> str:
        """The compact form is the player's part alone."""
        if style == "compact":
            return f"proposer_solver:{'choose' if player == 0 else 'wait'}"
        kinds = [f"- {family}: {LEVELLED[family].summary}" for family in self.game.kinds]
        if player == 1:
            return f"{_rules(self.game, 1)}\nSeat 0 chooses now."
        lines = [
            _rules(self.game, 0),
            f"The kinds of problems, each with levels from 1, the easiest, to {LEVELS}, the hardest:",
            *kinds,
        ]
        if self.current_player == 0:
            lines.append(
                "It is your turn. An action is a kind and a level. Your legal actions:"
                f" {', '.join(self.legal_actions())}.\n\n{CHOOSE}"
            )
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SolvingState(State):
    """The choice and the answers so far."""

    verbatim: ClassVar[bool] = True

    game: ProposerSolver
    dealt: int
    choice: str
    answers: tuple[str, ...] = ()

    @property
    def current_player(self) -> int:
        """The solver, until it has answered every problem."""
        return 1 if len(self.answers) < self.game.problems else TERMINAL

    @property
    def first(self) -> int:
        """The number of the first problem among those of the choice."""
        return self.dealt * self.game.problems

    def legal_actions(self) -> tuple[str, ...]:
        """Any text is an answer; "0" stands for all."""
        return () if self.is_terminal else (UNKNOWN,)

    def is_legal(self, action: str) -> bool:
        """Any answer, right or wrong, but no empty one."""
        return not self.is_terminal and is_answer(action)

    def apply(self, action: str) -> SolvingState:
        """Answer a problem."""
        if not self.is_legal(action):
            raise self.refuse(action)
        return dataclasses.replace(self, answers=(*self.answers, action))

    def graded(self) -> tuple[bool, ...]:
        """[answers so far] which of them are right."""
        source = self.game.source(self.choice)
        return tuple(source.is_right(number, answer) for number, answer in enumerate(self.answers, self.first))

    def returns(self) -> tuple[float, float]:
        """The proposer's 1 - |2p - 1|, and the solver's share p of right answers."""
        if not self.is_terminal:
            return (0.0, 0.0)
        right = sum(self.graded())
        return (proposer_return(right, self.game.problems), right / self.game.problems)

    def rewards(self) -> tuple[float, float]:
        """The solver's part for the last answer; the proposer is paid after all of them."""
        if not self.answers:
            return (0.0, 0.0)
        return (self.returns()[0], self.graded()[-1] / self.game.problems)

    def _questions(self) -> list[str]:
        """The questions that the solver has seen."""
        source, seen = self.game.source(self.choice), min(len(self.answers) + 1, self.game.problems)
        return [source.problem(number).question for number in range(self.first, self.first + seen)]

    def information_state(self, player: int) -> str:
        """The choice; for the solver, and for both in the end, also the questions and answers."""
        if player == 0 and not self.is_terminal:
            return self.choice
        return json.dumps([self.choice, self._questions(), self.answers])

    def observation(self, player: int, style: Style = "full") -> str:
        """For the solver the present problem alone, since each is by itself; the compact form leaves out the rules."""
        if self.is_terminal:
            head = f"proposer_solver:{self.choice}" if style == "compact" else _rules(self.game, player)
            return f"{head}\n{self._result()}"
        number = f"{len(self.answers) + 1} of {self.game.problems}"
        if player == 0:
            if style == "compact":
                return f"proposer_solver:{self.choice}:{number}"
            return f"{_rules(self.game, 0)}\nYou chose {self.choice}. Seat 1 answers problem {number} now."
        question = self._questions()[-1]
        if style == "compact":
            return f"proposer_solver:{self.choice}:{number}:{question}"
        chosen = f"Seat 0 chose {self.choice}. This is problem {number}."
        return f"{_rules(self.game, 1)}\n{chosen}\n\n{SOLVE.format(question=question)}"

    def _result(self) -> str:
        """The choice, the graded answers and the returns."""
        source, lines = self.game.source(self.choice), [f"The choice was {self.choice}."]
        for number, (answer, right) in enumerate(zip(self.answers, self.graded(), strict=True)):
            wrong = f"wrong; expected: {source.problem(self.first + number).answer}"
            shown = shortened(" ".join(answer.split()), MAX_SHOWN)  # its lines could imitate those of other problems
            lines.append(f"Problem {number + 1}: the answer {shown} is {'right' if right else wrong}.")
        proposer, solver = self.returns()
        return "\n".join([*lines, f"The proposer gets {proposer:.3g}, the solver {solver:.3g}."])


def _rules(game: ProposerSolver, player: int) -> str:
    """The rules and the player's part."""
    return (
        "Seat 0, the proposer, chooses a kind of problems and a level. Seat 1, the solver, gets"
        f" {game.problems} problems of this choice and answers them one by one. With a share p of right answers the"
        " solver gets p points, and the proposer gets 1 - |2p - 1|: most when half of the answers are right, nothing"
        f" for none or all.\nYou are seat {player}, the {'solver' if player else 'proposer'}."
    )


@functools.cache
def _deals() -> frozenset[str]:
    return frozenset(name for name, _ in _outcomes())


@functools.cache
def _outcomes() -> tuple[tuple[str, float], ...]:
    return tuple((str(number), 1 / DEALS) for number in range(DEALS))
