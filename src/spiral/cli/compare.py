"""`spiral compare`: two models, or runs of several seeds, on the same games and the same problems, in one table."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spiral.cli import options as opt
from spiral.cli.compare_groups import (
    Group,
    all_models,
    check_group,
    group_rows,
    parse_groups,
    print_groups,
    write_groups,
)
from spiral.cli.errors import Stopped
from spiral.cli.output import print_json, shown_path
from spiral.core.printable import printable
from spiral.core.progress import Progress, progress_shown
from spiral.games import load_game
from spiral.runs.display import plain_table, wide_console

if TYPE_CHECKING:
    from spiral.evaluation.comparison import Row
    from spiral.evaluation.reasoning.runner import Benchmark
    from spiral.inference.base import LanguagePolicy
    from spiral.policies import Policy
    from spiral.policies.opponents import OpponentConfig, Opponents
    from spiral.policies.registry import PolicyOptions


logger = logging.getLogger(__name__)

ASKED, FILES = "prompt and sampling", " files"
Names = list[str] | None
"""The values of an option that may be repeated."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GameOptions:
    """Games to compare in."""

    game: Annotated[Names, typer.Option(help="Play it against every opponent; may be repeated.")] = None
    opponent: Annotated[Names, typer.Option(help="May be repeated; random if left out.")] = None
    episodes: Annotated[
        int | None,
        typer.Option(help="Games against each opponent, a multiple of the game's players. Default: 400, rounded up."),
    ] = None
    exploitability: Annotated[Names, typer.Option(help="A game with exact theory; may be repeated.")] = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProblemOptions:
    """Benchmarks to compare on."""

    task: opt.Tasks = None
    data: Annotated[Names, typer.Option(metavar="TASK=FILE", help="A task's JSONL file.")] = None
    limit: Annotated[int | None, typer.Option(min=1, help="Number of problems of each task; all if left out.")] = None
    protocol: opt.Protocol = "v3"
    samples: opt.Samples = None
    shots: opt.Shots = 0
    shots_data: opt.ShotsData = None
    benchmark_tokens: Annotated[
        int | None, typer.Option(min=1, help="Most tokens of a reply to a problem; 8192 if left out.")
    ] = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The games and tasks that both models are evaluated on."""

    games: Sequence[tuple[str, str]]
    """Pairs of a game and an opponent."""
    episodes: int
    """Games against each opponent, rounded up to a multiple of the game's players."""
    exploitability: Sequence[str]
    benchmarks: Sequence[Benchmark]
    seed: int
    in_flight: int
    fresh: bool
    out: Path | None
    warned: set[str] = dataclasses.field(default_factory=set)
    """Names with a warning of cut off replies."""


@opt.expand_options
def compare(
    a: Annotated[str | None, typer.Argument(metavar="A", help="A MODEL, such as the base model.")] = None,
    b: Annotated[str | None, typer.Argument(metavar="B", help="Another MODEL, such as its run.")] = None,
    *,
    group: Annotated[
        Names,
        typer.Option(metavar="NAME=RUN,RUN", help="Twice, in place of A and B: runs that differ by the seed alone."),
    ] = None,
    games: GameOptions,
    problems: ProblemOptions,
    each_as_trained: Annotated[
        bool, typer.Option("--each-as-trained", help="Prompt each model as its own run did, not both in the same way.")
    ] = False,
    seed: opt.Seed = 0,
    in_flight: opt.InFlight = 64,
    prompt: opt.PromptOptions,
    engine: opt.EngineOptions,
    theirs: opt.OpponentOptions,
    out: opt.Out = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Evaluate again, even what is kept in files.")] = False,
    as_json: opt.Json = False,
) -> None:
    """Compare A and B on the same games and problems: paired differences, corrected for many comparisons.

    Both get the same prompt and sampling: those of the run that B comes from, or else A, or those of the options; a
    line says which. Without --game, --exploitability and --task, both are evaluated on what the run of B (or A) is
    evaluated on. With --group twice, runs of several seeds are compared: means with intervals over runs and over items.
    Results that were computed before with the same settings are read from their files.
    """
    from spiral.policies.opponents import opponent_model
    from spiral.policies.registry import check_policy_name, is_language_model

    groups = None
    if group:
        if a is not None:
            raise ValueError(f"got {a!r} and --group; expected two models, or two groups")
        groups = parse_groups(group)
        a, b = (each.models[0] for each in groups)
    if a is None or b is None:
        raise ValueError("got fewer than two models; expected A and B, or --group NAME=RUN,RUN twice")
    pairs, exact = _chosen_games(a, b, games, problems.task)
    opt.check_episodes([load_game(spec) for spec, _ in pairs], games.episodes)
    for each in groups or ():
        for model in each.models:
            check_policy_name(model)
        check_group(each)
    plan = Plan(
        games=pairs,
        episodes=400 if games.episodes is None else games.episodes,
        exploitability=exact,
        benchmarks=_benchmarks(problems, seed),
        seed=seed,
        in_flight=in_flight,
        fresh=fresh,
        out=out,
    )
    options = opt.policy_options(
        prompt,
        engine,
        reply_tokens=max((asked.task.sampling.max_new_tokens for asked in plan.benchmarks), default=0),
        alone=not any(is_language_model(opponent_model(other, _tables(a, b, {}))) for _, other in plan.games),
    )
    opponents = _opponents(a, b, theirs, options, [other for _, other in plan.games])
    with contextlib.closing(opponents):
        if groups is None:
            _compare(a, b, plan, options, opponents, as_json, each_as_trained)
        else:
            _compare_groups(groups, plan, options, opponents, as_json, each_as_trained)


