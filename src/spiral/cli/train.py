"""`spiral train`: from a recipe to a trained model, or on from where a run stopped."""

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
from spiral.cli.output import program
from spiral.core.metrics import Metrics
from spiral.core.printable import printable
from spiral.core.progress import progress_shown
from spiral.core.stopping import stops_interrupt
from spiral.games.failures import UserCodeError
from spiral.inference.settings import vllm_installed
from spiral.runs.display import Pace, Watched, make_display, wide_console

if TYPE_CHECKING:
    from spiral.launch import Run
    from spiral.runs.recipe import Recipe

logger = logging.getLogger(__name__)

VLLM_HOW = "`pip install vllm` on CUDA, `make .venv-vllm/.ready` on a CPU, and engine.kind='auto' (README, Engines)"
SPREAD = ("cluster.", "hardware.devices")
"""Settings of how a run is spread over processes; a run may go on spread otherwise."""


class TrainCommand(TyperCommand):
    """The usual help, and after it every setting of a recipe."""

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
    run_dir: Annotated[
        Path | None,
        typer.Option(parser=opt.path_argument, metavar="PATH", help="The run directory; runs/RECIPE-SEED if left out."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps, in place of run.steps.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="In place of run.seed.")] = None,
    model: Annotated[str | None, typer.Option(help="In place of model.path.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the run's last checkpoint; begin where there is no run yet.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the whole recipe and what it takes.")] = False,
    settings: opt.Settings = None,
) -> None:
    """Train a model by self-play, measure it before and after, and show what it has learned.

    The run directory keeps everything. Ctrl-C or SIGTERM finishes the step under way, writes a checkpoint and says how
    to go on. With --resume one command line begins a run and goes on with it, however often it is stopped.
    """
    overrides = list(settings or [])
    for key, value in (("run.steps", steps), ("run.seed", seed), ("model.path", model)):
        if value is not None:
            overrides.append(f"{key}={json.dumps(value, ensure_ascii=False)}")
    if resume:
        if dry_run:
            raise ValueError("got --resume and --dry-run; expected one of them")
        with stops_interrupt():
            _resume(recipe, overrides, run_dir, steps)
        return
    if recipe is None:
        raise ValueError("which recipe? give a name that `spiral recipes` lists, or a .toml file")
    loaded = _load(recipe, overrides)
    if dry_run:
        _print_recipe(loaded)
        return
    with stops_interrupt():
        _start(loaded, run_dir or default_run_dir(recipe, loaded))


def default_run_dir(name: str, recipe: Recipe) -> Path:
    """runs/RECIPE-SEED."""
    return Path("runs") / f"{Path(name).stem if name.endswith('.toml') else name}-{recipe.run.seed}"


def _load(name: str, overrides: list[str]) -> Recipe:
    from spiral.runs.recipe import load_recipe

    return load_recipe(name, overrides)


def _print_recipe(recipe: Recipe) -> None:
    """Valid TOML; what the run takes is a comment. Raises `ValueError` for a run that cannot fit its device."""
    import tomli_w

    lines = _plan_lines(recipe)
    print(*(printable(f"# {line}".rstrip()) for line in lines), sep="\n")
    text = tomli_w.dumps(recipe.model_dump())
    print(printable(text, max_line=len(text)), end="")  # TOML reads what is written out as it was


def _plan_lines(recipe: Recipe) -> list[str]:
    """The plan. A hub model that cannot be asked for now is no reason to refuse the recipe."""
    from spiral.inference.base import check_ends
    from spiral.models.hub import NotHereError
    from spiral.models.loading import check_architecture, declared_ends
    from spiral.plan import check_plan, describe  # loads torch
    from spiral.policies.registry import local_model, local_tokenizer, model_config
    from spiral.text import ChatCodec

    model = recipe.model.path
    try:
        config = model_config(model)
    except NotHereError as error:
        if "/" not in model:  # more likely a local model's name misspelt than a hub's
            raise
        return [f"{model}: parameters not known: {error}"]
    check_architecture(config.get_text_config(), "training")
    tokenizer = local_tokenizer(model, config)
    codec = None
    if tokenizer is not None:
        codec = ChatCodec(tokenizer, recipe.prompt, declared_ends(str(local_model(model))))
        check_ends(codec)
    return describe(check_plan(recipe, config, codec=codec))


def _start(recipe: Recipe, path: Path) -> None:
    """A new run."""
    from spiral.policies.registry import check_model

    if path.exists() and not path.is_dir():
        raise ValueError(f"--run-dir {path} is a file; expected a directory, new or empty")
    check_model(recipe.model.path)

    from spiral.launch import start  # loads torch
    from spiral.runs.directory import RunDirectory
    from spiral.runs.lock import run_held

    with _stops_explained(path), run_held(path):
        RunDirectory(path).refuse_existing()
        _execute(_prepared(recipe, lambda: start(recipe, path, lambda: _ready(recipe, path))))


