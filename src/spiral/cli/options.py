"""Options that several commands share. A group of options is a dataclass, declared once.

    @expand_options
    def evaluate(model: Model, prompt: PromptOptions, engine: EngineOptions) -> None: ...

The command line of `evaluate` has an option for every field of the groups; the function gets the groups filled in.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from spiral.games import Game as Rules
    from spiral.policies.registry import PolicyOptions

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A name that `spiral models` lists, a run or checkpoint directory, a Hugging Face name or path,"
        " random, minimax or equilibrium.",
    ),
]
LanguageModel = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A name that `spiral models` lists, a run or checkpoint directory, a Hugging Face name or path, or"
        " endpoint:NAME.",
    ),
]
Game = Annotated[str, typer.Option(help="Such as tictactoe or 'kuhn_poker(hands=5)'; see `spiral games`.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same games.")]
InFlight = Annotated[int, typer.Option(min=1, help="Games or replies under way at once.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one setting; may be repeated.")
]


Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--task",
        help="math500, aime24, aime25, amc23, olympiadbench, minerva_math, gsm8k, gpqa_diamond, mmlu_pro,"
        " reasoning_gym/NAME, or paper for the paper's eight; may be repeated.",
    ),
]
Protocol = Annotated[
    str,
    typer.Option(
        help="Version of the paper: v3 takes 32 replies to each problem of AIME and AMC, 1 to others; v1 takes 4."
    ),
]
Samples = Annotated[int | None, typer.Option(min=1, help="Replies to each problem; left out: as the protocol says.")]
Shots = Annotated[
    int,
    typer.Option(
        min=0, max=64, help="Worked examples before questions of gpqa_diamond and mmlu_pro; 5 for base models."
    ),
]
ShotsData = Annotated[
    list[str] | None,
    typer.Option(metavar="TASK=FILE", help="JSONL of worked examples, in place of the hub's; may be repeated."),
]


def files_of_tasks(entries: Sequence[str], tasks: Sequence[str], option: str) -> dict[str, Path]:
    """The files of an option such as `--data TASK=FILE`, by task; with one task the file may stand alone.

    Raises `ValueError` for an entry of another form, or for a task that is not asked.
    """
    found: dict[str, Path] = {}
    for entry in entries:
        task, equals, file = entry.partition("=")
        if len(tasks) == 1 and (not equals or task not in tasks):
            task, file = tasks[0], entry
        if not task or not file.strip():
            raise ValueError(f"got {option} {entry!r}; expected TASK=FILE.jsonl")
        if task not in tasks:
            raise ValueError(f"got {option} for {task}, which no --task names; add --task {task}, or leave it out")
        if task in found:
            raise ValueError(f"got {option} for {task} twice; expected one file a task")
        found[task] = Path(file)
    return found


def path_argument(text: str) -> Path:
    """Parses a path. Refuses an empty one, as from a variable that is not set; it would be the current directory."""
    if not text.strip():
        raise typer.BadParameter("got an empty path; expected one such as '.' or 'runs/mine'")
    return Path(text)


Out = Annotated[
    Path | None,
    typer.Option(
        parser=path_argument,
        metavar="PATH",
        help="Directory for the result's files; left out: the one that the environment variable SPIRAL_RESULTS names,"
        " or results/ in MODEL's run, or here.",
    ),
]

RunDir = Annotated[
    Path | None,
    typer.Option(parser=path_argument, metavar="PATH", help="The run directory; runs/RECIPE-SEED if left out."),
]
RunSeed = Annotated[int | None, typer.Option(min=0, help="In place of run.seed.")]
RunModel = Annotated[str | None, typer.Option("--model", help="In place of model.path.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Resume from the last checkpoint; begin the run if there is none.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the whole recipe and the plan of its memory and tokens.")
]

_HOW = "How MODEL plays (left out: as it was trained)"
Template = Annotated[str | None, typer.Option(rich_help_panel=_HOW, help="chat, qwen3, r1 or llama.")]
Thinking = Annotated[
    bool | None, typer.Option("--thinking/--no-thinking", rich_help_panel=_HOW, help="Ask for reasoning first or not.")
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """How MODEL is prompted and sampled; None leaves its own choice."""

    template: Template = None
    observation: Annotated[str | None, typer.Option(rich_help_panel=_HOW, help="full or compact.")] = None
    thinking: Thinking = None
    example: Annotated[
        bool | None,
        typer.Option("--example/--no-example", rich_help_panel=_HOW, help="Show one worked example of the game first."),
    ] = None
    system: Annotated[str | None, typer.Option(rich_help_panel=_HOW, help="A system prompt.")] = None
    history: Annotated[
        str | None,
        typer.Option(rich_help_panel=_HOW, help="observation: every turn by itself; chat: after its earlier turns."),
    ] = None
    history_thoughts: Annotated[
        str | None, typer.Option(rich_help_panel=_HOW, help="With --history chat, of earlier replies: keep or drop.")
    ] = None
    temperature: Annotated[float | None, typer.Option(rich_help_panel=_HOW, help="0 takes the most likely token.")] = (
        None
    )
    top_p: Annotated[float | None, typer.Option(rich_help_panel=_HOW, help="Share of the probability kept.")] = None
    max_new_tokens: Annotated[int | None, typer.Option(rich_help_panel=_HOW, help="Most tokens of a reply.")] = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Where MODEL runs and in which precision."""

    device: Annotated[str, typer.Option(rich_help_panel=_HOW, help="auto, cpu, cuda, cuda:1 or mps.")] = "auto"
    compute: Annotated[str, typer.Option(rich_help_panel=_HOW, help="float32 or bfloat16.")] = "float32"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineOptions(DeviceOptions):
    """The same, and what generates its replies."""

    engine: Annotated[
        str, typer.Option(rich_help_panel=_HOW, help="transformers, vllm, or auto: vllm if installed.")
    ] = "transformers"
    tensor_parallel: Annotated[
        int | None,
        typer.Option(
            min=1,
            rich_help_panel=_HOW,
            help="vllm: GPUs that share out the model (left out: as many as in the run that MODEL comes from, or 1).",
        ),
    ] = None
    context: Annotated[
        int | None,
        typer.Option(
            min=1,
            rich_help_panel=_HOW,
            help="Most tokens of prompt and reply together; fewer take less memory (left out: the model's limit; with"
            " vllm at most 16,384, or more where replies or the run need it).",
        ),
    ] = None