def _chosen_games(a: str, b: str, options: GameOptions, task: Names) -> tuple[list[tuple[str, str]], list[str]]:
    """Pairs of a game and an opponent, and games for exploitability: those of the options, or else the run's own."""
    from spiral.policies.registry import check_policy_name

    for name in (a, b, *(options.opponent or [])):
        check_policy_name(name)
    opponents = dict.fromkeys(options.opponent or ["random"])
    games = [(spec, other) for spec in dict.fromkeys(options.game or []) for other in opponents]
    exact = list(dict.fromkeys(options.exploitability or []))
    return (games, exact) if games or exact or task else _games_of_run(a, b, options.opponent)


def _opponents(a: str, b: str, theirs: opt.OpponentOptions, options: PolicyOptions, names: Sequence[str]) -> Opponents:
    """What loads the opponents, each once for both models, which it plays in the same way."""
    from spiral.policies.opponents import Opponents
    from spiral.policies.registry import is_language_model

    if names:
        theirs.check(names)
    elif theirs.given:
        raise ValueError("got an option of opponents, but no games are played; leave it out, or add --game GAME")
    like = _prompting_model(a, b) or (b if is_language_model(b) else a)
    return Opponents(opt.opponent_options(theirs, options, like), _tables(a, b, theirs.given))


def _tables(a: str, b: str, given: dict[str, Any]) -> dict[str, OpponentConfig]:
    """The settings of opponents in the runs that the models come from, with those of the command line applied."""
    from spiral.core.settings import checked
    from spiral.policies.opponents import OpponentConfig
    from spiral.policies.registry import is_language_model, model_card

    found = {}
    for model in (a, b):  # B's go before A's
        for name, values in model_card(model).opponent.items() if is_language_model(model) else ():
            found[name] = checked(OpponentConfig, {**values, **given})
    return found


def _compare(
    a: str,
    b: str,
    plan: Plan,
    options: PolicyOptions,
    opponents: Opponents,
    as_json: bool,
    each_as_trained: bool,
) -> None:
    """Evaluates both models, writes the table and prints it."""
    from spiral.evaluation.comparison import corrected, prompt_differences

    like = None if each_as_trained else _prompting_model(a, b)
    asked = None
    if like is not None:
        other = b if like == a else a
        line, asked, options = _same_prompt(like, other, options, bool(plan.games or plan.exploitability))
        if not as_json:
            wide_console().print(line, soft_wrap=True)
    with progress_shown(bar=not as_json) as progress:
        found = [_evaluated(name, plan, options, opponents, progress) for name in (a, b)]
    rows = corrected(_rows(plan, *found))
    in_games = bool(plan.games or plan.exploitability)
    notes = prompt_differences(found[0][ASKED], found[1][ASKED]) if in_games else []
    notes += _unplayed(plan, rows)
    files = _write(rows, notes, a, b, plan, found, asked)
    if as_json:
        about = {"a": a, "b": b, "seed": plan.seed, "asked_alike": asked}
        print_json({**about, "rows": [row.to_json() for row in rows], "notes": notes, "files": str(files)})
        return
    _print_rows(rows, a, b, files)
    for note in notes:
        print(printable(f"Note: {note}."))


