"""SPIRAL's side of self-play against `verifiers`: game loop and engine in one process, as in a rollout worker."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from benchmarks.common import clock, versions
from benchmarks.rounds import Round, parser, seeds, write_rounds
from spiral.core.policy import SamplingConfig
from spiral.core.records import Episode
from spiral.core.seeds import derive_seed
from spiral.games import load_game
from spiral.inference.base import LanguagePolicy
from spiral.inference.engines import Weights, load_for_engine, make_policy
from spiral.inference.settings import EngineConfig
from spiral.models.settings import ModelConfig
from spiral.rollout.loop import Match, play
from spiral.text import PromptConfig


def play_round(policy: LanguagePolicy, options: argparse.Namespace, number: int) -> Round:
    """One round of games; its deals are those that the environment of verifiers has."""
    game = load_game(options.game)
    matches = [
        Match(game=game, seed=derive_seed(0, "verifiers", deal), policies=(policy, policy), max_turns=game.max_turns)
        for deal in seeds(options, number)
    ]
    with clock() as timing:
        episodes = play(matches, len(matches))
    return counted(timing.seconds, episodes)


def counted(seconds: float, episodes: Sequence[Episode]) -> Round:
    """Turns and tokens of games."""
    turns = [turn for episode in episodes for turn in episode.turns]
    return Round(
        seconds=seconds,
        games=len(episodes),
        turns=len(turns),
        prompt_tokens=sum(len(turn.prompt_ids) for turn in turns if turn.prompt_ids is not None),
        reply_tokens=sum(len(turn.generation.token_ids) for turn in turns if turn.generation is not None),
        illegal=sum(episode.turns[-1].action is None for episode in episodes if episode.turns),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Plays the rounds and writes them."""
    options = parser("SPIRAL's side of self-play.")
    options.add_argument("--engine", choices=("transformers", "vllm"), default="vllm")
    options.add_argument("--compute", choices=("float32", "bfloat16"), default="bfloat16")
    options.add_argument("--context", type=int, required=True)
    given = options.parse_args(arguments)
    engine = EngineConfig(kind=given.engine, context=given.context, max_rows=given.games)
    model = ModelConfig(path=given.model, compute=given.compute)
    policy = make_policy(
        engine,
        model,
        load_for_engine(model, engine),
        PromptConfig(template="chat", history="chat", thinking=given.thinking),
        SamplingConfig(max_new_tokens=given.tokens, temperature=given.temperature),
        weights=Weights.FIXED,
    )
    try:
        rounds = [play_round(policy, given, number) for number in range(given.warmup + given.repeats)]
    finally:
        policy.close()
    write_rounds(given.out, rounds[given.warmup :], versions())


if __name__ == "__main__":
    main()
