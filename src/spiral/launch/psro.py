"""Policy-space response oracles (PSRO; Lanctot et al., 2017): a population that grows by best responses to itself.

Each iteration finds a meta-strategy over the population, each player's share of every policy, trains a response to the
mixture of these policies, and adds it. The response is an ordinary run of the recipe with one opponent, the mixture, as
a table of its probabilities. The first policy is the recipe's model as it is.

    DIR/psro.json               the population, its payoffs and every iteration, written anew after each
    DIR/mixture-001.json ...    the mixture that each response plays
    DIR/response-001/ ...       the run of each response

Payoffs and exploitability are exact, from the policies' probabilities in every information state, so the recipe has one
game with hidden information and exact theory: Kuhn poker, Leduc poker.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spiral.core.locks import Lock
from spiral.core.seeds import derive_seed
from spiral.evaluation.population import (
    META_SOLVERS,
    exploitability,
    meta_strategy,
    payoff,
    payoffs,
    policy_array,
    population_tree,
)
from spiral.games import load_game
from spiral.launch.lifecycle import execute
from spiral.launch.series import begin_or_resume, refuse_changed, refuse_used, save_series
from spiral.policies.opponents import OpponentConfig
from spiral.policies.registry import PolicyOptions, load_language_policy
from spiral.policies.tables import TABLE, write_table
from spiral.runs.population import POPULATION, START, check_population, read_population, response_name
from spiral.runs.recipe import Recipe
from spiral.theory.mixture import mixture
from spiral.theory.tree import Floats

MIXTURE = "mixture"
"""The name of a response's opponent."""

Watch = Callable[[dict[str, Any]], None]


@dataclasses.dataclass(kw_only=True)
class Member:
    """A policy of the population."""

    name: str
    model: str
    """The MODEL that it is."""
    method: str
    """How its probabilities were found: exact, scored or sampled."""
    probabilities: list[float]
    """[A] of each action in each information state, in the order of the game's tree."""


