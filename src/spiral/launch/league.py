"""A league for one machine, after AlphaStar (Vinyals et al., 2019): a main agent, and exploiters of its weaknesses.

The main agent is one run, trained all along: against itself, its past selves where the recipe has them, and all
exploiters so far. In each round a new exploiter, an ordinary run of the recipe, trains against the newest main agent
alone until it wins a share of the games, or its steps are over. It is frozen, and the main agent's run is resumed with
one opponent more: with its optimizer, its steps and its baselines.

    DIR/league.json          the rounds, written anew after each run
    DIR/main/                the run of the main agent
    DIR/exploiter-001/ ...   the run of each exploiter

One agent trains at a time, so nothing here depends on how fast a machine is. Left out: AlphaStar's league exploiters,
which play all agents, and its exploiters that begin anew from supervised weights after they were frozen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from spiral.core.locks import Lock
from spiral.core.seeds import derive_seed
from spiral.core.steps import latest_checkpoint
from spiral.evaluation.reasoning.settings import BenchmarkConfig
from spiral.games import load_game
from spiral.launch.exploiter import WinRate, execute_and_close, train_until_it_wins
from spiral.launch.series import begin_or_resume, refuse_changed, refuse_used, save_series
from spiral.policies.opponents import SHARED, OpponentConfig
from spiral.rollout.opponents.loading import SAMPLERS
from spiral.runs.directory import read_evaluations, read_metrics
from spiral.runs.evaluation_results import EvaluationResults
from spiral.runs.league import EXPLOITER, LEAGUE, MAIN, exploiter_name, exploiter_result, read_league
from spiral.runs.recipe import Recipe
from spiral.theory.tree import require_two_player_zero_sum
from spiral.training.checkpoint import checkpoint_state
from spiral.training.settings import NLL

PRIORITISED = "pfsp"
"""The sampler that shares out the games against exploiters by win rates."""

Watch = Callable[[dict[str, Any]], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeagueOptions:
    """How exploiters are trained and played."""

    win_rate: float = 0.7
    """Share of its training games that an exploiter has to win to be frozen before its steps are over."""
    exploiter_steps: int
    """Most steps of an exploiter."""
    exploiter_start: Literal["initial", "main"] = "initial"
    """Where exploiters begin: at the recipe's model, or at the newest weights of the main agent."""
    share: float = 0.25
    """Share of the main agent's games that are played against exploiters."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for a number out of its range."""
        if not 0.5 < self.win_rate <= 1:
            raise ValueError(f"got a win rate of {self.win_rate:g}; expected one above 0.5, and at most 1")
        if not 0 < self.share < 1:
            raise ValueError(f"got a share of {self.share:g} for exploiters; expected a number between 0 and 1")
        if self.exploiter_steps < 1:
            raise ValueError(f"got {self.exploiter_steps} steps for an exploiter; expected 1 or more")