def _ready(recipe: Recipe, path: Path) -> None:
    _announce(path)
    if recipe.evaluation.games or recipe.evaluation.exploitability or recipe.benchmark.tasks:
        _tell(f"measuring {recipe.model.path} before training")


def _resume(name: str | None, overrides: list[str], run_dir: Path | None, steps: int | None) -> None:
    """On from the last checkpoint; only the number of steps and the processes may change."""
    from spiral.runs.directory import RunDirectory  # loads torch
    from spiral.runs.lock import run_held

    loaded = _load(name, overrides) if name else None
    if run_dir is None:
        if name is None or loaded is None:
            raise ValueError("which run? add --run-dir DIR, or give the recipe that the run was started from")
        run_dir = default_run_dir(name, loaded)
    if run_dir.exists() and not run_dir.is_dir():
        raise ValueError(f"--run-dir {run_dir} is a file; expected a run directory")
    if not run_dir.exists() and loaded is None:
        raise ValueError(f"there is no run in {run_dir}: no such directory; to begin one, give its recipe as well")
    with _stops_explained(run_dir), run_held(run_dir):
        if loaded is not None and not RunDirectory(run_dir).begun():
            _start(loaded, run_dir)
        else:
            _go_on(name, overrides, run_dir, steps)


def _go_on(name: str | None, overrides: list[str], run_dir: Path, steps: int | None) -> None:
    """`_resume`, where there is a run."""
    from spiral.api import differences  # loads torch
    from spiral.launch import resume, saved_recipe
    from spiral.runs.recipe import validate_recipe, with_overrides

    saved = saved_recipe(run_dir)
    named = {override.partition("=")[0].strip() for override in overrides}
    spread = any(key.startswith(SPREAD) for key in named)
    values = saved.model_dump()
    if spread:
        values["hardware"]["devices"] = 1  # follows from the number of learner workers, which may be another
    given = _load(name, overrides) if name else validate_recipe(with_overrides(values, overrides), str(run_dir))
    if given.summary != saved.summary:
        raise ValueError(f"the run in {run_dir} was not started from {name}, but from a recipe {saved.summary!r}")
    changed = differences(saved, given)
    asked = [changed[key] for key in changed if key in named and not key.startswith(SPREAD)]
    if asked:
        raise ValueError(f"with --resume only --steps and cluster settings may change: {'; '.join(asked)}")
    changed = {key: text for key, text in changed.items() if not (spread and key.startswith(SPREAD))}
    told: list[Path] = []

    def ready() -> None:
        _ready(saved, run_dir)
        told.append(run_dir)

    run = _prepared(saved, lambda: resume(run_dir, steps, given.cluster if spread else None, ready))
    if not told:
        _announce(run_dir)
    if run.learner.version == run.recipe.run.steps:
        _tell(f"all {run.recipe.run.steps} steps are done; to train on, add --steps with a larger number")
    if changed:
        _tell(f"going on with the run's own settings, not those of {name}: {'; '.join(changed.values())}")
    _execute(run)


def _prepared(recipe: Recipe, prepare: Callable[[], Run]) -> Run:
    """What `prepare` gives, with its progress shown; says which engine plays where another one would be faster."""
    if recipe.engine.kind == "transformers" and recipe.model.path != "nano" and not vllm_installed():
        _tell(f"engine: transformers, which runs everywhere; vLLM plays several times as fast: {VLLM_HOW}")
    with progress_shown() as progress:
        progress.stage(f"preparing {recipe.model.path}")
        return prepare()


def _first_steps_watched(run: Run, show: Callable[[int, Metrics], None]) -> Callable[[int, Metrics], None]:
    """`show`, and a warning where the measurement before training or the first step finds nearly only forfeits."""
    from spiral.runs.directory import read_reports
    from spiral.runs.guards import games_not_known

    first = run.learner.version + 1
    if first > 1:
        return show
    measured: dict[str, float] = {}
    for _, report in read_reports(run.directory.path)[:1]:
        for row in report.arena:
            measured[row["game"]] = max(measured.get(row["game"], 0.0), row["illegal"])
    trained = {game: illegal for game, illegal in measured.items() if game in run.recipe.selfplay.games}
    if warning := games_not_known(trained):
        logger.warning("before training, %s", warning)

    def watched(step: int, metrics: Metrics) -> None:
        show(step, metrics)
        if step == first:
            played = {
                str(matchup): metrics[key]
                for matchup in Watched.from_recipe(run.recipe).trained
                if matchup.game not in trained and (key := matchup.key("forfeits")) in metrics
            }
            if warning := games_not_known(played):
                logger.warning("in the first step, %s", warning)

    return watched


