"""A recipe: the configuration of one complete run, from a TOML file and the command line.

    recipe = load_recipe("nano", overrides=["learner.epochs=3"])

A recipe is a built-in name (`spiral recipes`) or a TOML file. Unknown keys, wrong types and impossible values are
errors that name the key.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import Field, ValidationError

from spiral.core.plugins import resolve
from spiral.core.settings import MAX_SHOWN, Section, shortened, shown
from spiral.evaluation.reasoning.settings import BenchmarkConfig
from spiral.evaluation.reasoning.tasks import load_task
from spiral.evaluation.settings import EvaluationConfig
from spiral.games import load_game
from spiral.games.registry import ADAPTERS, NATIVE_GAMES
from spiral.inference.settings import EngineConfig, resolved
from spiral.models.settings import ModelConfig
from spiral.policies import SamplingConfig
from spiral.policies.endpoint.config import ENDPOINT, load_endpoint
from spiral.policies.registry import check_policy_name
from spiral.rollout.matchmaking import SelfPlayConfig, make_sampler
from spiral.rollout.opponents.base import MIRROR
from spiral.rollout.rewards import load_reward
from spiral.runs.cluster import ClusterConfig
from spiral.runs.guards import find_guard
from spiral.runs.hardware import HardwareConfig
from spiral.runs.trackers import find_tracker
from spiral.text import PromptConfig
from spiral.training.advantages import ESTIMATORS, CreditConfig, load_estimator
from spiral.training.settings import LearnerConfig, LoraConfig, LossConfig, RunConfig

DIRECTORY = Path(__file__).parents[1] / "recipes"
"""The built-in recipes."""

RENAMED = {"learner": {"final_learning_rate": "final_learning_rate_share"}}
"""By section: what settings were called in earlier versions, whose recipes and runs still load, and their names now."""
_ITEM = re.compile(r"""(?:[^,("']|\([^)]*\)|"[^"]*"|'[^']*')+""")
"""An item of a list: up to a comma that is not in brackets or quotes."""
_VALUE = re.compile(r"=[^=()]*$")
"""The value at the end of `kuhn_poker(hands=5)=2`; there is none in `kuhn_poker(hands=5)`."""
NANO_KNOWS = (
    f"it knows {', '.join(NATIVE_GAMES)}, and no English; train on one of these, or a model that reads English, such as"
    " --model smollm2 (`spiral models`)"
)
"""What the built-in model can play."""
MAX_FAULTS = 3
"""Faults of a recipe that one error names; it counts the others."""


class Recipe(Section):
    """All sections of a run."""

    summary: str = Field("", description="One line for `spiral recipes`.")
    run: RunConfig = Field(default_factory=RunConfig, description="Length, seed and what to keep.")
    model: ModelConfig = Field(default_factory=ModelConfig, description="The model that is trained.")
    prompt: PromptConfig = Field(default_factory=PromptConfig, description="How games are put to the model.")
    sampling: SamplingConfig = Field(default_factory=SamplingConfig, description="How replies are sampled.")
    engine: EngineConfig = Field(default_factory=EngineConfig, description="What generates the replies.")
    selfplay: SelfPlayConfig = Field(default_factory=SelfPlayConfig, description="Which games, and how many.")
    credit: CreditConfig = Field(default_factory=CreditConfig, description="From returns to advantages.")
    loss: LossConfig = Field(default_factory=LossConfig, description="What is minimised.")
    learner: LearnerConfig = Field(default_factory=LearnerConfig, description="How weights are updated.")
    lora: LoraConfig = Field(default_factory=LoraConfig, description="Low-rank training instead of all parameters.")
    hardware: HardwareConfig = Field(default_factory=HardwareConfig, description="What the run is planned for.")
    cluster: ClusterConfig = Field(
        default_factory=ClusterConfig, description="How many processes the run is spread over."
    )
    evaluation: EvaluationConfig = Field(
        default_factory=EvaluationConfig, description="What is measured before and after."
    )
    benchmark: BenchmarkConfig = Field(
        default_factory=BenchmarkConfig, description="Reasoning benchmarks before and after."
    )


def recipe_files() -> tuple[Path, ...]:
    """The built-in recipes, in the order of their names."""
    return tuple(sorted(DIRECTORY.glob("*.toml")))


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe called `name`, or in the TOML file `name`, with `section.key=value` overrides applied in order.

    Raises `ValueError` with one line that names the fault and how to mend it.
    """
    path = Path(name) if name.endswith(".toml") else DIRECTORY / f"{name}.toml"
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(_no_recipe(name)) from error
    except OSError as error:
        raise ValueError(f"cannot read the recipe {name}: {error.strerror}; expected a TOML file") from error
    except (ValueError, RecursionError) as error:
        hint = "; a name that holds / : or ( needs quotes" if "after a key" in str(error) else ""
        raise ValueError(f"{name} is not valid TOML: {shortened(str(error), 200)}{hint}") from error
    return validate_recipe(with_overrides(values, overrides), name)


def _no_recipe(name: str) -> str:
    """What there is instead."""
    known = [file.stem for file in recipe_files()]
    near = difflib.get_close_matches(name[:MAX_SHOWN], known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"there is no recipe {shown(name)}{hint} Known: {', '.join(known)}; or give a .toml file"


def with_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A recipe's values with every `section.key=value` in its place; a value is TOML, or else plain text.

    Where the games are overridden, the recipe's other settings follow (`_follow_games`).
    """
    changed = _renamed(values)
    before = _games(changed)
    named = [_set(changed, override) for override in overrides]
    after = _games(changed)
    if before is not None and after is not None and "selfplay.games" in named:
        _follow_games(changed, named, before, after)
    return changed


def _renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy, two levels deep, with every setting under the name that it has now."""
    changed = {}
    for section, table in values.items():
        names = RENAMED.get(section, {})
        changed[section] = {names.get(key, key): table[key] for key in table} if isinstance(table, dict) else table
    return changed


def _games(values: Mapping[str, Any]) -> list[str] | None:
    """The games that are trained on, or None where the values do not say so in a readable way."""
    selfplay = values.get("selfplay")
    games = selfplay.get("games") if isinstance(selfplay, dict) else None
    return list(games) if isinstance(games, dict) else None


def _follow_games(values: dict[str, Any], named: Sequence[str], before: Sequence[str], after: Sequence[str]) -> None:
    """Fits the recipe's own settings to overridden games; what was overridden as well stays as it is.

    Openings of games that are no longer trained on are dropped. What measured the games of before measures those of
    now; exploitability, which not every game has, is only dropped.
    """
    removed = set(before) - set(after)
    plies = values["selfplay"].get("opening_plies")
    if isinstance(plies, dict) and "selfplay.opening_plies" not in named:
        values["selfplay"]["opening_plies"] = {game: plies[game] for game in plies if game not in removed}
    evaluation = values.get("evaluation")
    if not isinstance(evaluation, dict):
        return
    for key in ("games", "exploitability"):
        measured = evaluation.get(key)
        if isinstance(measured, list) and f"evaluation.{key}" not in named:
            kept = [game for game in measured if game not in removed]
            added = [game for game in after if game not in [*before, *kept]] if key == "games" and measured else []
            evaluation[key] = [*kept, *added]


def validate_recipe(values: Mapping[str, Any], source: str) -> Recipe:
    """Checks every key, and everything by name that can be checked before a model is loaded.

    Raises `ValueError` with one line.
    """
    try:
        recipe = Recipe.model_validate(_renamed(values))
    except ValidationError as error:
        faults = error.errors()
        more = f"; and {len(faults) - MAX_FAULTS:,} more faults" if len(faults) > MAX_FAULTS else ""
        raise ValueError(f"{source}: {'; '.join(_fault(item) for item in faults[:MAX_FAULTS])}{more}") from error
    _check_games(recipe, source)
    _check_sampling(recipe, source)
    _check_sleep(recipe, source)
    recipe = _with_devices(recipe, source)
    _check_opponents(recipe.selfplay, source, recipe.cluster.rollout_workers)
    _check_evaluation(recipe.evaluation, source)
    for task in recipe.benchmark.tasks:
        try:
            load_task(task)
        except ValueError as error:
            raise ValueError(f"{source}: benchmark.tasks: {error}") from error
    _check_estimator(recipe.credit, source)
    _check_watching(recipe.run, source)
    return recipe.model_copy(update={"engine": resolved(recipe.engine)})


def _check_games(recipe: Recipe, source: str) -> None:
    """Games that exist, with weights that share out a step's episodes, and openings of these games only."""
    weights = recipe.selfplay.games
    for section, names in (("selfplay", weights), ("evaluation", recipe.evaluation.games)):
        for game in names:
            try:
                load_game(game)
            except ValueError as error:
                raise ValueError(f"{source}: {section}.games: {error}") from error
    if recipe.model.path == "nano":
        _refuse_foreign(weights, source)
    if sum(weights.values()) <= 0 or min(weights.values()) < 0:
        raise ValueError(f"{source}: selfplay.games got weights {shown(weights)}; expected some above zero, none below")
    for game, plies in recipe.selfplay.opening_plies.items():
        if game not in weights or plies < 0:
            near = difflib.get_close_matches(game, weights, n=1) if game not in weights else []
            hint = f"did you mean {near[0]!r}?" if near else "expected games of selfplay.games, which are"
            listed = "" if near else f" {shortened(', '.join(weights), 200)}, and numbers of at least 0"
            raise ValueError(f"{source}: selfplay.opening_plies got {shortened(game)} = {plies}; {hint}{listed}")


def _refuse_foreign(games: Iterable[str], source: str) -> None:
    """The built-in model and games of other libraries, which are put in words; a user's own game is only warned of."""
    foreign = [game for game in games if game.partition("/")[0] in ADAPTERS]
    if foreign:
        raise ValueError(
            f"{source}: selfplay.games has {shortened(foreign[0])}, which the built-in model nano cannot learn:"
            f" {NANO_KNOWS}"
        )


def _check_sampling(recipe: Recipe, source: str) -> None:
    """Settings under which the loss would not be what it says."""
    if recipe.sampling.temperature == 0:
        raise ValueError(f"{source}: sampling.temperature is 0; training needs a policy that explores, such as 1.0")
    if recipe.sampling.top_p < 1 and recipe.loss.old_logprobs == "behaviour":
        raise ValueError(
            f"{source}: sampling.top_p is {recipe.sampling.top_p} and loss.old_logprobs is 'behaviour'; the learner"
            " does not cut its distribution, so set loss.old_logprobs to 'learner' or sampling.top_p to 1.0"
        )
    if recipe.loss.reference_refresh_steps and not recipe.loss.kl_coefficient:
        raise ValueError(
            f"{source}: loss.reference_refresh_steps is {recipe.loss.reference_refresh_steps}, but loss.kl_coefficient"
            " is 0, so there is no reference; set loss.kl_coefficient, for example to 0.1"
        )


def _check_sleep(recipe: Recipe, source: str) -> None:
    """Engines can sleep only where they have nothing to do while the learner learns."""
    if recipe.engine.sleep and recipe.cluster.rollout_workers and recipe.cluster.schedule != "sync":
        raise ValueError(
            f"{source}: engine.sleep is set and cluster.schedule is {recipe.cluster.schedule!r}, in which engines have"
            " games while the learner learns; set cluster.schedule to 'sync' or engine.sleep to false"
        )


def _with_devices(recipe: Recipe, source: str) -> Recipe:
    """A learner of several processes has a device for each."""
    workers, devices = recipe.cluster.learner_workers, recipe.hardware.devices
    if workers == 1:
        return recipe
    if not recipe.cluster.rollout_workers:
        raise ValueError(
            f"{source}: cluster.learner_workers is {workers} and cluster.rollout_workers is 0, which is a run in one"
            " process; set cluster.rollout_workers to 1 or more"
        )
    if devices not in (1, workers):
        raise ValueError(
            f"{source}: cluster.learner_workers is {workers} and hardware.devices is {devices}; expected the same"
        )
    return recipe.model_copy(update={"hardware": recipe.hardware.model_copy(update={"devices": workers})})


def _check_opponents(config: SelfPlayConfig, source: str, workers: int) -> None:
    """Raise `ValueError` for opponents, samplers or rewards that cannot be used."""
    if min(config.opponents.values()) < 0:
        raise ValueError(
            f"{source}: selfplay.opponents got weights {shown(config.opponents)}; expected none below zero"
        )
    for name in config.opponents:
        try:
            if name != MIRROR:
                check_policy_name(name, [MIRROR])
                _check_limits(name, workers)
        except ValueError as error:
            raise ValueError(f"{source}: selfplay.opponents: {error}") from error
    try:
        sampler = make_sampler(config)
        for game in map(load_game, config.games):
            if game.num_players > 1:
                sampler.known(game)
    except ValueError as error:
        raise ValueError(f"{source}: selfplay.opponents: {error}") from error
    try:
        load_reward(config.reward, config.reward_options)
    except ValueError as error:
        raise ValueError(f"{source}: selfplay.reward: {error}") from error


def _check_limits(name: str, workers: int) -> None:
    """An endpoint's limits are kept by each process for itself."""
    endpoint = load_endpoint(name.removeprefix(ENDPOINT)) if name.startswith(ENDPOINT) and workers else None
    if endpoint is not None and (endpoint.requests_per_minute or endpoint.budget.spend_limit is not None):
        raise ValueError(
            f"{name} has a spend_limit or requests_per_minute, and each of {workers} rollout workers would keep it for"
            " itself; take them out of endpoints.toml, or set cluster.rollout_workers to 0"
        )


def _check_estimator(credit: CreditConfig, source: str) -> None:
    """Raises `ValueError` for an estimator that cannot be imported, or that does not take its options."""
    setting = "credit.estimator"
    try:
        resolve("advantages", credit.estimator, ESTIMATORS)
        setting = "credit.options"
        load_estimator(credit.estimator, credit.options)
    except ValueError as error:
        raise ValueError(f"{source}: {setting}: {error}") from error


def _check_watching(config: RunConfig, source: str) -> None:
    """Trackers and guards that exist, with options that they have."""
    for kind, named, options, check in (
        ("tracker", config.trackers, config.tracker_options, find_tracker),
        ("guard", config.guards, config.guard_options, find_guard),
    ):
        for name in options:
            if name not in named:
                raise ValueError(f"{source}: run.{kind}_options has {name!r}, which run.{kind}s does not name")
        for name in named:
            try:
                check(name, options.get(name, {}))
            except ValueError as error:
                raise ValueError(f"{source}: run.{kind}s: {error}") from error


def _check_evaluation(config: EvaluationConfig, source: str) -> None:
    """What would otherwise stop a run at its first measurement."""
    for name in config.opponents:
        try:
            check_policy_name(name)
        except ValueError as error:
            raise ValueError(f"{source}: evaluation.opponents: {error}") from error
    for key in ("episodes", "episodes_between"):
        if getattr(config, key) % 2:
            raise ValueError(
                f"{source}: evaluation.{key} is {getattr(config, key)}; expected an even number, half for each seat"
            )
    for spec in config.exploitability:
        game = load_game(spec)
        if not game.exact_theory:
            raise ValueError(
                f"{source}: evaluation.exploitability has {spec!r}, which exact theory does not cover;"
                " expected games that `spiral games` marks so, such as 'kuhn_poker'"
            )


def _set(values: dict[str, Any], override: str) -> str:
    """Puts one override in its place and returns the name of its setting."""
    key, equals, text = override.partition("=")
    section, dot, field = (part.strip() for part in key.partition("."))
    if not equals or not dot or not field:
        raise ValueError(f"got --set {shown(override)}; expected section.key=value, such as learner.epochs=2")
    field = RENAMED.get(section, {}).get(field, field)
    name = f"{section}.{field}"
    table = values.setdefault(section, {})
    if not isinstance(table, dict):
        raise ValueError(f"got --set {shown(override)}; {section!r} is not a section")
    table[field] = _parsed(name, text)
    return name


def _parsed(name: str, text: str) -> object:
    """The value of a setting on the command line: TOML, `NAME=VALUE, ...` for a table, or plain text."""
    value = _parsed_alone(text)
    if not isinstance(value, str):
        return value
    kind = _table_of(name)
    if text.lstrip().startswith(("{", "[")):
        example = f'{name}=["tictactoe"]' if kind is None else f'{name}={{"openspiel/liars_dice"=1}}'
        also = "" if kind is None else f" or, without braces, {name}=openspiel/liars_dice=1"
        raise ValueError(
            f"{name}: got {shown(text)}, which is not valid TOML; a name that holds / : or ( needs quotes, as does any"
            f" text in a list: {example}{also}"
        )
    return value if kind is None or not value else _table(name, value, kind)


def _parsed_alone(text: str) -> object:
    """A TOML value, or the text itself where it is not TOML."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        parsed = {}
    return parsed["value"] if list(parsed) == ["value"] else text


def _table_of(name: str) -> type | None:
    """The type of the values of a setting that is a table; None for any other setting."""
    section, _, field = name.partition(".")
    info = Recipe.model_fields.get(section)
    fields = getattr(info.annotation, "model_fields", {}) if info is not None else {}
    annotation = fields[field].annotation if field in fields else None
    return get_args(annotation)[1] if get_origin(annotation) is dict else None


def _table(name: str, text: str, kind: type) -> dict[str, object]:
    """`mirror=3, runs/r1@15=1` as a table. Without a value, a weight is 1, a text empty and an option true."""
    table: dict[str, object] = {}
    for item in _ITEM.findall(text):
        key, equals, value = item.rpartition("=") if _VALUE.search(item) else (item, "", "")
        plain = key.strip().strip("'\"")
        if plain in table:
            raise ValueError(f"{name}: got {shown(plain)} twice; expected every name once")
        try:
            if kind is object:
                table[plain] = _parsed_alone(value.strip()) if equals else True
            else:
                table[plain] = kind(value.strip().strip("'\"")) if equals or kind is str else kind(1)
        except ValueError as error:
            raise ValueError(f"{name}: got {shown(item.strip())}; expected NAME=NUMBER, NAME=NUMBER, ...") from error
    return table


def _fault(item: Any) -> str:
    """One pydantic fault as `section.key: what is wrong`."""
    where = shortened(".".join(str(part) for part in item["loc"]))
    if item["type"] == "extra_forbidden":
        section = Recipe.model_fields.get(str(item["loc"][0]))
        known = list(Recipe.model_fields)
        if len(item["loc"]) > 1 and section is not None and isinstance(section.annotation, type):
            known = list(section.annotation.model_fields)
        near = difflib.get_close_matches(str(item["loc"][-1])[:MAX_SHOWN], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        return f"unknown key {where!r}; {hint}"
    return f"{where}: got {shown(item['input'])}; {shortened(item['msg'][0].lower() + item['msg'][1:], 400)}"