class League:
    """The league of a recipe in a directory, with the results of every round."""

    def __init__(self, recipe: Recipe, path: Path, options: LeagueOptions) -> None:
        """Check the recipe.

        Raises:
            ValueError: It has games without an opponent to beat, opponents that clash with those of a league, a sampler
                that cannot take new opponents, or learns expert games.
        """
        if recipe.loss.kind == NLL:
            raise ValueError(f"loss.kind is {NLL!r}, which learns expert games; a league needs a recipe of self-play")
        games = [load_game(game) for game, weight in recipe.selfplay.games.items() if weight]
        for game in games:
            require_two_player_zero_sum(game, "an exploiter can be trained in")
        self.games = [game.spec for game in games]
        """The games in which exploiters play, under the names that they have in metrics and evaluations."""
        _check_opponents(recipe)
        self.recipe, self.path, self.options = recipe, path, options
        self.main: list[dict[str, Any]] = []
        """The main agent after every round, the first without any exploiter."""
        self.exploiters: list[dict[str, Any]] = []
        self.lock: Lock | None = None
        """That of the directory, which this process must hold to save."""

    def begin(self) -> None:
        """Begin a new league.

        Raises:
            ValueError: The directory has one already, or other files.
        """
        refuse_used(self.path / LEAGUE, "league")
        self.save()

    def load(self) -> None:
        """Load what `save` has written; the directory may have been moved since.

        Raises:
            ValueError: It cannot be read, or is of other settings.
        """
        saved = read_league(self.path)
        options = {name.replace("_", "-"): value for name, value in dataclasses.asdict(self.options).items()}
        kept = {name.replace("_", "-"): value for name, value in saved["options"].items()}
        refuse_changed(self.path / LEAGUE, saved["recipe"], self.recipe, options, kept)
        self.main = [{**entry, "model": self._model(MAIN, entry["step"])} for entry in saved["main"]]
        self.exploiters = [
            {**one, "model": self._model(one["name"], one["step"]), "against": entry["model"]}
            for one, entry in zip(saved["exploiters"], self.main, strict=False)
        ]

    def save(self) -> None:
        """Write everything to `league.json`."""
        save_series(self.path / LEAGUE, {**self.to_json(), "recipe": self.recipe.model_dump()}, self.lock)

    def to_json(self) -> dict[str, Any]:
        """The league as plain data, without the recipe."""
        return {
            "games": self.games,
            "options": dataclasses.asdict(self.options),
            "main": self.main,
            "exploiters": self.exploiters,
        }

    def train_main(self) -> dict[str, Any]:
        """Continue training the main agent, against all exploiters too, and evaluate it.

        Returns:
            Its step and model, its exploitability, and what each exploiter won against it, both by game.

        Raises:
            ValueError: Its run has done fewer steps than `league.json` says, or has gone on without the league.
        """
        directory, recipe = self.path / MAIN, self.main_recipe()
        steps = recipe.run.steps
        self._check_main(steps)
        execute_and_close(begin_or_resume(recipe, directory, steps))
        results = _evaluation(directory, steps)
        entry = {
            "step": steps,
            "model": self._model(MAIN, steps),
            "exploitability": {
                row["game"]: row["exploitability"]
                for row in results.exploitability
                if row["game"] in self.games and row["exploitability"] is not None
            },
            "exploiters": {
                one["name"]: self._results(results, one["name"], by_exploiter=False) for one in self.exploiters
            },
        }
        self.main.append(entry)
        self.save()
        return entry

    def train_exploiter(self) -> dict[str, Any]:
        """Train a new exploiter against the newest main agent, and evaluate it.

        Returns:
            Its name, step and model, its opponent, whether it won its share, and its results by game.
        """
        recipe, name = self.exploiter_recipe(), self._next_name()
        directory = self.path / name
        step = train_until_it_wins(recipe, directory, self.options.win_rate)
        entry = {
            "name": name,
            "step": step,
            "model": self._model(name, step),
            "against": self.main[-1]["model"],
            "won": WinRate(recipe, self.options.win_rate, read_metrics(directory)).reached,
            "results": self._results(_evaluation(directory, step), MAIN, by_exploiter=True),
        }
        self.exploiters.append(entry)
        self.save()
        return entry

    def main_recipe(self) -> Recipe:
        """The recipe of the main agent with the exploiters so far, up to the end of its next round.

        `run.steps` are those of a round. All exploiters together have the share of games that is theirs; the recipe's
        own opponents share out the others by their weights.
        """
        recipe, names = self.recipe, [one["name"] for one in self.exploiters]
        if not names:
            return recipe
        run = recipe.run.model_copy(update={"steps": recipe.run.steps * (len(names) + 1)})
        share, own = self.options.share, recipe.selfplay.opponents
        opponents = {name: weight * (1 - share) / sum(own.values()) for name, weight in own.items()}
        options = dict(recipe.selfplay.opponent_options)
        if recipe.selfplay.opponent_sampler == PRIORITISED:
            options["prioritised"] = [*_listed(options.get("prioritised")), *names]
        selfplay = {"opponents": opponents | dict.fromkeys(names, share / len(names)), "opponent_options": options}
        tables = {one["name"]: _shared(one["model"]) for one in self.exploiters}
        evaluated = recipe.evaluation.opponents if recipe.evaluation.games else []
        return recipe.model_copy(
            update={
                "run": run,
                "selfplay": recipe.selfplay.model_copy(update=selfplay),
                "opponent": {**recipe.opponent, **tables},
                "evaluation": recipe.evaluation.model_copy(
                    update={"games": self._evaluated_games(), "opponents": [*evaluated, *names]}
                ),
            }
        )

    def exploiter_recipe(self) -> Recipe:
        """The recipe of the next exploiter, whose only opponent is the newest main agent."""
        recipe, newest = self.recipe, self.main[-1]["model"]
        seed = derive_seed(recipe.run.seed, "league", len(self.exploiters) + 1) % 2**31
        run = {"steps": self.options.exploiter_steps, "seed": seed}
        model = {"path": newest} if self.options.exploiter_start == "main" else {}
        alone = {"opponents": {MAIN: 1.0}, "opponent_sampler": "fixed", "opponent_options": {}}
        evaluation = {"games": self._evaluated_games(), "opponents": [MAIN], "exploitability": [], "every": 0}
        return recipe.model_copy(
            update={
                "run": recipe.run.model_copy(update=run),
                "model": recipe.model.model_copy(update=model),
                "selfplay": recipe.selfplay.model_copy(update=alone),
                "opponent": {MAIN: _shared(newest)},
                "evaluation": recipe.evaluation.model_copy(update=evaluation),
                "benchmark": BenchmarkConfig(),
            }
        )

    def _evaluated_games(self) -> list[str]:
        """The games of evaluations, among them all in which exploiters play."""
        own = [load_game(game).spec for game in self.recipe.evaluation.games]
        return [*dict.fromkeys([*own, *self.games])]

    def _next_name(self) -> str:
        return exploiter_name(len(self.exploiters) + 1)

    def _model(self, agent: str, step: int) -> str:
        """The MODEL of an agent at a step."""
        return f"{self.path / agent}@{step}"

    def _check_main(self, steps: int) -> None:
        """Raises `ValueError` unless the main agent's run is between its last round and `steps`, the end of the next.

        One that was rolled back would train again, against exploiters of its later self.
        """
        directory, known = self.path / MAIN, self.main[-1]["step"] if self.main else 0
        checkpoint = latest_checkpoint(directory / "checkpoints")
        done = 0 if checkpoint is None else int(checkpoint_state(checkpoint)["version"])
        if not known <= done <= steps:
            raise ValueError(
                f"the main agent in {directory} has done {done} steps, and {self.path / LEAGUE} expects {known} to"
                f" {steps}; put back the files that belong together, or begin in another --run-dir"
            )

    def _results(self, found: EvaluationResults, opponent: str, *, by_exploiter: bool) -> dict[str, Any]:
        """What an exploiter won, by game, in the games of an evaluation against `opponent`."""
        return {
            row["game"]: exploiter_result(row, by_exploiter=by_exploiter)
            for row in found.arena
            if row["opponent"] == opponent and row["game"] in self.games
        }


