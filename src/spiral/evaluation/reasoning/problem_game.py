r"""A problem as a game of one player: chance draws it, the player answers it, the grader is the referee.

    load_game("problems/reasoning_gym/chain_sum")           a generated task (arXiv 2505.24760)
    load_game("problems/reasoning_gym/chain_sum?level=3")   at one of its levels of difficulty (`levels`)
    load_game("problems/mine?data=train.jsonl")             a data file as of `spiral benchmark --data`
    load_game("problems/math12k")                           a training set of the Hugging Face hub

The observation is the prompt of `spiral benchmark`, the action is the content of the reply's last box exactly as it is
written, and it is graded as in a benchmark. A right answer pays 1, a wrong one 0. A reply without a box is an illegal
move. Nothing is added to the prompt but a worked example, where the recipe wants one.

**Training and held-out problems.** Every question is in one of two splits, by a hash of its text: the share `held_out`
of all questions, and the others. A game deals the problems of its `split` alone, "train" unless it says "held_out" or
"all", so training never sees a held-out question, whichever file or seed it comes from. Generated problems moreover
come from seeds from `FIRST_SEED` on, which benchmarks do not use.

Published benchmarks are refused as games: training on them would spoil their results.

The module is beside the tasks and the grader that it needs; `games.registry` knows it by name and imports it when one
of its games is loaded.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar

from spiral.evaluation.reasoning.grading import shared_pool
from spiral.evaluation.reasoning.grading.choices import LETTERS
from spiral.evaluation.reasoning.grading.pool import GradingItem, VerifierItem
from spiral.evaluation.reasoning.levels import settings_of
from spiral.evaluation.reasoning.problems import Problem, has_choices, load_problems
from spiral.evaluation.reasoning.procedural import FIRST_SEED, GYM, check_family, generate_problems
from spiral.evaluation.reasoning.tasks import CHOOSE, SOLVE, TASKS, HubSource, Task
from spiral.games.base import CHANCE, TERMINAL, Game, State, Style

PREFIX = "problems/"
SPLITS = ("train", "held_out", "all")
TRIES = 1_000
"""Seeds that are tried for a generated problem of the right split."""
MAX_SIZE = 100_000
"""Maximum number of generated problems of one game."""
MAX_ANSWER = 10_000
"""Maximum number of characters of an answer."""

TRAINING_SETS = {
    "math12k": Task(
        name="math12k",
        size=12_000,
        kind="answer",
        # MATH without the problems of MATH-500. The commit could not be looked up, so only the size is checked.
        source=HubSource(name="hiyouga/math12k", revision="main", rows=12_000, split="train"),
    )
}
"""Data sets of the hub that are meant for training."""


def names() -> dict[str, str | None]:
    """Return every game without a data file, and the reason why it is not available, or None."""
    from importlib.util import find_spec

    missing = "needs reasoning-gym: pip install reasoning-gym"
    if find_spec("reasoning_gym") is None:
        return {**dict.fromkeys(TRAINING_SETS), f"{GYM}chain_sum": missing}
    from spiral.evaluation.reasoning.procedural import families

    return {**dict.fromkeys(TRAINING_SETS), **{f"{GYM}{family}": None for family in families()}}


@functools.cache
def game_class(name: str) -> type[Game]:
    """Return the class of the problems called `name`, always the same one."""
    namespace = {
        "__module__": __name__,
        "__doc__": f"The problems {name}.",
        "name": PREFIX + name,
        "task_name": name,
        "summary": f"problems of {name}: one player answers, the grader decides",
    }
    made = type("".join(part.capitalize() for part in name.split("_")), (ProblemGame,), namespace)
    return dataclasses.dataclass(frozen=True, kw_only=True)(made)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProblemGame(Game):
    """The base of all games of problems."""

    name: ClassVar[str] = "problems"
    task_name: ClassVar[str] = ""
    rules: ClassVar[str] = "the prompt and the grader of spiral benchmark"
    free_text: ClassVar[bool] = True
    zero_sum: ClassVar[bool] = False
    instructs: ClassVar[bool] = True

    data: str = ""
    """A JSONL file with question and answer, and optionally alt_answers, tolerance or choices."""
    split: str = "train"
    """The questions that are dealt: "train", "held_out" or "all"."""
    held_out: float = 0.2
    """Share of the questions that are held out."""
    size: int = 10_000
    """Number of problems that are dealt from a generated task."""
    level: int = 0
    """The level of difficulty of a generated task, from 1; 0 for the mixture of its own settings."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for unknown tasks, missing files and values out of range; no problem is loaded."""
        if self.split not in SPLITS:
            raise ValueError(f"{self.name} got split {self.split!r}; expected train, held_out or all")
        if not 0 <= self.held_out < 1:
            raise ValueError(f"{self.name} got held_out={self.held_out}; expected a share of at least 0 and below 1")
        if self.split == "held_out" and not self.held_out:
            raise ValueError(f"{self.name} has no held-out problems, since held_out is 0; set it to the share of them")
        if not 1 <= self.size <= MAX_SIZE:
            raise ValueError(f"{self.name} got size={self.size}; expected 1 to {MAX_SIZE:,} problems")
        self._check_source()

    def _check_source(self) -> None:
        name = self.task_name
        if self.is_generated:
            if self.data:
                raise ValueError(f"{self.name} generates its problems from seeds; leave out data")
            check_family(name)
            settings_of(name.removeprefix(GYM), self.level)
        elif self.level:
            raise ValueError(
                f"{self.name} got level={self.level}; only generated tasks, {PREFIX}{GYM}NAME, have levels"
            )
        elif self.size != 10_000:
            raise ValueError(f"{self.name} got size={self.size}; only generated tasks, {PREFIX}{GYM}NAME, have one")
        elif self.data:
            if not Path(self.data).is_file():
                raise ValueError(f"{self.name}: there is no file {self.data}; expected a JSONL file of problems")
        elif name in TASKS:
            raise ValueError(
                f"{name} is a benchmark, and training on it would spoil its results; train on {PREFIX}math12k,"
                f" {PREFIX}{GYM}NAME or a file of your own, {PREFIX}{name}?data=FILE.jsonl, or evaluate with"
                f" `spiral benchmark MODEL --task {name}`"
            )
        elif name not in TRAINING_SETS:
            near = difflib.get_close_matches(name, list(names()), n=1, cutoff=0.7)
            hint = f"did you mean {PREFIX}{near[0]}? Or" if near else "to read them from a file,"
            raise ValueError(
                f"there are no problems called {name!r}; {hint} give {PREFIX}{name}?data=FILE.jsonl. Known:"
                f" {', '.join(TRAINING_SETS)}, {GYM}NAME"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by name, as the class is made at run time."""
        return _load, (self.task_name, dataclasses.asdict(self))

    @property
    def is_generated(self) -> bool:
        """Whether the problems are generated from seeds."""
        return self.task_name.startswith(GYM)

    @property
    def num_players(self) -> int:
        """One."""
        return 1

    @property
    def max_turns(self) -> int:
        """One answer."""
        return 1

    @property
    def min_return(self) -> float:
        """Of a wrong answer."""
        return 0.0

    @property
    def max_return(self) -> float:
        """Of a right answer."""
        return 1.0

    def initial_state(self) -> ProblemState:
        """Chance draws the problem."""
        return ProblemState(game=self)

    def example(self) -> tuple[State, str]:
        """A training problem with its right answer."""
        game = self if self.split == "train" else dataclasses.replace(self, split="train")
        candidates = [game.problem(number) for number in range(min(game.count, EXAMPLES))]
        lengths = [len(problem.question) + len(problem.answer) for problem in candidates]
        number = lengths.index(min(lengths))
        return ProblemState(game=game, number=number), candidates[number].answer or UNKNOWN

    @property
    def count(self) -> int:
        """Number of problems that can be dealt. Raises `ValueError` when they cannot be loaded."""
        return self.size if self.is_generated else len(_listed(self))

    def problem(self, number: int) -> Problem:
        """Problem `number` of those that can be dealt. Raises `ValueError` when it cannot be loaded."""
        return _generated(self, number) if self.is_generated else _listed(self)[number]

    def prompt(self, number: int) -> str:
        """The prompt of a problem, as a benchmark gives it."""
        problem = self.problem(number)
        return problem.prompt(SOLVE if problem.choices is None else CHOOSE)

    def check(self) -> None:
        """Load a problem and grade an answer. Raise `ValueError` when either is not possible on this machine."""
        self.is_right(self.count - 1, UNKNOWN)

    def is_right(self, number: int, answer: str) -> bool:
        """Whether an answer to a problem is right."""
        return _graded(self, number, answer)


EXAMPLES = 20
"""Training problems among which the shortest is shown as an example."""
UNKNOWN = "0"
"""Stands for an answer where only a verifier knows the right ones."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProblemState(State):
    """Before the problem is drawn, before it is answered, or after."""

    verbatim: ClassVar[bool] = True

    game: ProblemGame
    number: int | None = None
    answer: str | None = None

    @property
    def current_player(self) -> int:
        """Chance, then the player."""
        return CHANCE if self.number is None else 0 if self.answer is None else TERMINAL

    def chance_outcomes(self) -> tuple[tuple[str, float], ...]:
        """Every problem, equally likely."""
        return _outcomes(self.game.count) if self.number is None else ()

    def legal_actions(self) -> tuple[str, ...]:
        """The letters of the choices; "0" where any text is an answer."""
        if self.number is None or self.answer is not None:
            return ()
        choices = self.game.problem(self.number).choices
        return (UNKNOWN,) if choices is None else tuple(LETTERS[: len(choices)])

    def is_legal(self, action: str) -> bool:
        """Any answer, right or wrong, but no empty one."""
        return self.current_player == 0 and is_answer(action)

    def apply(self, action: str) -> ProblemState:
        """Draw a problem, or answer it."""
        if self.number is None:
            if not (action.isascii() and action.isdecimal() and len(action) <= len(str(self.game.count))):
                raise self.refuse(action)
            if action != str(int(action)) or int(action) >= self.game.count:
                raise self.refuse(action)
            return dataclasses.replace(self, number=int(action))
        if not self.is_legal(action):
            raise self.refuse(action)
        return dataclasses.replace(self, answer=action)

    def observation(self, player: int, style: Style = "full") -> str:
        """The prompt, the same in both styles; after the answer also its grade and what was expected."""
        if self.number is None:
            return "No problem has been drawn yet."
        prompt = self.game.prompt(self.number)
        if self.answer is None:
            return prompt
        expected = self.game.problem(self.number).answer
        known = f"; expected: {expected}" if expected else ""
        verdict = "right" if self.game.is_right(self.number, self.answer) else f"wrong{known}"
        return f"{prompt}\n\nThe answer {self.answer} is {verdict}."

    def information_state(self, player: int) -> str:
        """The problem and the answer."""
        return json.dumps([self.number, self.answer])

    def returns(self) -> tuple[float, ...]:
        """1 for a right answer, 0 for a wrong one."""
        if self.number is None or self.answer is None:
            return (0.0,)
        return (1.0 if self.game.is_right(self.number, self.answer) else 0.0,)


def is_answer(action: str) -> bool:
    """Whether an action can be an answer, right or wrong: a text that is neither empty nor overlong."""
    return 0 < len(action) <= MAX_ANSWER and action == action.strip()


def is_held_out(question: str, share: float) -> bool:
    """Whether a question is among the share that is held out; the larger share holds out the smaller one's too."""
    digest = hashlib.blake2b(" ".join(question.split()).encode(errors="replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little") < share * 2**64


def _load(name: str, parameters: dict[str, Any]) -> Game:
    return game_class(name)(**parameters)


def _in_split(game: ProblemGame, question: str) -> bool:
    return game.split == "all" or is_held_out(question, game.held_out) == (game.split == "held_out")


@functools.lru_cache(maxsize=64)
def _outcomes(count: int) -> tuple[tuple[str, float], ...]:
    return tuple((str(number), 1 / count) for number in range(count))


@functools.lru_cache(maxsize=16)
def _listed(game: ProblemGame) -> tuple[Problem, ...]:
    """The problems of a file or data set that are in the game's split."""
    name = game.task_name
    if game.data:
        kind = "choice" if has_choices(Path(game.data)) else "answer"
        task = Task(name=name, size=0, kind=kind)  # type: ignore[arg-type]
        problems = load_problems(task, Path(game.data))
    else:
        try:
            problems = load_problems(TRAINING_SETS[name])
        except ValueError as error:
            raise ValueError(str(error).replace("--data FILE", f"{game.name}?data=FILE")) from error
    found = tuple(problem for problem in problems if _in_split(game, problem.question))
    if not found:
        raise ValueError(
            f"{game.name}: none of {len(problems)} problems is in the split {game.split!r} with held_out ="
            f" {game.held_out}; give more problems or another share"
        )
    return found


@functools.lru_cache(maxsize=50_000)
def _generated(game: ProblemGame, number: int) -> Problem:
    """The first problem from the number's own seeds that is in the game's split."""
    task = game.task_name
    for seed in range(FIRST_SEED + number * TRIES, FIRST_SEED + (number + 1) * TRIES):
        ((question, answer),) = generate_problems(task, 1, seed, game.level)
        if _in_split(game, question):
            return Problem(id=str(seed), question=question, answer=answer, generated=(1, seed, 0))
    raise ValueError(
        f"{game.name}: no problem of {TRIES:,} is in the split {game.split!r} with held_out = {game.held_out}, since"
        " the task has few different questions; give another share"
    )


@functools.lru_cache(maxsize=50_000)
def _graded(game: ProblemGame, number: int, answer: str) -> bool:
    problem, reply, pool = game.problem(number), f"\\boxed{{{answer}}}", shared_pool()
    if problem.generated is not None:
        items, seed, index = problem.generated
        item = VerifierItem(reply=reply, task=game.task_name, items=items, seed=seed, index=index, level=game.level)
        return pool.verify(item).correct
    return pool.grade_one(
        GradingItem(
            reply=reply,
            answer=problem.answer,
            alt_answers=problem.alt_answers,
            choices=problem.choices,
            tolerance=problem.tolerance,
        )
    ).correct
