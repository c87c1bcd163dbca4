"""`spiral train`: starts a run from a recipe, or resumes one."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from spiral.cli import options as opt
from spiral.cli.errors import FAILED, INTERRUPTED, Stopped, describe_os_error
from spiral.cli.imports import quick_imports
from spiral.cli.output import print_json, program, resume_command
from spiral.core.metrics import Metrics
from spiral.core.printable import printable
from spiral.core.progress import progress_shown
from spiral.core.stopping import stops_interrupt
from spiral.games.failures import UserCodeError
from spiral.inference.settings import vllm_installed
from spiral.models.store import BUILT_IN
from spiral.policies.registry import check_model
from spiral.runs.display import Pace, Watched, make_display, wide_console
from spiral.training.settings import NLL

if TYPE_CHECKING:
    from spiral.launch import Run
    from spiral.runs.recipe import Recipe
    from spiral.text import ChatCodec

logger = logging.getLogger(__name__)

VLLM_HOW = "`pip install vllm` on CUDA, `make .venv-vllm/.ready` on a CPU, and engine.kind='auto' (README, Engines)"
SPREAD = ("cluster.", "hardware.devices")
"""Settings that spread a run over processes. They may change when a run is resumed."""


class TrainCommand(TyperCommand):
    """A command whose help ends with every setting of a recipe."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Prints the options, then one table for each configuration section."""
        from spiral.cli.train_help import section_tables

        super().format_help(ctx, formatter)
        console = wide_console()
        console.print("Settings of a recipe, for a TOML file or --set section.key=value:")
        for heading, table in section_tables():
            console.print()
            console.print(heading)
            console.print(table)


app = typer.Typer(add_completion=False)


@app.command(cls=TrainCommand)
def train(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="A built-in recipe (`spiral recipes`) or a .toml file.")
    ] = None,
    run_dir: opt.RunDir = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps, in place of run.steps.")] = None,
    seed: opt.RunSeed = None,
    model: opt.RunModel = None,
    resume: opt.Resume = False,
    dry_run: opt.DryRun = False,
    settings: opt.Settings = None,
    as_json: opt.Json = False,
) -> None:
    """Train a model by self-play, evaluate it before and after, and show what it has learned.

    All files go to the run directory. Ctrl-C or SIGTERM finishes the current step, writes a checkpoint and prints how
    to resume. With --resume, the same command line begins a run and resumes it, however often it is stopped.
    """
    overrides = overrides_of(settings, steps, seed, model)
    train_recipe(recipe, overrides, run_dir, steps=steps, resume=resume, dry_run=dry_run, as_json=as_json)