def run_league(league: League, rounds: int, watch: Watch) -> None:
    """Train a league until it has `rounds` exploiters and a main agent trained against all of them.

    Args:
        league: A league that was begun or loaded.
        rounds: Number of exploiters.
        watch: Called with every agent: the earlier ones, then each once it is trained.
    """
    for at, entry in enumerate(league.main):
        watch(entry)
        for exploiter in league.exploiters[at : at + 1]:
            watch(exploiter)
    while True:
        if len(league.main) <= len(league.exploiters):
            watch(league.train_main())
        elif len(league.exploiters) < rounds:
            watch(league.train_exploiter())
        else:
            return


def _check_opponents(recipe: Recipe) -> None:
    """Raises `ValueError` where a recipe's opponents and their sampler do not go with a league's."""
    for name in (*recipe.selfplay.opponents, *recipe.evaluation.opponents, *recipe.opponent):
        if name == MAIN or name.startswith(EXPLOITER):
            raise ValueError(
                f"the recipe has an opponent {name!r}, which is the name of an agent of the league; rename its table"
                " and its entries in selfplay.opponents and evaluation.opponents"
            )
    if recipe.selfplay.opponent_sampler not in SAMPLERS:
        raise ValueError(
            f"selfplay.opponent_sampler is {recipe.selfplay.opponent_sampler!r}, and a league gives its sampler new"
            f" opponents on the way; expected one of {', '.join(SAMPLERS)}"
        )


def _evaluation(directory: Path, step: int) -> EvaluationResults:
    """The evaluation of a run after a step. Raises `ValueError` where it is gone or damaged."""
    found = dict(read_evaluations(directory))
    if step not in found:
        raise ValueError(f"{directory} has no evaluation of step {step}, which it has done; begin in another --run-dir")
    return found[step]


def _shared(model: str) -> OpponentConfig:
    """An agent as an opponent: all agents take turns in one engine, so that they need the memory of one."""
    return OpponentConfig(model=model, engine=SHARED)


def _listed(names: object) -> list[Any]:
    return list(names) if isinstance(names, list | tuple) else []
