"""A recipe: the configuration of one complete run, from a TOML file and the command line.

    recipe = load_recipe("nano", overrides=["learner.epochs=3"])

A recipe is a built-in name (`spiral recipes`) or a TOML file. Unknown keys, wrong types and impossible values are
errors that name the key.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self, get_args

from pydantic import Field, ValidationError, model_validator

from spiral.core.plugins import resolve
from spiral.core.settings import MAX_SHOWN, Section, shortened, shown
from spiral.evaluation.reasoning.settings import BenchmarkConfig
from spiral.evaluation.reasoning.shots import shots_of_tasks
from spiral.evaluation.reasoning.tasks import load_task
from spiral.evaluation.settings import EvaluationConfig
from spiral.games import load_game
from spiral.games.registry import ADAPTERS
from spiral.inference.settings import EngineConfig, resolved
from spiral.models.hub import NotHereError
from spiral.models.settings import ModelConfig
from spiral.policies import SamplingConfig
from spiral.policies.endpoint.config import ENDPOINT, load_endpoint
from spiral.policies.opponents import OpponentConfig, opponent_model
from spiral.policies.registry import check_policy_name
from spiral.policies.scripted import can_play
from spiral.rollout.curriculum.loading import CurriculumConfig, find_curriculum, make_curriculum
from spiral.rollout.matchmaking import SelfPlayConfig
from spiral.rollout.opponents.base import OWN
from spiral.rollout.opponents.loading import SAMPLERS, find_sampler, make_sampler
from spiral.rollout.rewards import REWARDS, check_reward
from spiral.runs.answers import AnswerConfig
from spiral.runs.cluster import WEIGHT_TRANSPORTS, ClusterConfig
from spiral.runs.guards import Guards
from spiral.runs.hardware import HardwareConfig
from spiral.runs.overrides import TABLES, with_overrides, written_list
from spiral.runs.rules import ANCHOR
from spiral.runs.trackers import find_tracker
from spiral.text import PromptConfig
from spiral.training.advantages import ESTIMATORS, GROUP_ESTIMATORS, CreditConfig, load_estimator
from spiral.training.settings import (
    BUILTIN_LOSSES,
    NLL,
    LearnerConfig,
    LoraConfig,
    LossConfig,
    RunConfig,
    SftConfig,
)

DIRECTORY = Path(__file__).parents[1] / "recipes"
"""The built-in recipes."""

TAUGHT = {
    "nano": ("tictactoe", "kuhn_poker", "simple_negotiation", "leduc_poker", "connect_four"),
    "nano-think": ("nim",),
}
"""The games that each built-in model was taught to play at random."""
MAX_FAULTS = 3
"""Faults of a recipe that one error names; it counts the others."""


class Recipe(Section):
    """All sections of a run."""

    summary: str = Field("", description="One line for `spiral recipes`.")
    run: RunConfig = Field(default_factory=RunConfig, description="Length, seed and what to keep.")
    model: ModelConfig = Field(default_factory=ModelConfig, description="The model that is trained.")
    prompt: PromptConfig = Field(default_factory=PromptConfig, description="How games become prompts.")
    sampling: SamplingConfig = Field(default_factory=SamplingConfig, description="How replies are sampled.")
    engine: EngineConfig = Field(default_factory=EngineConfig, description="What generates the replies.")
    selfplay: SelfPlayConfig = Field(default_factory=SelfPlayConfig, description="Which games, and how many.")
    curriculum: CurriculumConfig = Field(
        default_factory=CurriculumConfig, description="How the games of a step change with what was learned."
    )
    opponent: dict[str, OpponentConfig] = Field(
        default_factory=dict,
        description="How the opponent NAME plays; left out: as its card says, or else as the policy does.",
    )
    credit: CreditConfig = Field(default_factory=CreditConfig, description="From returns to advantages.")
    loss: LossConfig = Field(default_factory=LossConfig, description="The loss that is minimised.")
    sft: SftConfig = Field(default_factory=SftConfig, description="The expert games of `spiral sft`.")
    learner: LearnerConfig = Field(default_factory=LearnerConfig, description="How weights are updated.")
    lora: LoraConfig = Field(default_factory=LoraConfig, description="Low-rank training instead of all parameters.")
    answer: AnswerConfig = Field(default_factory=AnswerConfig, description="What the answers of guards do.")
    hardware: HardwareConfig = Field(default_factory=HardwareConfig, description="What the run is planned for.")
    cluster: ClusterConfig = Field(default_factory=ClusterConfig, description="The processes of the run.")
    evaluation: EvaluationConfig = Field(
        default_factory=EvaluationConfig, description="Evaluations before, during and after training."
    )
    benchmark: BenchmarkConfig = Field(
        default_factory=BenchmarkConfig, description="Reasoning benchmarks before, during and after training."
    )

    @model_validator(mode="after")
    def _sampling_can_be_learned_from(self) -> Self:
        """The loss needs a policy that explores, and the distribution that was sampled from."""
        if self.sampling.temperature == 0:
            raise ValueError("sampling.temperature is 0; training needs a policy that explores, such as 1.0")
        if self.sampling.top_p < 1 and self.loss.old_logprobs == "behaviour":
            raise ValueError(
                f"sampling.top_p is {self.sampling.top_p} and loss.old_logprobs is 'behaviour'; the learner does not"
                " cut its distribution, so set loss.old_logprobs to 'learner' or sampling.top_p to 1.0"
            )
        if self.sampling.top_p < 1 and self.loss.kind == "dppo":
            raise ValueError(
                f"sampling.top_p is {self.sampling.top_p} and loss.kind is 'dppo', which compares the learner's"
                " distribution with the one that was sampled from; the learner does not cut its own, so set"
                " sampling.top_p to 1.0"
            )
        return self

    @model_validator(mode="after")
    def _theory_needs_single_observations(self) -> Self:
        if self.evaluation.exploitability and self.prompt.history == "chat":
            raise ValueError(
                f"evaluation.exploitability has {shortened(self.evaluation.exploitability[0])!r} and prompt.history is"
                " 'chat', with which a move depends on earlier replies and not on the state alone; set prompt.history"
                " to 'observation', or evaluation.exploitability to []"
            )
        return self

    @model_validator(mode="after")
    def _engines_sleep_only_when_idle(self) -> Self:
        if self.engine.sleep and self.cluster.rollout_workers and self.cluster.schedule != "sync":
            raise ValueError(
                f"engine.sleep is set and cluster.schedule is {self.cluster.schedule!r}, in which engines play games"
                " while the learner learns; set cluster.schedule to 'sync' or engine.sleep to false"
            )
        return self

    @model_validator(mode="after")
    def _rollout_workers_have_the_gpus_of_their_engine(self) -> Self:
        devices, share = self.engine.tensor_parallel, self.cluster.gpus_per_worker
        if devices > 1 and self.cluster.rollout_workers and 0 < share < devices:
            raise ValueError(
                f"engine.tensor_parallel is {devices} and cluster.gpus_per_worker is {share:g}, but a rollout worker"
                f" needs all GPUs of its engine; set cluster.gpus_per_worker to {devices}, or engine.tensor_parallel to"
                f" {max(1, int(share))}"
            )
        return self

    @model_validator(mode="after")
    def _devices_match_learner_workers(self) -> Self:
        workers, devices = self.cluster.learner_workers, self.hardware.devices
        if workers > 1 and devices not in (1, workers):
            raise ValueError(
                f"cluster.learner_workers is {workers} and hardware.devices is {devices}; expected the same"
            )
        return self

    @model_validator(mode="after")
    def _expert_games_have_their_loss(self) -> Self:
        """Fine-tuning runs in one process, on the distribution from which its policy samples."""
        if self.loss.kind != NLL:
            if self.sft.data:
                raise ValueError(
                    f"sft.data names expert games and loss.kind is {self.loss.kind!r}, which learns by self-play; use"
                    f" `spiral sft`, or set loss.kind to {NLL!r}"
                )
            return self
        if self.cluster.rollout_workers:
            raise ValueError(
                f"loss.kind is {NLL!r} and cluster.rollout_workers is {self.cluster.rollout_workers}, but fine-tuning"
                " on expert games runs in one process; set cluster.rollout_workers to 0"
            )
        if self.sampling.temperature != 1:
            raise ValueError(
                f"loss.kind is {NLL!r} and sampling.temperature is {self.sampling.temperature:g}; the likelihood of"
                " expert games is that at temperature 1, so set it to 1.0, and evaluation.temperature for evaluations"
            )
        return self

    @model_validator(mode="after")
    def _answers_can_be_given(self) -> Self:
        """Those that change the run work in one process, on games; a pull needs a reference from the start."""
        for guard, answer in self.answer.guards.items():
            if guard not in self.run.guards:
                raise ValueError(f"answer.guards has {guard!r}, which run.guards does not name; add it there")
            where = f"answer.guards has {guard!r} = {answer!r}"
            if answer in ("anchor", "pull", "rollback") and self.cluster.rollout_workers:
                raise ValueError(
                    f"{where}, which needs a run in one process; set it to 'stop', or cluster.rollout_workers to 0"
                )
            if answer in ("anchor", "pull", "rollback") and self.loss.kind == NLL:
                raise ValueError(f"{where}, which is for self-play, and loss.kind is {NLL!r}; set it to 'stop'")
            if answer == "pull" and not self.loss.kl_coefficient:
                raise ValueError(
                    f"{where}, but loss.kl_coefficient is 0, so there is no reference to pull to; set it to a small"
                    " number, such as 0.001"
                )
        return self

    @model_validator(mode="after")
    def _groups_have_attempts(self) -> Self:
        """Group estimators need several attempts at each deal, all of them in one batch."""
        estimator = self.credit.estimator
        if estimator not in GROUP_ESTIMATORS:
            return self
        if self.selfplay.attempts == 1:
            raise ValueError(
                f"credit.estimator is {estimator!r}, which compares the attempts at one deal, and selfplay.attempts is"
                " 1; set selfplay.attempts to 2 or more, such as 8"
            )
        if self.cluster.rollout_workers and self.cluster.schedule == "async":
            raise ValueError(
                f"credit.estimator is {estimator!r} and cluster.schedule is 'async', which can put the attempts at one"
                " deal into different steps; set cluster.schedule to 'sync' or 'overlap'"
            )
        return self

    @model_validator(mode="after")
    def _games_are_planned_after_those_before(self) -> Self:
        """A curriculum that learns plans a step from the games of the step before, which must then be over."""
        name, cluster = self.curriculum.kind, self.cluster
        if name != "fixed" and cluster.rollout_workers and cluster.schedule != "sync":
            raise ValueError(
                f"curriculum.kind is {name!r} and cluster.schedule is {cluster.schedule!r}, which plans games"
                " before those of the step before are over; set cluster.schedule to 'sync', or curriculum.kind to"
                " 'fixed'"
            )
        return self

    @model_validator(mode="after")
    def _opponents_are_used(self) -> Self:
        """Every table of an opponent is for one that plays; a sampler of the user's own may name any."""
        if self.selfplay.opponent_sampler not in SAMPLERS:
            return self
        listed = [*self.selfplay.opponents, *self.evaluation.opponents]
        for name in self.opponent:
            if name not in listed:
                near = difflib.get_close_matches(name, listed, n=1)
                hint = f"did you mean {near[0]!r}?" if near else "add it to one of them, or remove the table"
                raise ValueError(
                    f"opponent.{shortened(name)} has settings, but {shortened(name)!r} is neither in selfplay.opponents"
                    f" nor in evaluation.opponents; {hint}"
                )
        return self

    @model_validator(mode="after")
    def _built_in_models_play_native_games(self) -> Self:
        """Games of other libraries are in words that the built-in models do not know."""
        foreign = [game for game in self.selfplay.games if game.partition("/")[0] in ADAPTERS]
        if self.model.path in TAUGHT and foreign:
            raise ValueError(
                f"selfplay.games has {shortened(foreign[0])}, which the built-in model {self.model.path} cannot learn:"
                f" {what_it_knows(self.model.path)}"
            )
        return self