def train_recipe(
    recipe: str | None,
    overrides: list[str],
    run_dir: Path | None,
    *,
    steps: int | None = None,
    resume: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Starts, resumes or plans a run of a recipe with overrides; `spiral train` and `spiral sft` are this."""
    if dry_run and (resume or as_json):
        raise ValueError(f"got --dry-run and {'--resume' if resume else '--json'}; use only one of them")
    loaded = None if recipe is None else _load(recipe, overrides)
    if loaded is None and not resume:
        raise ValueError("no recipe; give a name that `spiral recipes` lists, or a .toml file")
    if dry_run and loaded is not None:
        _print_recipe(loaded)
        return
    path = run_dir or _default_run_dir(recipe, loaded)
    _check_path(path, loaded, resume)
    if loaded is not None and not resume:
        check_model(loaded.model.path)

    from spiral.runs.directory import RunDirectory  # loads torch
    from spiral.runs.lock import run_held

    with stops_interrupt(), _stops_explained(path), run_held(path):
        if loaded is None or (resume and RunDirectory(path).begun()):
            run = _resumed(recipe, overrides, path, steps)
        else:
            run = _started(loaded, path, resume)
        _execute(run, as_json)


def given_recipe(
    recipe: str, settings: list[str] | None, steps: int | None, seed: int | None, model: str | None
) -> Recipe:
    """The recipe of a command line, with its overrides. Raises `ValueError` for a wrong one."""
    return _load(recipe, overrides_of(settings, steps, seed, model))


def overrides_of(settings: list[str] | None, steps: int | None, seed: int | None, model: str | None) -> list[str]:
    """What --set, --steps, --seed and --model change, as `section.key=value`."""
    overrides = list(settings or [])
    for key, value in (("run.steps", steps), ("run.seed", seed), ("model.path", model)):
        if value is not None:
            overrides.append(f"{key}={json.dumps(value, ensure_ascii=False)}")
    return overrides


def _default_run_dir(name: str | None, recipe: Recipe | None) -> Path:
    """runs/RECIPE-SEED."""
    if name is None or recipe is None:
        raise ValueError("no run; add --run-dir DIR, or give the recipe that the run was started from")
    return Path("runs") / f"{Path(name).stem if name.endswith('.toml') else name}-{recipe.run.seed}"


def _check_path(path: Path, recipe: Recipe | None, resume: bool) -> None:
    """Raises `ValueError` for a run directory that cannot be one."""
    if path.exists() and not path.is_dir():
        expected = "a run directory" if resume else "a directory, new or empty"
        raise ValueError(f"--run-dir {path} is a file; expected {expected}")
    if not path.exists() and recipe is None:
        raise ValueError(f"there is no run in {path}: no such directory; to begin one, give its recipe as well")


def _load(name: str, overrides: list[str]) -> Recipe:
    from spiral.runs.recipe import load_recipe

    return load_recipe(name, overrides)


def _print_recipe(recipe: Recipe) -> None:
    """Prints the recipe as TOML, with the plan in comments. Raises `ValueError` for a run that does not fit."""
    import tomli_w

    from spiral.runs.checks import check_run, with_expert_games

    if recipe.sft.data:
        recipe = with_expert_games(recipe)
    check_run(recipe)
    recipe, lines = _planned(recipe)
    print(*(printable(f"# {line}".rstrip()) for line in lines), sep="\n")
    text = tomli_w.dumps(recipe.model_dump())
    print(printable(text, max_line=len(text)), end="")  # TOML reads escaped characters as they were


def _planned(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """The plan of memory and tokens; one line without a plan for a hub model whose configuration is out of reach.

    With expert games, the recipe returned has the steps that they make.

    Loads torch, since parameters are counted in an empty model of transformers.
    """
    from spiral.inference.base import check_ends
    from spiral.models.hub import NotHereError
    from spiral.models.loading import context_limit, declared_ends, local_model, local_tokenizer
    from spiral.plan import check_plan, describe
    from spiral.policies.registry import checked_model_config
    from spiral.text import ChatCodec

    model = recipe.model.path
    try:
        config = checked_model_config(model)
    except NotHereError as error:
        if "/" not in model:  # more likely a misspelt local name than a hub's
            raise
        return recipe, [f"{model}: parameters unknown: {error}"]
    tokenizer = local_tokenizer(model, config)
    codec = None
    if tokenizer is not None:
        codec = ChatCodec(tokenizer, recipe.prompt, declared_ends(str(local_model(model))))
        check_ends(codec)
    learned: list[str] = []
    if recipe.loss.kind == NLL and not recipe.sft.data:
        learned = ["Expert games: none are named yet (spiral sft --data DIR); the number of steps follows from them"]
    elif recipe.loss.kind == NLL:
        limit = context_limit(config.get_text_config(), "training")
        recipe, learned = _expert_plan(recipe, codec, min(recipe.engine.context or limit, limit))
    return recipe, describe(check_plan(recipe, config, codec=codec)) + learned


def _expert_plan(recipe: Recipe, codec: ChatCodec | None, context: int) -> tuple[Recipe, list[str]]:
    """The recipe with the steps that its expert games make, and a line on them; an upper bound without a tokenizer."""
    from spiral.training.sft import ExpertGames, select

    config, seed = recipe.sft, recipe.run.seed
    if codec is None:
        turns, about = len(select(config, seed).turns), "at most "
        steps = -(-turns * config.epochs // config.samples_per_step)
    else:
        expert = ExpertGames.read(config, seed, codec, max_reply=recipe.sampling.max_new_tokens, context=context)
        turns, steps, about = len(expert), expert.steps, ""
    passes = f"{config.epochs} pass{'' if config.epochs == 1 else 'es'}"
    line = f"Expert games: {about}{turns:,} turns, {passes}, {about}{steps:,} steps of {config.samples_per_step} turns"
    return recipe.model_copy(update={"run": recipe.run.model_copy(update={"steps": steps})}), [line]


def _started(recipe: Recipe, path: Path, resume: bool) -> Run:
    """A new run, prepared."""
    with quick_imports():
        from spiral.launch import start
    from spiral.runs.directory import RunDirectory

    if resume:  # otherwise it is checked before torch is loaded
        check_model(recipe.model.path)
    RunDirectory(path).refuse_existing()
    return _prepared(recipe, lambda: start(recipe, path, lambda: _print_start(recipe, path)))


def _resumed(name: str | None, overrides: list[str], path: Path, steps: int | None) -> Run:
    """A run prepared from its last checkpoint. Only the number of steps and the processes may change."""
    with quick_imports():
        from spiral.launch import resume, saved_recipe, setting_differences
    from spiral.runs.checks import with_expert_games
    from spiral.runs.recipe import validate_recipe

    saved = saved_recipe(path)
    named = {override.partition("=")[0].strip() for override in overrides}
    spread = any(key.startswith(SPREAD) for key in named)
    values = saved.model_dump()
    if spread:
        values["hardware"]["devices"] = 1  # follows from the number of learner workers, which may change
    given = with_expert_games(_load(name, overrides)) if name else validate_recipe(values, str(path), overrides)
    if given.summary != saved.summary:
        raise ValueError(f"the run in {path} was started from another recipe ({saved.summary!r}), not from {name}")
    changed = setting_differences(saved, given)
    refused = [changed[key] for key in changed if key in named and not key.startswith(SPREAD)]
    if refused:
        raise ValueError(f"with --resume only --steps and cluster settings may change: {'; '.join(refused)}")
    changed = {key: text for key, text in changed.items() if not (spread and key.startswith(SPREAD))}
    printed: list[Path] = []

    def ready() -> None:
        _print_start(saved, path)
        printed.append(path)

    run = _prepared(saved, lambda: resume(path, steps, given.cluster if spread else None, ready))
    if not printed:
        _print_path(path)
    if run.learner.version == run.recipe.run.steps:
        _print_note(f"all {run.recipe.run.steps} steps are done; to continue, add --steps with a larger number")
    if changed:
        _print_note(f"resuming with the run's own settings, not those of {name}: {'; '.join(changed.values())}")
    return run


def _prepared(recipe: Recipe, prepare: Callable[[], Run]) -> Run:
    """Prepares a run, with its progress shown. Recommends vLLM where it would be faster."""
    if recipe.engine.kind == "transformers" and recipe.model.path not in BUILT_IN and not vllm_installed():
        _print_note(f"engine: transformers, which runs everywhere; vLLM is several times as fast: {VLLM_HOW}")
    with progress_shown() as progress:
        progress.stage(f"preparing {recipe.model.path}")
        return prepare()


def _warning_of_illegal_play(run: Run, show: Callable[[int, Metrics], None]) -> Callable[[int, Metrics], None]:
    """Adds to `show` a warning when nearly all games end illegally, in the first evaluation or the first step."""
    from spiral.runs.directory import read_evaluations
    from spiral.runs.guards import games_not_known

    first = run.learner.version + 1
    if first > 1 or run.recipe.loss.kind == NLL:  # an expert's games teach how to move
        return show
    evaluated: dict[str, float] = {}
    for _, report in read_evaluations(run.directory.path)[:1]:
        for row in report.arena:
            evaluated[row["game"]] = max(evaluated.get(row["game"], 0.0), row["illegal"])
    trained = {game: illegal for game, illegal in evaluated.items() if game in run.recipe.selfplay.games}
    if warning := games_not_known(trained):
        logger.warning("before training, %s", warning)

    def shown(step: int, metrics: Metrics) -> None:
        show(step, metrics)
        if step == first:
            played = {
                str(matchup): metrics[key]
                for matchup in Watched.from_recipe(run.recipe).trained
                if matchup.game not in trained and (key := matchup.key("forfeits")) in metrics
            }
            if warning := games_not_known(played):
                logger.warning("in the first step, %s", warning)

    return shown


def _execute(run: Run, as_json: bool) -> None:
    """Trains to the last step and prints the results."""
    from spiral.cli.train_results import json_results, show_results  # loads matplotlib
    from spiral.launch import execute
    from spiral.runs.directory import read_evaluations
    from spiral.runs.guards import Guards

    recipe, path = run.recipe, run.directory.path
    selfplay, first = recipe.selfplay, run.learner.version + 1
    if recipe.loss.kind == NLL:
        pace = Pace(first, recipe.run.steps, recipe.sft.samples_per_step, unit="samples")
    elif selfplay.samples_per_step:
        pace = Pace(first, recipe.run.steps, selfplay.samples_per_step, unit="samples")
    else:
        pace = Pace(first, recipe.run.steps, selfplay.episodes_per_step)
    reports = read_evaluations(path)
    before = reports[-1][1].metrics() if reports else {}
    try:
        guards = Guards.from_names(recipe.run.guards, recipe.run.guard_options)
        title = f"spiral {'sft' if recipe.loss.kind == NLL else 'train'}  {recipe.model.path}  {path}"
        with make_display(title, pace, Watched.from_recipe(recipe), before) as display:
            run = execute(run, _warning_of_illegal_play(run, display.show), guards)
        run.directory.check()
        if as_json:
            print_json(json_results(run))
        else:
            show_results(run, guards)
    finally:
        run.close()


@contextmanager
def _stops_explained(path: Path) -> Iterator[None]:
    """Ends a run that stops early with one line on what is kept and how to resume."""
    from safetensors import SafetensorError

    from spiral.core.locks import LockLostError
    from spiral.core.policy import NotPlayedError
    from spiral.distributed.session import ClusterError
    from spiral.launch import RunStopped
    from spiral.training.learner import TrainingDivergedError
    from spiral.training.process_group import GroupError

    try:
        yield
    except RunStopped as stop:
        if stop.reason:
            message = f"{stop}; there is a checkpoint; to go on all the same: {resume_command(path)}"
            raise Stopped(message, FAILED) from stop
        message = f"stopped after step {stop.step}, with a checkpoint; to resume: {resume_command(path)}"
        raise Stopped(message, INTERRUPTED) from stop
    except KeyboardInterrupt as error:
        raise Stopped(f"interrupted at once; {_how_to_resume(path)}", INTERRUPTED) from error
    except LockLostError as error:
        raise Stopped(f"{error}; the run has stopped; what it had not written yet is lost", FAILED) from error
    except TrainingDivergedError as error:
        raise Stopped(f"{error}; {_how_to_restart(path)}", FAILED) from error
    except (ClusterError, GroupError, NotPlayedError, UserCodeError) as error:
        raise Stopped(f"{error}; {_how_to_resume(path)}", FAILED) from error
    except BrokenPipeError:
        raise  # standard output was closed; the run's files are not at fault
    except (OSError, SafetensorError) as error:
        reason = describe_os_error(error) if isinstance(error, OSError) else str(error)
        raise Stopped(f"cannot write to {path}: {reason}; {_how_to_resume(path)}", FAILED) from error


def _how_to_resume(path: Path) -> str:
    """Names the last good checkpoint and the command that resumes from it."""
    from spiral.core.steps import latest_checkpoint
    from spiral.runs.directory import RunDirectory

    if not path.exists():
        return "choose another --run-dir"
    checkpoint = latest_checkpoint(path / "checkpoints")
    if checkpoint is not None:
        return f"the last good checkpoint is {checkpoint.name}; to resume: {resume_command(path)}"
    if RunDirectory(path).config_file.exists():
        return f"there is no checkpoint yet; to begin again: {resume_command(path)}"
    return "nothing was written; start again"


def _how_to_restart(path: Path) -> str:
    """Advice for a new run after one diverged; resuming it with the same settings would diverge again."""
    from spiral.core.steps import checkpoints_in
    from spiral.launch import saved_recipe
    from spiral.runs.directory import read_metrics

    learned = max((row["step"] for row in read_metrics(path) if not row.get("learner/skipped_steps")), default=0)
    steps = dict(checkpoints_in(path / "checkpoints"))
    before = [step for step in steps if step <= learned]
    if not before:
        return "no checkpoint is left from before it diverged; start a new run"
    good = steps[max(before)]
    rate = saved_recipe(path).learner.learning_rate / 10
    return (
        f"the last good checkpoint is {good.name}; for a new run from there: {program('spiral')} train"
        f" {shlex.quote(str(path / 'config.toml'))} --model {shlex.quote(str(good))} --set"
        f" learner.learning_rate={rate:g}"
    )


def _print_start(recipe: Recipe, path: Path) -> None:
    _print_path(path)
    if recipe.evaluation.games or recipe.evaluation.exploitability or recipe.benchmark.tasks:
        _print_note(f"evaluating {recipe.model.path} before training")


def _print_path(path: Path) -> None:
    _print_note(f"run directory: {path}")
    _print_note("Ctrl-C stops after the current step and writes a checkpoint; a second Ctrl-C stops at once")


def _print_note(line: str) -> None:
    """Prints a line on standard error, where progress goes as well."""
    print(printable(line), file=sys.stderr)
