"""What is measured of a step's episodes: results and illegal moves per game and seat, lengths, speed.

Games against somebody else are kept apart from those of the policy against itself (`Episode.matchup`), and of the other
one's turns nothing is counted.

Each seat is watched on its own: a seat that always loses has a baseline that follows, no advantage, and learns
nothing while the averages still look well. `thinking` metrics tell thinking collapse from learning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from spiral.core.records import Episode, Generation, Turn

Metrics = dict[str, float]
Item = TypeVar("Item", Episode, Turn, Generation)
_BOX = re.compile(r"\\(?:boxed|fbox|framebox|fcolorbox|bbox)(?![A-Za-z])")
"""What begins a box, as in `spiral.text.boxes`, which is a floor above."""


def episode_metrics(episodes: Sequence[Episode], times: Mapping[str, float]) -> Metrics:
    """Metrics of one step under flat `group/name` keys; `times` holds the seconds of each phase.

    Games, turns and tokens of replies a second are all of the whole step's seconds. Games that could not be played are
    counted, and left out of all else.
    """
    not_played = sum(episode.outcome == "not_played" for episode in episodes)
    episodes = [episode for episode in episodes if episode.outcome != "not_played"]
    turns = [turn for episode in episodes for turn in episode.turns if turn.player in episode.learning_players]
    generations = _generations(turns)
    lengths = [len(generation.token_ids) for generation in generations]
    seconds = sum(times.values())
    metrics: Metrics = {
        "rollout/games": float(len(episodes)),
        "rollout/not_played": float(not_played),
        "rollout/turns": float(len(turns)),
        "rollout/turns_per_game": len(turns) / max(1, len(episodes)),
        "rollout/response_tokens": float(sum(lengths)),
        "rollout/response_length": _mean(lengths),
        "rollout/response_length_max": float(max(lengths, default=0)),
        "rollout/cut_off": _share(generations, lambda generation: generation.stop_reason != "stop"),
        "rollout/cut_by_context": _share(generations, lambda generation: generation.stop_reason == "context"),
        "rollout/prompt_too_long": _share(generations, _no_room),
        "rollout/illegal": _share(turns, lambda turn: turn.action is None),
        "rollout/unboxed": _share(turns, _unboxed),
        "rollout/truncated_games": _share(episodes, lambda episode: episode.outcome == "truncated"),
    }
    metrics.update(_thinking_metrics(generations))
    for game in sorted({episode.matchup for episode in episodes}):
        metrics.update(_game_metrics(game, [episode for episode in episodes if episode.matchup == game]))
    metrics.update(times)
    metrics["time/step_s"] = seconds
    metrics["time/games_per_s"] = len(episodes) / max(seconds, 1e-9)
    metrics["time/turns_per_s"] = len(turns) / max(seconds, 1e-9)
    metrics["time/tokens_per_s"] = sum(lengths) / max(seconds, 1e-9)
    return metrics


def _thinking_metrics(generations: Sequence[Generation]) -> Metrics:
    """How long is thought and answered, in tokens; thoughts that are empty, and replies that end within them."""
    return {
        "thinking/length": _mean([g.thinking_tokens for g in generations]),
        "thinking/answer_length": _mean([len(g.token_ids) - g.thinking_tokens for g in generations]),
        "thinking/empty": _share(generations, lambda g: not g.has_thought),
        "thinking/unclosed": _share(generations, lambda g: 0 < g.thinking_tokens == len(g.token_ids)),
    }


def _game_metrics(game: str, episodes: Sequence[Episode]) -> Metrics:
    """Return, wins, illegal moves and response length of each seat that learned in one kind of game."""
    metrics: Metrics = {f"{game}/games": float(len(episodes))}
    metrics[f"{game}/turns"] = sum(len(episode.turns) for episode in episodes) / len(episodes)
    for seat in (0, 1):
        own = [episode for episode in episodes if seat in episode.learning_players]
        if not own:
            continue
        turns = [turn for episode in own for turn in episode.turns if turn.player == seat]
        generations = _generations(turns)
        metrics[f"{game}/return_seat_{seat}"] = sum(episode.returns[seat] for episode in own) / len(own)
        metrics[f"{game}/win_seat_{seat}"] = sum(e.returns[seat] > 0 for e in own) / len(own)
        metrics[f"{game}/illegal_seat_{seat}"] = _share(turns, lambda turn: turn.action is None)
        metrics[f"{game}/response_length_seat_{seat}"] = _mean([len(g.token_ids) for g in generations])
        metrics[f"{game}/thinking_length_seat_{seat}"] = _mean([g.thinking_tokens for g in generations])
    metrics[f"{game}/forfeits"] = _share(episodes, lambda episode: episode.outcome == "illegal_move")
    metrics[f"{game}/draw"] = _share(episodes, lambda episode: episode.returns[0] == episode.returns[1])
    return metrics


def _generations(turns: Sequence[Turn]) -> list[Generation]:
    """What language models sampled; other players' turns have nothing of the kind."""
    return [turn.generation for turn in turns if turn.generation is not None]


def _mean(numbers: Sequence[int]) -> float:
    """0 of none."""
    return sum(numbers) / max(1, len(numbers))


def _unboxed(turn: Turn) -> bool:
    """Whether a model's answer holds no box; one inside its thoughts is no answer."""
    generation = turn.generation
    if generation is None:
        return False
    unanswered = generation.thinking_tokens == len(generation.token_ids)
    return unanswered or _BOX.search(turn.reply.rpartition("</think>")[2]) is None


def _no_room(generation: Generation) -> bool:
    """Whether the prompt alone filled the context."""
    return generation.stop_reason == "context" and not len(generation.token_ids)


def _share(items: Sequence[Item], test: Callable[[Item], bool]) -> float:
    """The share of items for which `test` holds; 0 of none."""
    return sum(1 for item in items if test(item)) / max(1, len(items))