def _execute(run: Run) -> None:
    """Trains to the end and shows what came of it."""
    from spiral.cli.train_results import show_results  # loads matplotlib
    from spiral.launch import execute
    from spiral.runs.directory import read_reports

    recipe, path = run.recipe, run.directory.path
    pace = Pace(run.learner.version + 1, recipe.run.steps, recipe.selfplay.episodes_per_step)
    reports = read_reports(path)
    before = reports[-1][1].metrics() if reports else {}
    try:
        title = f"spiral train  {recipe.model.path}  {path}"
        with make_display(title, pace, Watched.from_recipe(recipe), before) as display:
            run = execute(run, _first_steps_watched(run, display.show))
        run.directory.check()
        show_results(run)
    finally:
        run.close()


@contextmanager
def _stops_explained(path: Path) -> Iterator[None]:
    """However a run ends early: one line on what is kept and how to go on."""
    from safetensors import SafetensorError

    from spiral.core.locks import LockLostError
    from spiral.core.policy import NotPlayedError
    from spiral.distributed.session import ClusterError
    from spiral.launch import RunStopped
    from spiral.training.optimizer import TrainingDivergedError
    from spiral.training.process_group import GroupError

    try:
        yield
    except RunStopped as stop:
        message = f"stopped after step {stop.step}, with a checkpoint; to go on: {resume_command(path)}"
        raise Stopped(message, INTERRUPTED) from stop
    except KeyboardInterrupt as error:
        raise Stopped(f"interrupted at once; {_how_to_go_on(path)}", INTERRUPTED) from error
    except LockLostError as error:
        raise Stopped(f"{error}; it has stopped, and what it did not write yet is left out", FAILED) from error
    except TrainingDivergedError as error:
        raise Stopped(f"{error}; {_how_to_begin_again(path)}", FAILED) from error
    except (ClusterError, GroupError, NotPlayedError, UserCodeError) as error:
        raise Stopped(f"{error}; {_how_to_go_on(path)}", FAILED) from error
    except BrokenPipeError:
        raise  # whoever read our output has gone; the run's files are not at fault
    except (OSError, SafetensorError) as error:
        reason = describe_os_error(error) if isinstance(error, OSError) else str(error)
        raise Stopped(f"cannot write to {path}: {reason}; {_how_to_go_on(path)}", FAILED) from error


def resume_command(path: Path) -> str:
    """The command line that goes on with a run."""
    return f"{program('spiral')} train --resume --run-dir {shlex.quote(str(path))}"


def _how_to_go_on(path: Path) -> str:
    """Says which checkpoint is the last good one."""
    from spiral.core.steps import latest_checkpoint
    from spiral.runs.directory import RunDirectory  # loads torch

    if not path.exists():
        return "choose another --run-dir"
    checkpoint = latest_checkpoint(path / "checkpoints")
    if checkpoint is not None:
        return f"the last good checkpoint is {checkpoint.name}; to go on: {resume_command(path)}"
    if RunDirectory(path).config_file.exists():
        return f"there is no checkpoint yet; to begin again: {resume_command(path)}"
    return "nothing was written yet; start again"


def _how_to_begin_again(path: Path) -> str:
    """After training that diverged: to resume it would be to diverge again, since settings stay through a run."""
    from spiral.core.steps import checkpoints_in
    from spiral.launch import saved_recipe  # loads torch
    from spiral.runs.directory import read_metrics

    learned = max((row["step"] for row in read_metrics(path) if not row.get("learner/skipped_steps")), default=0)
    steps = dict(checkpoints_in(path / "checkpoints"))
    before = [step for step in steps if step <= learned]
    if not before:
        return "no checkpoint is left of the time before; start a new run"
    good = steps[max(before)]
    rate = saved_recipe(path).learner.learning_rate / 10
    return (
        f"the last good checkpoint is {good.name}; for a new run from there: {program('spiral')} train"
        f" {shlex.quote(str(path / 'config.toml'))} --model {shlex.quote(str(good))} --set"
        f" learner.learning_rate={rate:g}"
    )


def _announce(path: Path) -> None:
    """Where everything goes, and what to press."""
    _tell(f"run directory: {path}")
    _tell("Ctrl-C stops after the step under way and writes a checkpoint; a second one stops at once")


def _tell(line: str) -> None:
    """Progress goes to standard error."""
    print(printable(line), file=sys.stderr)