def _compare_groups(
    groups: tuple[Group, Group],
    plan: Plan,
    options: PolicyOptions,
    opponents: Opponents,
    as_json: bool,
    each_as_trained: bool,
) -> None:
    """Evaluates every run of both groups, writes the table and prints it."""
    first, second = (each.models[0] for each in groups)
    like = None if each_as_trained else _prompting_model(first, second)
    asked = None
    if like is not None:
        other = second if like == first else first
        line, asked, options = _same_prompt(like, other, options, bool(plan.games or plan.exploitability))
        if not as_json:
            wide_console().print(line.replace("Both models get", "All models get", 1), soft_wrap=True)
    with progress_shown(bar=not as_json) as progress:
        found = all_models(groups, lambda name: _evaluated(name, plan, options, opponents, progress))
    tasks = [each.task.name for each in plan.benchmarks]
    rows = group_rows(groups, found, plan.games, plan.exploitability, tasks)
    files = {model: {key: value for key, value in own.items() if key.endswith(FILES)} for model, own in found.items()}
    about = {"seed": plan.seed, "episodes": plan.episodes, "asked_alike": asked, "results": files}
    result, path = write_groups(groups, rows, about, plan.out)
    if as_json:
        print_json({**result, "files": str(path)})
    else:
        print_groups(groups, rows, path)


def _prompting_model(a: str, b: str) -> str | None:
    """The model whose prompt and sampling both get: one of a run, or else one that names its prompt; B before A.

    None unless both are language models.
    """
    from spiral.policies.registry import is_language_model, model_card

    if not (is_language_model(a) and is_language_model(b)):
        return None
    asked = {name: model_card(name) for name in (b, a)}
    runs = [name for name, own in asked.items() if own.run]
    prompted = [name for name, own in asked.items() if own.prompt is not None]
    return (runs or prompted or [b])[0]


def _same_prompt(
    like: str, other: str, options: PolicyOptions, in_games: bool
) -> tuple[str, dict[str, Any], PolicyOptions]:
    """The prompt and sampling of both: as one sentence, as JSON and as options. Benchmarks have their own sampling."""
    from spiral.policies.registry import effective_prompt, effective_sampling, model_card

    asked, own = model_card(like), model_card(other)
    prompt, sampling = effective_prompt(asked, options), effective_sampling(asked, options)
    words = [
        f"{prompt.template} template, {prompt.observation} observations",
        f"{'with' if prompt.thinking else 'without'} thinking, {'with' if prompt.example else 'without'} an example",
        *([f"system prompt {prompt.system!r}"] if prompt.system else []),
        *([f"earlier turns as a chat, thoughts: {prompt.history_thoughts}"] if prompt.history == "chat" else []),
        *([f"temperature {sampling.temperature:g}"] if in_games else []),
        *([f"top-p {sampling.top_p:g}"] if in_games and sampling.top_p < 1 else []),
        *([f"at most {sampling.max_new_tokens} new tokens"] if in_games else []),
        f"engine {options.engine}",
        *([f"context {options.context}"] if options.context else []),
    ]
    why = f"as {like} was trained" if asked.run or asked.prompt is not None else "by the defaults"
    line = f"Both models get the same prompt and sampling, {why}: {', '.join(words)}."
    if own.run or own.prompt is not None:
        left, given = dict(effective_prompt(own, options)), dict(prompt)
        if own.run and in_games:
            left, given = left | effective_sampling(own, options).model_dump(), given | sampling.model_dump()
        otherwise = [key for key in given | left if given.get(key) != left.get(key)]
        if otherwise:
            values = ", ".join(f"{key.replace('_', '-')} {left.get(key)}" for key in otherwise)
            line += f" {other} was trained with {values}; --each-as-trained uses that."
    asking = {"like": like, "prompt": prompt.model_dump(), "sampling": sampling.model_dump(), "engine": options.engine}
    return line, asking, dataclasses.replace(options, card=asked)


def _unplayed(plan: Plan, rows: Sequence[Row]) -> list[str]:
    """Notes on games without a row, since no deal was played to its end by both models."""
    present = {row.measure for row in rows}
    keys = [f"{spec} against {other}" for spec, other in plan.games]
    missing = [key for key in keys if f"{key}: score" not in present]
    return [f"{key} is left out: there is no deal that both played to the end" for key in missing]