_THEIRS = "How the opponent plays, if it is a model (left out: as it was trained, or else as MODEL plays)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpponentOptions:
    """How an opponent is prompted and sampled; None leaves its own choice, or MODEL's."""

    opponent_template: Annotated[
        str | None, typer.Option(rich_help_panel=_THEIRS, help="chat, qwen3, r1 or llama.")
    ] = None
    opponent_temperature: Annotated[float | None, typer.Option(rich_help_panel=_THEIRS, help="As --temperature.")] = (
        None
    )
    opponent_max_new_tokens: Annotated[
        int | None, typer.Option(rich_help_panel=_THEIRS, help="Most tokens of a reply; left out: at least MODEL's.")
    ] = None

    @property
    def given(self) -> dict[str, Any]:
        """The settings that are not None, by their names in a recipe."""
        values = {name.removeprefix("opponent_"): value for name, value in vars(self).items()}
        return {name: value for name, value in values.items() if value is not None}

    def check(self, opponents: Sequence[str]) -> None:
        """Raises `ValueError` for settings that no opponent takes."""
        from spiral.policies.scripted import is_scripted

        if self.given and all(map(is_scripted, opponents)):
            option = "--opponent-" + next(iter(self.given)).replace("_", "-")
            raise ValueError(f"got {option}, but {' and '.join(opponents)} writes no text; leave it out")


def opponent_options(theirs: OpponentOptions, options: PolicyOptions, model: str) -> PolicyOptions:
    """The options of an opponent of `model`: its own, the same engine and precision, and else as `model` plays.

    `options` are those of `model`.
    """
    from spiral.policies.registry import (
        PolicyOptions,
        PolicySettings,
        check_model,
        effective_prompt,
        effective_sampling,
        is_language_model,
        model_card,
    )

    beside = None
    if is_language_model(model):
        check_model(model, ())
        card = options.card or model_card(model)
        prompt, sampling = effective_prompt(card, options), effective_sampling(card, options)
        beside = PolicySettings(model=model, prompt=prompt, sampling=sampling)
    return PolicyOptions(
        device=options.device,
        compute=options.compute,
        engine=options.engine,
        tensor_parallel=options.tensor_parallel,
        context=options.context,
        alone=beside is None,
        beside=beside,
        setting="--opponent-{}",
        **theirs.given,
    )


def policy_options(prompt: PromptOptions, device: DeviceOptions, **more: Any) -> PolicyOptions:
    """The options of `spiral.policies.registry` from those of the command line; `more` are its other fields."""
    from spiral.policies.registry import PolicyOptions

    return PolicyOptions(**vars(prompt), **vars(device), **more)


def expand_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replaces each parameter that is a group of options by one keyword parameter for every field of the group."""
    parameters: list[inspect.Parameter] = []
    groups: dict[str, list[dataclasses.Field[Any]]] = {}
    types: dict[str, Any] = {}
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        kind = parameter.annotation
        if not dataclasses.is_dataclass(kind):
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        hints = get_type_hints(kind, include_extras=True)
        groups[name], types[name] = list(dataclasses.fields(kind)), kind
        parameters += [
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
            )
            for field in groups[name]
        ]

    @functools.wraps(command)
    def expanded(**values: Any) -> None:
        for name, fields in groups.items():
            values[name] = types[name](**{field.name: values.pop(field.name) for field in fields})
        command(**values)

    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return expanded


def check_episodes(games: Sequence[Rules], episodes: int | None) -> None:
    """Raises `ValueError` for a number of games in which MODEL cannot be every player equally often."""
    for rules in games:
        players = rules.num_players
        if episodes is None or (episodes >= players and episodes % players == 0):
            continue
        if players == 2:
            raise ValueError(
                f"got --episodes {episodes}; expected an even number of at least 2, half as player 0 and half as"
                " player 1"
            )
        raise ValueError(
            f"got --episodes {episodes}; expected a multiple of the {players} players of {rules.spec}, such as"
            f" {-(-max(episodes, 1) // players) * players}, since MODEL is each of them in turn"
        )
