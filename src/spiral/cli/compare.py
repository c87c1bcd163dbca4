"""`spiral compare`: two models on the same games and the same problems, in one table."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spiral.cli import options as opt
from spiral.cli.faults import Stopped
from spiral.cli.listing import print_json
from spiral.cli.programs import shown_path
from spiral.core.printable import printable
from spiral.core.progress import Progress, progress_shown
from spiral.games import load_game
from spiral.runs.display import plain_table, wide_console

if TYPE_CHECKING:
    from spiral.evaluation.comparison import Row
    from spiral.evaluation.reasoning.measuring import Benchmark
    from spiral.inference.base import LanguagePolicy
    from spiral.policies import Policy
    from spiral.policies.registry import PolicyOptions


ASKED, FILES = "prompt and sampling", " files"
Names = list[str] | None
"""What an option that may be repeated was given."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What both models are measured on."""

    games: Sequence[tuple[str, str]]
    """Each with an opponent."""
    episodes: int
    exploitability: Sequence[str]
    benchmarks: Sequence[Benchmark]
    seed: int
    in_flight: int
    fresh: bool
    out: Path | None


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A MODEL, such as the base model.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another MODEL, such as the run that trained it.")],
    game: Annotated[list[str] | None, typer.Option(help="Play it against every opponent; may be repeated.")] = None,
    opponent: Annotated[list[str] | None, typer.Option(help="May be repeated; random if left out.")] = None,
    episodes: Annotated[int, typer.Option(help="Games against each opponent, an even number.")] = 400,
    exploitability: Annotated[list[str] | None, typer.Option(help="A game with exact theory; may be repeated.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="A benchmark; may be repeated.")] = None,
    each_as_trained: Annotated[
        bool, typer.Option("--each-as-trained", help="Ask each model as its own run did, and not both alike.")
    ] = False,
    data: Annotated[list[str] | None, typer.Option(metavar="TASK=FILE", help="A task's JSONL file.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many problems of each task.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Replies to each problem; 4 if left out.")] = None,
    benchmark_tokens: Annotated[int | None, typer.Option(min=1, help="Budget of a reply to a problem; 8192.")] = None,
    seed: opt.Seed = 0,
    in_flight: opt.InFlight = 64,
    template: opt.Template = None,
    observation: opt.Observation = None,
    thinking: opt.Thinking = None,
    example: opt.Example = None,
    system: opt.System = None,
    temperature: opt.Temperature = None,
    top_p: opt.TopP = None,
    max_new_tokens: opt.MaxNewTokens = None,
    device: opt.Device = "auto",
    compute: opt.Compute = "float32",
    engine: opt.Engine = "transformers",
    context: opt.Context = None,
    out: opt.Out = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what is kept in files.")] = False,
    as_json: opt.Json = False,
) -> None:
    """A and B on the same games and problems: paired differences, corrected for many comparisons.

    Both are asked alike: with the prompt and sampling of the run that B comes from, or else A, or as the options say;
    a line says how. Without --game, --exploitability and --task both are measured as the run that B (or A) comes from
    measures itself.
    What was measured before with the same settings is read from its files.
    """
    from spiral.policies.registry import PolicyOptions, is_language_model  # loads torch

    opt.check_episodes(episodes)
    games, exact = _asked(a, b, game, opponent, exploitability, task)
    plan = Plan(
        games=games,
        episodes=episodes,
        exploitability=exact,
        benchmarks=_benchmarks(task or [], data or [], limit, samples, benchmark_tokens, seed),
        seed=seed,
        in_flight=in_flight,
        fresh=fresh,
        out=out,
    )
    options = PolicyOptions(
        template=template,
        observation=observation,
        thinking=thinking,
        example=example,
        system=system,
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        device=device,
        compute=compute,
        engine=engine,
        context=context,
        reply_tokens=max((asked.task.sampling.max_new_tokens for asked in plan.benchmarks), default=0),
        alone=not any(is_language_model(opponent) for _, opponent in plan.games),
    )
    _compare(a, b, plan, options, as_json, each_as_trained)


def _asked(
    a: str, b: str, game: Names, opponent: Names, exploitability: Names, task: Names
) -> tuple[list[tuple[str, str]], list[str]]:
    """Games, each with an opponent, and those for exploitability; the run's own where nothing at all is asked for."""
    from spiral.policies.registry import check_policy_name  # loads torch

    for name in (a, b, *(opponent or [])):
        check_policy_name(name)
    games = [(spec, other) for spec in dict.fromkeys(game or []) for other in dict.fromkeys(opponent or ["random"])]
    exact = list(dict.fromkeys(exploitability or []))
    return (games, exact) if games or exact or task else _as_the_run(a, b, opponent)


def _compare(a: str, b: str, plan: Plan, options: PolicyOptions, as_json: bool, each_as_trained: bool) -> None:
    """Measures both, writes the table and prints it."""
    from spiral.evaluation.comparison import asked_otherwise, corrected

    like = None if each_as_trained else _asked_like(a, b)
    asked = None
    if like is not None:
        line, asked, options = _alike(like, b if like == a else a, options, bool(plan.games or plan.exploitability))
        if not as_json:
            wide_console().print(line, soft_wrap=True)
    with progress_shown(bar=not as_json) as progress:
        measured = [_measured(name, plan, options, progress) for name in (a, b)]
    rows = corrected(_rows(plan, *measured))
    in_games = bool(plan.games or plan.exploitability)
    notes = asked_otherwise(measured[0][ASKED], measured[1][ASKED]) if in_games else []
    notes += _unplayed(plan, rows)
    files = _write(rows, notes, a, b, plan, measured, asked)
    if as_json:
        found = [row.to_json() for row in rows]
        about = {"a": a, "b": b, "seed": plan.seed, "asked_alike": asked}
        print_json({**about, "rows": found, "notes": notes, "files": str(files)})
        return
    _print_rows(rows, a, b, files)
    for note in notes:
        print(printable(f"Note: {note}."))


def _asked_like(a: str, b: str) -> str | None:
    """The model whose prompt and sampling both get: the one that comes from a run, or says how it is prompted, B first.

    None where fewer than two of them are language models here.
    """
    from spiral.policies.registry import is_language_model, saved_settings

    if not (is_language_model(a) and is_language_model(b)):
        return None
    asked = {name: saved_settings(name) for name in (b, a)}
    runs = [name for name, own in asked.items() if own.from_run]
    prompted = [name for name, own in asked.items() if own.prompt is not None]
    return (runs or prompted or [b])[0]


def _alike(like: str, other: str, options: PolicyOptions, in_games: bool) -> tuple[str, dict[str, Any], PolicyOptions]:
    """How both are asked: in one line, as values, and as options for both. Benchmarks have a sampling of their own."""
    from spiral.policies.registry import effective_prompt, effective_sampling, saved_settings

    asked, own = saved_settings(like), saved_settings(other)
    prompt, sampling = effective_prompt(asked, options), effective_sampling(asked, options)
    words = [
        f"{prompt.template} template, {prompt.observation} observations",
        f"{'with' if prompt.thinking else 'without'} thinking, {'with' if prompt.example else 'without'} an example",
        *([f"system prompt {prompt.system!r}"] if prompt.system else []),
        *([f"temperature {sampling.temperature:g}"] if in_games else []),
        *([f"top-p {sampling.top_p:g}"] if in_games and sampling.top_p < 1 else []),
        *([f"at most {sampling.max_new_tokens} new tokens"] if in_games else []),
        f"engine {options.engine}",
        *([f"context {options.context}"] if options.context else []),
    ]
    why = f"as {like} was trained" if asked.from_run or asked.prompt is not None else "by the defaults"
    line = f"Both are asked alike, {why}: {', '.join(words)}."
    if own.from_run or own.prompt is not None:
        left, given = effective_prompt(own, options).model_dump(), prompt.model_dump()
        if own.from_run and in_games:
            left, given = left | effective_sampling(own, options).model_dump(), given | sampling.model_dump()
        otherwise = [key for key in given | left if given.get(key) != left.get(key)]
        if otherwise:
            values = ", ".join(f"{key.replace('_', '-')} {left.get(key)}" for key in otherwise)
            line += f" {other} was trained with {values}; --each-as-trained asks it so."
    asking = {"like": like, "prompt": prompt.model_dump(), "sampling": sampling.model_dump(), "engine": options.engine}
    return line, asking, dataclasses.replace(options, saved=asked)


def _unplayed(plan: Plan, rows: Sequence[Row]) -> list[str]:
    """The games of which no deal was played to its end by both, and which so have no row."""
    measures = {row.measure for row in rows}
    keys = [f"{spec} against {other}" for spec, other in plan.games]
    missing = [key for key in keys if f"{key}: score" not in measures]
    return [f"{key} is left out: no pair of games was played by both" for key in missing]


def _as_the_run(a: str, b: str, opponents: Names) -> tuple[list[tuple[str, str]], list[str]]:
    """What a run measures itself on. Raises `ValueError` where neither model comes from a run."""
    from spiral.core.settings import checked
    from spiral.evaluation.settings import EvaluationConfig
    from spiral.policies import able_opponents
    from spiral.policies.registry import is_language_model, run_config

    for model in (b, a):
        config = run_config(model) if is_language_model(model) else {}
        found = checked(EvaluationConfig, config["evaluation"]) if "evaluation" in config else None
        if found is not None and (found.games or found.exploitability):
            asked = opponents or found.opponents
            pairs = [(spec, name) for spec in found.games for name in able_opponents(asked, load_game(spec))]
            return pairs, found.exploitability
    raise ValueError(
        "neither model comes from a run that says what to measure; add --game GAME, --exploitability GAME or"
        " --task TASK"
    )


def _benchmarks(
    tasks: Sequence[str], data: Sequence[str], limit: int | None, samples: int | None, budget: int | None, seed: int
) -> list[Benchmark]:
    """The tasks with their problems loaded."""
    from spiral.evaluation.reasoning.measuring import load_benchmark

    files = dict(_task_and_file(entry) for entry in data)
    unused = sorted(set(files) - set(tasks))
    if unused:
        raise ValueError(f"got --data for {', '.join(unused)}, which no --task names")
    return [
        load_benchmark(name, data=files.get(name), limit=limit, samples=samples, max_new_tokens=budget, seed=seed)
        for name in dict.fromkeys(tasks)
    ]


def _task_and_file(entry: str) -> tuple[str, Path]:
    task, equals, file = entry.partition("=")
    if not equals or not task or not file:
        raise ValueError(f"got --data {entry!r}; expected TASK=FILE.jsonl")
    return task, Path(file)


def _measured(name: str, plan: Plan, options: PolicyOptions, progress: Progress) -> dict[str, Any]:
    """Everything about one model, by what it was measured on; one model is loaded at a time."""
    from spiral.policies.registry import is_language_model, load_language_policy

    if not is_language_model(name):
        if plan.benchmarks:
            raise ValueError(f"got {name!r}, which plays games only; a benchmark takes a language model")
        games = _games(name, plan, options, None, progress)
        return {ASKED: {}} | games | _theory(name, plan, options, None, progress)
    progress.stage(f"loading {name}")
    with contextlib.closing(load_language_policy(name, options)) as language:
        return (
            {ASKED: {**language.codec.config.model_dump(), **language.sampling.model_dump()}}
            | _games(name, plan, options, language, progress)
            | _theory(name, plan, options, language, progress)
            | _replies(name, plan, language, progress)
        )


def _games(
    name: str, plan: Plan, options: PolicyOptions, language: LanguagePolicy | None, progress: Progress
) -> dict[str, Any]:
    """The episodes of every game against every opponent."""
    from spiral.core.policy import NotPlayedError
    from spiral.evaluation import measurements
    from spiral.policies.registry import PolicyOptions, load_policy

    found: dict[str, Any] = {}
    for spec, other in plan.games:
        rules = load_game(spec)
        player: Policy = language or load_policy(name, rules, options)
        progress.stage(f"loading {other}")
        opponent = load_policy(other, rules, PolicyOptions(device=options.device, compute=options.compute))
        games: dict[str, Any] = {"episodes": plan.episodes, "seed": plan.seed}
        place = measurements.games_directory(player, opponent, rules, out=plan.out, **games)
        progress.stage(f"{name}: {spec} against {other}", plan.episodes, "games")
        how: dict[str, Any] = {"in_flight": plan.in_flight, "place": place, "reuse": not plan.fresh}
        try:
            _, found[f"{spec} against {other}"] = measurements.measure_games(
                player, opponent, rules, watch=progress.games, **how, **games
            )
        except NotPlayedError as error:
            raise Stopped(str(error)) from error
        found[f"{spec} against {other}{FILES}"] = place.path.name
    return found


def _theory(
    name: str, plan: Plan, options: PolicyOptions, language: LanguagePolicy | None, progress: Progress
) -> dict[str, Any]:
    """Exploitability in every game, and of how many states."""
    from spiral.evaluation import measurements
    from spiral.policies.registry import load_exploitable_policy

    found: dict[str, Any] = {}
    for spec in plan.exploitability:
        progress.stage(f"{name}: exploitability in {spec}")
        rules = load_game(spec)
        known = language or load_exploitable_policy(name, rules, options)
        place = measurements.theory_directory(name, known, rules, samples=None, seed=plan.seed, out=plan.out)
        found[spec] = measurements.measure_kept_theory(
            known, rules, samples=None, seed=plan.seed, place=place, reuse=not plan.fresh, watch=progress.count
        )
        found[f"{spec} states"] = len(place.read_items())
        found[f"{spec}{FILES}"] = place.path.name
    return found


def _replies(name: str, plan: Plan, language: LanguagePolicy, progress: Progress) -> dict[str, Any]:
    """The attempts at every benchmark."""
    from spiral.evaluation.reasoning.measuring import benchmark_directory, measure_benchmark

    found: dict[str, Any] = {}
    for benchmark in plan.benchmarks:
        place = benchmark_directory(language, benchmark, name, plan.out)
        progress.stage(f"{name}: {benchmark.task.name}", benchmark.attempts, "replies")
        how: dict[str, Any] = {"place": place, "fresh": plan.fresh, "in_flight": plan.in_flight}
        _, found[benchmark.task.name] = measure_benchmark(language, benchmark, name, tell=progress.update, **how)
        found[f"{benchmark.task.name}{FILES}"] = place.path.name
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
    measured: Sequence[dict[str, Any]],
    asked: dict[str, Any] | None,
) -> Path:
    """The table as Markdown, CSV and JSON beside the results that it was made from."""
    from spiral.core.files import write_text_atomically
    from spiral.evaluation.comparison import to_csv, to_markdown
    from spiral.evaluation.results import result_directory
    from spiral.policies.registry import is_language_model

    # The names of the results end in hashes of all their settings, so other settings make another comparison.
    files = [{key: name for key, name in found.items() if key.endswith(FILES)} for found in measured]
    measures = [row.measure for row in rows]
    settings = {"a": a, "b": b, "rows": measures, "seed": plan.seed, "episodes": plan.episodes, "files": files}
    whose = b if is_language_model(b) else a
    place = result_directory("compare", f"{Path(a).name}-{Path(b).name}", settings, model=whose, out=plan.out)
    with place.measuring():
        for name, text in (("table.md", to_markdown(rows, a, b)), ("table.csv", to_csv(rows))):
            write_text_atomically(place.path / name, text)
        asked = {} if asked is None else {"asked_alike": asked}
        place.write({"a": a, "b": b, **asked, "rows": [row.to_json() for row in rows], "notes": list(notes)})
    return place.path


def _print_rows(rows: Sequence[Row], a: str, b: str, files: Path) -> None:
    from spiral.evaluation.comparison import estimate_text

    table = plain_table("", "n", a, b, "B - A (95% interval)", "p (Holm)")
    for row in rows:
        p_value = "" if row.p_adjusted is None else f"{row.p_adjusted:.3g}{' *' if row.significant else ''}"
        difference = estimate_text(row.difference, signed=True)
        table.add_row(row.measure, str(row.n), estimate_text(row.a), estimate_text(row.b), difference, p_value)
    console = wide_console()
    console.print(table)
    console.print("n: pairs of games, information states or problems. *: significant at 5% after Holm's correction.")
    console.print(f"Markdown, CSV and JSON: {shlex.quote(shown_path(files))}", soft_wrap=True)