def _games_of_run(a: str, b: str, opponents: Names) -> tuple[list[tuple[str, str]], list[str]]:
    """The games of a run's own evaluation. Raises `ValueError` when neither model comes from a run."""
    from spiral.core.settings import checked
    from spiral.evaluation.settings import EvaluationConfig
    from spiral.policies import able_opponents
    from spiral.policies.registry import is_language_model, model_card

    for model in (b, a):
        config = model_card(model).evaluation if is_language_model(model) else {}
        found = checked(EvaluationConfig, config) if config else None
        if found is not None and (found.games or found.exploitability):
            asked = opponents or found.opponents
            pairs = [(spec, name) for spec in found.games for name in able_opponents(asked, load_game(spec))]
            return pairs, found.exploitability
    raise ValueError(
        "neither model comes from a run that is evaluated on games; add --game GAME, --exploitability GAME or"
        " --task TASK"
    )


def _benchmarks(options: ProblemOptions, seed: int) -> list[Benchmark]:
    """The tasks with their problems loaded."""
    from spiral.evaluation.reasoning.runner import load_benchmark
    from spiral.evaluation.reasoning.shots import shots_of_tasks
    from spiral.evaluation.reasoning.tasks import load_task, task_names

    tasks = task_names(options.task or [])
    for name in tasks:
        load_task(name)
    files = opt.files_of_tasks(options.data or [], tasks, "--data")
    examples = shots_of_tasks(tasks, options.shots, opt.files_of_tasks(options.shots_data or [], tasks, "--shots-data"))
    return [
        load_benchmark(
            name,
            data=files.get(name),
            limit=options.limit,
            samples=options.samples,
            protocol=options.protocol,
            **examples[name],
            max_new_tokens=options.benchmark_tokens,
            seed=seed,
        )
        for name in tasks
    ]


def _evaluated(
    name: str, plan: Plan, options: PolicyOptions, opponents: Opponents, progress: Progress
) -> dict[str, Any]:
    """All results of one model by game and task. Only one of the two models is loaded at a time."""
    from spiral.policies.registry import is_language_model, load_language_policy

    if not is_language_model(name):
        if plan.benchmarks:
            raise ValueError(f"got {name!r}, which plays games only; a benchmark takes a language model")
        games = _games(name, plan, options, None, opponents, progress)
        return {ASKED: {}} | games | _theory(name, plan, options, None, progress)
    progress.stage(f"loading {name}")
    with contextlib.closing(load_language_policy(name, options)) as language:
        return (
            {ASKED: {**language.codec.config.model_dump(), **language.sampling.model_dump()}}
            | _games(name, plan, options, language, opponents, progress)
            | _theory(name, plan, options, language, progress)
            | _replies(name, plan, language, progress)
        )


def _games(
    name: str,
    plan: Plan,
    options: PolicyOptions,
    language: LanguagePolicy | None,
    opponents: Opponents,
    progress: Progress,
) -> dict[str, Any]:
    """The episodes of every game against every opponent, by "GAME against OPPONENT"."""
    from spiral.core.policy import NotPlayedError
    from spiral.evaluation.arena import evaluate_games, games_directory, rounded_up
    from spiral.policies.registry import load_policy

    found: dict[str, Any] = {}
    for spec, other in plan.games:
        rules = load_game(spec)
        player: Policy = language or load_policy(name, rules, options)
        progress.stage(f"loading {other}")
        opponent = opponents(other, rules)
        episodes = rounded_up(plan.episodes, rules.num_players)
        games: dict[str, Any] = {"episodes": episodes, "seed": plan.seed}
        directory = games_directory(player, opponent, rules, out=plan.out, **games)
        progress.stage(f"{name}: {spec} against {other}", episodes, "games")
        how: dict[str, Any] = {"in_flight": plan.in_flight, "directory": directory, "reuse": not plan.fresh}
        try:
            result, found[f"{spec} against {other}"] = evaluate_games(
                player, opponent, rules, watch=progress.games, **how, **games
            )
        except NotPlayedError as error:
            raise Stopped(str(error)) from error
        for replies, who, setting in (
            (result.replies, name, "--{}"),
            (result.opponent_replies, f"the opponent {other}", "--opponent-{}"),
        ):
            warning = None if who in plan.warned else replies.warning(who, setting)
            if warning is not None:
                plan.warned.add(who)
                logger.warning("%s", warning)
        found[f"{spec} against {other}{FILES}"] = directory.path.name
    return found