class Psro:
    """The population of a recipe in a directory, and the iterations that made it."""

    def __init__(self, recipe: Recipe, path: Path, *, solver: str) -> None:
        """Check the recipe.

        Raises:
            ValueError: It has several games or one without exact payoffs, opponents of its own, or no such solver.
        """
        if solver not in META_SOLVERS:
            raise ValueError(f"got the meta-solver {solver!r}; expected {', '.join(META_SOLVERS)}")
        games = [game for game, weight in recipe.selfplay.games.items() if weight]
        if len(games) != 1:
            raise ValueError(f"selfplay.games has {', '.join(games)}; a population has one game, so keep one of them")
        chosen = recipe.selfplay
        if chosen.opponents != {"mirror": 1.0} or chosen.opponent_sampler != "fixed" or recipe.opponent:
            raise ValueError(
                "the recipe has opponents of its own, but a response plays the population; leave selfplay.opponents,"
                " selfplay.opponent_sampler and [opponent] out"
            )
        if recipe.sampling.temperature != 1 or recipe.sampling.top_p != 1:
            raise ValueError(
                f"sampling.temperature is {recipe.sampling.temperature:g} and sampling.top_p {recipe.sampling.top_p:g};"
                " payoffs are those of the policies at temperature 1 and top_p 1, so set both to 1"
            )
        if recipe.prompt.history == "chat":
            raise ValueError(
                "prompt.history is 'chat', with which a move depends on earlier replies and not on the state alone;"
                " payoffs are exact, so set it to 'observation'"
            )
        self.recipe, self.path, self.solver = recipe, path, solver
        self.game = load_game(games[0])
        self.tree = population_tree(self.game)
        self.members: list[Member] = []
        self.iterations: list[dict[str, Any]] = []
        self.lock: Lock | None = None
        """That of the directory, which this process must hold to save."""

    @property
    def arrays(self) -> list[Floats]:
        """The probabilities of all policies, [A] each."""
        return [np.array(member.probabilities) for member in self.members]

    def begin(self) -> None:
        """Begin a new population.

        Raises:
            ValueError: The directory has one already.
        """
        refuse_used(self.path / POPULATION, "population")
        self._add(START, self.recipe.model.path)
        self.save()

    def load(self) -> None:
        """Load what `save` has written.

        Raises:
            ValueError: It cannot be read, or is of other settings.
        """
        file = self.path / POPULATION
        saved = read_population(self.path)
        check_population(self.path, saved)
        refuse_changed(file, saved["recipe"], self.recipe, {"solver": self.solver}, saved)
        if any("shares_by_player" not in iteration for iteration in saved["iterations"]):
            raise ValueError(
                f"{file} was made by an earlier version, whose players had their shares in common; begin in another"
                " --run-dir"
            )
        self.members = [Member(**member) for member in saved["members"]]
        actions = len(self.tree.infoset_A)
        for member in self.members:
            if len(member.probabilities) != actions:
                raise ValueError(
                    f"{file} is damaged: {member.name} has {len(member.probabilities)} probabilities, and the game"
                    f" {actions} actions in all information states; put a good copy back, or begin in another --run-dir"
                )
        for member in self.members[1:]:  # the directory may have been moved since
            member.model = f"{self.path / member.name}@{self.recipe.run.steps}"
        self.iterations = list(saved["iterations"])

    def save(self) -> None:
        """Write everything to `psro.json`."""
        save_series(self.path / POPULATION, self.to_json() | {"recipe": self.recipe.model_dump()}, self.lock)

    def to_json(self) -> dict[str, Any]:
        """The population and its iterations, as plain data."""
        return {
            "game": self.game.spec,
            "solver": self.solver,
            "members": [dataclasses.asdict(member) for member in self.members],
            "iterations": self.iterations,
        }

    def solve(self) -> dict[str, Any]:
        """Return the meta-strategy of the population as it is, its exploitability and payoffs."""
        shares = meta_strategy(self.tree, self.arrays, self.solver)
        by_player = [
            {member.name: float(share) for member, share in zip(self.members, own, strict=True)} for own in shares
        ]
        return {
            "iteration": len(self.members) - 1,
            "shares": {name: (by_player[0][name] + by_player[1][name]) / 2 for name in by_player[0]},
            "shares_by_player": by_player,
            "exploitability": exploitability(self.tree, self._mixture(by_player)),
            "payoffs": payoffs(self.tree, self.arrays).tolist(),
        }

    def _mixture(self, by_player: Sequence[Mapping[str, float]]) -> Floats:
        """The policy that plays as the mixture of the population so far, [A]."""
        return mixture(self.tree, self.arrays, [list(own.values()) for own in by_player])

    def grow(self, found: Mapping[str, Any]) -> float:
        """Train a response to a meta-strategy and add it; return what it wins against the mixture."""
        number = len(self.members)
        name = response_name(number)
        directory, file = self.path / name, self.path / f"{MIXTURE}-{number:03d}.json"
        mixed = self._mixture(found["shares_by_player"])
        write_table(file, self.game, self.tree, mixed)
        recipe = self._response(number, file)
        run = begin_or_resume(recipe, directory)
        try:
            run = execute(run, lambda _step, _metrics: None)
        finally:
            run.close()
        self._add(name, f"{directory}@{recipe.run.steps}")
        return payoff(self.tree, self.arrays[-1], mixed)

    def _response(self, number: int, file: Path) -> Recipe:
        """The recipe of a response, which plays the mixture in a file."""
        seed = derive_seed(self.recipe.run.seed, "psro", number) % 2**31
        updates: dict[str, Any] = {
            "selfplay": self.recipe.selfplay.model_copy(update={"opponents": {MIXTURE: 1.0}}),
            "opponent": {MIXTURE: OpponentConfig(model=f"{TABLE}{file}")},
            "run": self.recipe.run.model_copy(update={"seed": seed}),
        }
        return self.recipe.model_copy(update=updates)

    def _add(self, name: str, model: str) -> None:
        options = PolicyOptions(device=self.recipe.model.device, compute=self.recipe.model.compute, name=name)
        settings = dataclasses.replace(
            options,
            template=self.recipe.prompt.template,
            observation=self.recipe.prompt.observation,
            thinking=self.recipe.prompt.thinking,
            example=self.recipe.prompt.example,
            history="observation",
            max_new_tokens=self.recipe.sampling.max_new_tokens,
        )
        policy = load_language_policy(model, settings)
        try:
            found, method = policy_array(policy, self.game, self.recipe.run.seed)
        finally:
            policy.close()
        self.members.append(Member(name=name, model=model, method=method, probabilities=found.tolist()))


def run_psro(psro: Psro, iterations: int, target: float, watch: Watch) -> Psro:
    """Grow a population by responses until it has `iterations` of them, or is exploitable by at most `target`.

    Args:
        psro: A population that was begun or loaded.
        iterations: Number of responses.
        target: Exploitability of the mixture at which to stop, in the game's units.
        watch: Called with every meta-strategy when it is found, and again when it has a response.

    Returns:
        The population, whose last meta-strategy has no response.
    """
    while True:
        done = len(psro.iterations)
        if done < len(psro.members):  # not yet solved as it is
            psro.iterations.append(psro.solve())
            psro.save()
        found = psro.iterations[-1]
        watch(found)
        if len(psro.members) > iterations or found["exploitability"] <= target:
            return psro
        found["response_gain"] = psro.grow(found)
        psro.save()
        watch(found)