def what_it_knows(model: str) -> str:
    """The games of a built-in model, and the way out, as the end of an error or a warning."""
    games = TAUGHT[model]
    which = "it" if len(games) == 1 else "one of these"
    return (
        f"it knows {', '.join(games)}, and no English; train on {which}, or a model that reads English, such as"
        " --model smollm2 (`spiral models`)"
    )


def recipe_files() -> tuple[Path, ...]:
    """The built-in recipes, in the order of their names."""
    return tuple(sorted(DIRECTORY.glob("*.toml")))


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe called `name`, or in the TOML file `name`, with `section.key=value` overrides applied in order.

    Raises:
        ValueError: One line that names the fault and how to fix it.
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
    return validate_recipe(values, name, overrides)


def _no_recipe(name: str) -> str:
    known = [file.stem for file in recipe_files()]
    near = difflib.get_close_matches(name[:MAX_SHOWN], known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"there is no recipe {shown(name)}{hint} Known: {', '.join(known)}; or give a .toml file"


def validate_recipe(values: Mapping[str, Any], source: str, overrides: Sequence[str] = ()) -> Recipe:
    """Applies overrides (`spiral.runs.overrides`) and checks every setting and every name.

    Nothing is loaded or played; `spiral.runs.checks` tries things at launch.

    Raises `ValueError` with one line that begins with the `source` of the values.
    """
    current = with_overrides(values, overrides, Recipe.model_fields)
    try:
        recipe = Recipe.model_validate(current)
    except ValidationError as error:
        faults = error.errors()
        more = f"; and {len(faults) - MAX_FAULTS:,} more faults" if len(faults) > MAX_FAULTS else ""
        raise ValueError(f"{source}: {'; '.join(_fault(item) for item in faults[:MAX_FAULTS])}{more}") from error
    for setting, check in _names(recipe):
        try:
            check()
        except ValueError as error:
            raise ValueError(f"{source}: {setting}: {error}") from error
    recipe = _with_devices(recipe)
    return recipe.model_copy(update={"engine": resolved(recipe.engine)})


def _names(recipe: Recipe) -> Iterator[tuple[str, Callable[[], object]]]:
    """Every setting that names something, and a check that it exists and takes its options. Nothing is played."""
    selfplay, evaluation, run = recipe.selfplay, recipe.evaluation, recipe.run
    for section, games in (
        ("selfplay", list(selfplay.games)),
        ("evaluation", evaluation.games),
        ("sft", recipe.sft.games),
    ):
        for game in games:
            yield f"{section}.games", partial(load_game, game)
    for name, table in recipe.opponent.items():
        yield f"opponent.{shortened(name)}", partial(_check_table, name, table)
    for name in selfplay.opponents:
        if name not in OWN:
            yield (
                "selfplay.opponents",
                partial(_check_opponent, opponent_model(name, recipe.opponent), recipe.cluster.rollout_workers),
            )
    yield "selfplay.opponent_sampler", partial(find_sampler, selfplay.opponent_sampler)
    yield "selfplay.opponent_options", partial(make_sampler, selfplay)
    yield "curriculum.kind", partial(find_curriculum, recipe.curriculum.kind)
    yield "curriculum.options", partial(make_curriculum, recipe.curriculum, selfplay.games)
    yield "selfplay.reward", partial(resolve, "rewards", selfplay.reward, REWARDS)
    yield "selfplay.reward_options", partial(check_reward, selfplay.reward, selfplay.reward_options)
    for game in evaluation.games:
        yield "evaluation.games", partial(_check_evaluated, game)
    for name in evaluation.opponents:
        yield "evaluation.opponents", partial(_check_policy, opponent_model(name, recipe.opponent))
    for game in evaluation.exploitability:
        yield "evaluation.exploitability", partial(_check_exact, game)
    for task in recipe.benchmark.tasks:
        yield "benchmark.tasks", partial(load_task, task)
    yield "benchmark.shots_data", partial(_check_shots, recipe.benchmark)
    yield "credit.estimator", partial(resolve, "advantages", recipe.credit.estimator, ESTIMATORS)
    yield "credit.options", partial(load_estimator, recipe.credit.estimator, recipe.credit.options)
    yield "credit.estimator", partial(_check_values, recipe)
    yield "loss.kind", partial(resolve, "losses", recipe.loss.kind, dict.fromkeys(BUILTIN_LOSSES))
    yield "loss.options", recipe.loss.check
    for name in run.trackers:
        yield "run.trackers", partial(find_tracker, name, run.tracker_options.get(name, {}))
    if recipe.cluster.publish not in ("auto", *WEIGHT_TRANSPORTS):
        yield "cluster.publish", partial(resolve, "weight_transports", recipe.cluster.publish, {})
    yield "answer.anchor", partial(_check_anchor, recipe)
    for name in run.guards:
        yield "run.guards", partial(Guards.from_names, [name], run.guard_options)
    yield "run.guards", partial(_check_anchor_results, recipe)


def _check_policy(name: str, others: Sequence[str] = ()) -> None:
    """Raises `ValueError` for a name that no policy has.

    A hub's model that is out of reach passes, as the model that is trained does: the plan says so, and a start is
    refused. A name in a directory that is here is a misspelt path.
    """
    try:
        check_policy_name(name, others)
    except NotHereError:
        if "/" not in name or Path(name).parent.is_dir():
            raise


def _check_table(name: str, table: OpponentConfig) -> None:
    if name in OWN:
        raise ValueError(f"{name!r} is the policy itself, whose settings are those of the recipe")
    table.check(name)
    _check_policy(table.model or name)


def _check_opponent(name: str, workers: int) -> None:
    """Raises `ValueError` for a name that no policy has, and for limits that a cluster cannot keep."""
    _check_policy(name, OWN)
    endpoint = load_endpoint(name.removeprefix(ENDPOINT)) if name.startswith(ENDPOINT) and workers else None
    if endpoint is not None and (endpoint.requests_per_minute or endpoint.budget.spend_limit is not None):
        raise ValueError(
            f"{name} has a spend_limit or requests_per_minute, and each of {workers} rollout workers would apply it to"
            " itself alone; take them out of endpoints.toml, or set cluster.rollout_workers to 0"
        )


def _check_values(recipe: Recipe) -> None:
    """Raises `ValueError` where values are needed and cannot be learned, or not needed and set."""
    credit = recipe.credit
    if not load_estimator(credit.estimator, credit.options).needs_values:
        for name in ("value_learning_rate", "value_epochs"):
            if getattr(credit, name) != CreditConfig.model_fields[name].default:
                raise ValueError(
                    f"credit.{name} is for estimators that learn values, and {credit.estimator!r} does not; remove it,"
                    " or set credit.estimator to 'gae'"
                )
        return
    if recipe.cluster.rollout_workers:
        raise ValueError(
            f"{credit.estimator!r} learns values, for which the whole model has to be in the process that trains, and"
            f" cluster.rollout_workers is {recipe.cluster.rollout_workers}; set cluster.rollout_workers to 0"
        )
    if recipe.model.compute == "bfloat16":
        raise ValueError(
            f"{credit.estimator!r} learns values, for which the model must not be sharded, and model.compute is"
            " 'bfloat16'; set model.compute to 'float32'"
        )


def _check_anchor(recipe: Recipe) -> None:
    """Raises `ValueError` for an anchor that may have to play a game that it cannot play."""
    name, answers = recipe.answer.anchor, recipe.answer.guards.values()
    for spec, game in ((spec, load_game(spec)) for spec in recipe.selfplay.games if "anchor" in answers):
        if game.num_players > 1 and not can_play(name, game):
            raise ValueError(f"{name!r} cannot play {spec!r}; set answer.anchor to 'random'")


def _check_anchor_results(recipe: Recipe) -> None:
    """Raises `ValueError` for a guard "anchor" that would get no results to compare."""
    if "anchor" not in recipe.run.guards:
        return
    name, evaluation = recipe.run.guard_options.get("anchor", {}).get("opponent", ANCHOR), recipe.evaluation
    if name not in evaluation.opponents:
        raise ValueError(
            f"the guard 'anchor' looks at games against {name!r}, and evaluation.opponents has"
            f" {', '.join(evaluation.opponents) or 'none'}; add it there, or set run.guard_options.anchor.opponent"
        )
    if not evaluation.games or not evaluation.every:
        setting = "evaluation.games" if evaluation.every else "evaluation.every"
        raise ValueError(f"the guard 'anchor' compares evaluations during training; set {setting}")


def _check_evaluated(spec: str) -> None:
    if load_game(spec).num_players == 1:
        raise ValueError(
            f"{spec!r} is a game of 1 player; only games of two players or more can be evaluated against an opponent,"
            " so set evaluation.games without it"
        )


def _check_shots(config: BenchmarkConfig) -> None:
    """Raises `ValueError` for worked examples that no task would use. Their files are read at the start."""
    if config.tasks or config.shots_data:
        shots_of_tasks(list(config.tasks), config.shots, {task: Path(file) for task, file in config.shots_data.items()})


def _check_exact(spec: str) -> None:
    game = load_game(spec)
    if not game.exact_theory:
        raise ValueError(
            f"exact theory does not cover {spec!r}; expected games that `spiral games` marks so, such as 'kuhn_poker'"
        )


def _with_devices(recipe: Recipe) -> Recipe:
    """Gives every learner worker a device, also if the recipe does not say so."""
    workers = recipe.cluster.learner_workers
    if workers == 1:
        return recipe
    return recipe.model_copy(update={"hardware": recipe.hardware.model_copy(update={"devices": workers})})


def _fault(item: Any) -> str:
    """One pydantic fault as `section.key: what is wrong`."""
    where = shortened(".".join(str(part) for part in item["loc"]))
    if item["type"] == "value_error":  # a rule of a section names its settings, that of one setting does not
        return f"{where}: {item['ctx']['error']}" if len(item["loc"]) > 1 else str(item["ctx"]["error"])
    if item["type"] == "extra_forbidden":
        section = Recipe.model_fields.get(str(item["loc"][0]))
        known = list(Recipe.model_fields)
        if len(item["loc"]) > 1 and section is not None:
            kind: Any = section.annotation if len(item["loc"]) == 2 else get_args(section.annotation)[-1]
            known = list(kind.model_fields)
        near = difflib.get_close_matches(str(item["loc"][-1])[:MAX_SHOWN], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        return f"unknown key {where!r}; {hint}"
    return (
        f"{where}: got {shown(item['input'])}; {shortened(item['msg'][0].lower() + item['msg'][1:], 400)}{_how(item)}"
    )


def _how(item: Any) -> str:
    """How to write a list or a table, after a fault that says it is none."""
    value, setting = item["input"], str(item["loc"][-1])
    if item["loc"][0] == "opponent" and len(item["loc"]) < 3:
        return ", with the settings of one opponent in [opponent.NAME], such as [opponent.mistral]"
    if item["type"] == "list_type":
        listed = written_list(value) if isinstance(value, str) and len(value) <= MAX_SHOWN else '["NAME", "OTHER"]'
        return f", such as {listed} (in a shell, --set '{'.'.join(map(str, item['loc'][:2]))}={listed}')"
    if item["type"] == "dict_type" and len(item["loc"]) > 1:
        nested = setting in ("guard_options", "tracker_options")
        return f", such as {TABLES if nested else '{NAME = 3}'}"
    return ""
