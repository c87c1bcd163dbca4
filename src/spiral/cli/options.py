"""Options that several commands share: how a MODEL is prompted and sampled, and where it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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

_HOW = "How MODEL plays (left out: as it was trained)"
Template = Annotated[str | None, typer.Option(rich_help_panel=_HOW, help="chat, qwen3, r1 or llama.")]
Observation = Annotated[str | None, typer.Option(rich_help_panel=_HOW, help="full or compact.")]
Thinking = Annotated[
    bool | None, typer.Option("--thinking/--no-thinking", rich_help_panel=_HOW, help="Ask for reasoning first or not.")
]
Example = Annotated[
    bool | None,
    typer.Option("--example/--no-example", rich_help_panel=_HOW, help="Show one worked example of the game first."),
]
System = Annotated[str | None, typer.Option(rich_help_panel=_HOW, help="A system prompt.")]
Temperature = Annotated[float | None, typer.Option(rich_help_panel=_HOW, help="0 takes the most likely token.")]
TopP = Annotated[float | None, typer.Option(rich_help_panel=_HOW, help="Share of the probability kept.")]
MaxNewTokens = Annotated[int | None, typer.Option(rich_help_panel=_HOW, help="Response budget in tokens.")]
Device = Annotated[str, typer.Option(rich_help_panel=_HOW, help="auto, cpu, cuda, cuda:1 or mps.")]
Compute = Annotated[str, typer.Option(rich_help_panel=_HOW, help="float32 or bfloat16.")]
Engine = Annotated[str, typer.Option(rich_help_panel=_HOW, help="transformers, vllm, or auto: vllm if installed.")]
Context = Annotated[
    int | None,
    typer.Option(
        min=1,
        rich_help_panel=_HOW,
        help="Most tokens of prompt and reply together; fewer take less memory (left out: the model's limit; with"
        " vllm at most 16,384, or more where replies or the run need it).",
    ),
]


def a_path(text: str) -> Path:
    """A path of the command line. An empty one, as from a variable that is not set, would be the current directory."""
    if not text.strip():
        raise typer.BadParameter("got an empty path; expected one such as '.' or 'runs/mine'")
    return Path(text)


Out = Annotated[
    Path | None,
    typer.Option(
        parser=a_path,
        metavar="PATH",
        help="Directory for the result's files; left out: the one that the environment variable SPIRAL_RESULTS names,"
        " or results/ in MODEL's run, or here.",
    ),
]
InFlight = Annotated[int, typer.Option(min=1, help="Games or replies under way at once.")]


def check_episodes(episodes: int) -> None:
    """Raises `ValueError` for what cannot be shared evenly between the seats."""
    if episodes < 2 or episodes % 2:
        raise ValueError(f"got --episodes {episodes}; expected an even number of at least 2, half for each seat")