def _theory(
    name: str, plan: Plan, options: PolicyOptions, language: LanguagePolicy | None, progress: Progress
) -> dict[str, Any]:
    """The exploitability in every game, and the number of states it was computed over."""
    from spiral.evaluation.exploitability import evaluate_theory_in, theory_directory
    from spiral.policies.registry import load_exploitable_policy

    found: dict[str, Any] = {}
    for spec in plan.exploitability:
        progress.stage(f"{name}: exploitability in {spec}")
        rules = load_game(spec)
        known = language or load_exploitable_policy(name, rules, options)
        directory = theory_directory(name, known, rules, samples=None, seed=plan.seed, out=plan.out)
        found[spec] = evaluate_theory_in(
            known, rules, samples=None, seed=plan.seed, directory=directory, reuse=not plan.fresh, watch=progress.count
        )
        found[f"{spec} states"] = len(directory.read_items())
        found[f"{spec}{FILES}"] = directory.path.name
    return found


def _replies(name: str, plan: Plan, language: LanguagePolicy, progress: Progress) -> dict[str, Any]:
    """The attempts at every benchmark, by task."""
    from spiral.evaluation.reasoning.runner import benchmark_directory, run_benchmark

    found: dict[str, Any] = {}
    for benchmark in plan.benchmarks:
        directory = benchmark_directory(language, benchmark, name, plan.out)
        progress.stage(f"{name}: {benchmark.task.name}", benchmark.attempts, "replies")
        how: dict[str, Any] = {"directory": directory, "fresh": plan.fresh, "in_flight": plan.in_flight}
        _, found[benchmark.task.name] = run_benchmark(language, benchmark, name, on_progress=progress.update, **how)
        found[f"{benchmark.task.name}{FILES}"] = directory.path.name
    return found


def _rows(plan: Plan, a: dict[str, Any], b: dict[str, Any]) -> list[Row]:
    from spiral.evaluation.comparison import benchmark_row, exploitability_row, game_rows

    rows = []
    for spec, other in plan.games:
        key = f"{spec} against {other}"
        rows += game_rows(spec, other, a[key], b[key])
    rows += [exploitability_row(a[spec], b[spec], a[f"{spec} states"]) for spec in plan.exploitability]
    return rows + [benchmark_row(each.task.name, a[each.task.name], b[each.task.name]) for each in plan.benchmarks]


def _write(
    rows: Sequence[Row],
    notes: Sequence[str],
    a: str,
    b: str,
    plan: Plan,
    results: Sequence[dict[str, Any]],
    asked: dict[str, Any] | None,
) -> Path:
    """Writes the table as Markdown, CSV and JSON beside the results that it was made from."""
    from spiral.core.files import write_text_atomically
    from spiral.evaluation.comparison import to_csv, to_markdown
    from spiral.evaluation.results import result_directory
    from spiral.policies.registry import is_language_model

    # The names of the results end in hashes of all their settings, so other settings make another comparison.
    files = [{key: name for key, name in found.items() if key.endswith(FILES)} for found in results]
    names = [row.measure for row in rows]
    settings = {"a": a, "b": b, "rows": names, "seed": plan.seed, "episodes": plan.episodes, "files": files}
    owner = b if is_language_model(b) else a
    directory = result_directory("compare", f"{Path(a).name}-{Path(b).name}", settings, model=owner, out=plan.out)
    with directory.locked():
        for name, text in (("table.md", to_markdown(rows, a, b)), ("table.csv", to_csv(rows))):
            write_text_atomically(directory.path / name, text)
        asked = {} if asked is None else {"asked_alike": asked}
        directory.write({"a": a, "b": b, **asked, "rows": [row.to_json() for row in rows], "notes": list(notes)})
    return directory.path


def _print_rows(rows: Sequence[Row], a: str, b: str, files: Path) -> None:
    from spiral.evaluation.comparison import estimate_text

    table = plain_table("", "n", a, b, "B - A (95% interval)", "p (Holm)")
    for row in rows:
        p_value = "" if row.p_adjusted is None else f"{row.p_adjusted:.3g}{' *' if row.significant else ''}"
        difference = estimate_text(row.difference, signed=True)
        table.add_row(row.measure, str(row.n), estimate_text(row.a), estimate_text(row.b), difference, p_value)
    console = wide_console()
    console.print(table)
    console.print("n: deals, information states or problems. *: significant at 5% after Holm's correction.")
    console.print(f"Markdown, CSV and JSON: {shlex.quote(shown_path(files))}", soft_wrap=True)
