"""Metrics of a training step's episodes, and keys of metrics that name a game, opponent, task or worker.

A key is a plain path of the characters A-Z a-z 0-9 _ - . and /, such as `selfplay/kuhn_poker-5/player0/return`, which
every tracker accepts. Nothing parses a key: code that needs a metric builds its key. docs/metrics.md lists all of them.

Games against another opponent are kept separate from those of the policy against itself, and turns of players that do
not learn are not counted. Each player has its own metrics: a player that always loses has a baseline that follows, no
advantage, and learns nothing while the averages still look fine. `thinking/` metrics show a thinking collapse.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from spiral.core.information import thought_information
from spiral.core.records import Episode, Generation, Turn

Metrics = dict[str, float]
Item = TypeVar("Item", Episode, Turn, Generation)
_BOX = re.compile(r"\\(?:boxed|fbox|framebox|fcolorbox|bbox)(?![A-Za-z])")
"""The beginning of a box, as in `spiral.text.boxes`, which is in a higher layer."""
_SPEC = re.compile(r"\s*([A-Za-z0-9_.:/-]+(?:@\d+)?)\s*(?:\((.*)\))?\s*", re.DOTALL)
_UNSAID = ("hands", "depth")
"""Parameters whose value is enough: `kuhn_poker(hands=5)` becomes `kuhn_poker-5`."""
MAX_NAME = 80
"""Characters of a game's or opponent's name in a key."""
DROPPED_TURNS = "selfplay/dropped_turns"
MAX_PLAYERS = 16
"""Players whose metrics are looked up."""


def metric_name(spec: str) -> str:
    """A game's or opponent's name as one part of a metric key: `kuhn_poker(hands=5)` becomes `kuhn_poker-5`.

    A name that cannot be written in the allowed characters, or is too long, ends in a hash of the whole name.
    """
    match = _SPEC.fullmatch(spec)
    name, inner = match.groups() if match else (spec, None)
    parts = [re.sub(r"[/:@]", ".", name)]
    for item in filter(None, map(str.strip, (inner or "").split(","))):
        parameter, _, value = (part.strip().strip("'\"") for part in item.partition("="))
        parts.append(value if parameter in _UNSAID else f"{parameter}.{value}")
    text = "-".join(parts)
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "_", text).strip(".")[:MAX_NAME]
    return safe if safe == text else f"{safe}-{hashlib.sha256(spec.encode('utf-8', 'replace')).hexdigest()[:8]}"


@dataclasses.dataclass(frozen=True, kw_only=True, order=True)
class Matchup:
    """A game, and who plays it: the policy against itself, or against an opponent that does not learn."""

    game: str
    """The game's spec."""
    opponent: str = ""
    """Empty for games of the policy against itself."""

    def __str__(self) -> str:
        return f"{self.game} against {self.opponent}" if self.opponent else self.game

    def key(self, name: str, player: int | None = None) -> str:
        """The key of a training metric of these games, or of one player in them."""
        group = (
            f"against/{metric_name(self.game)}/{metric_name(self.opponent)}"
            if self.opponent
            else (f"selfplay/{metric_name(self.game)}")
        )
        return f"{group}/{name}" if player is None else f"{group}/player{player}/{name}"

    def evaluation_key(self, name: str) -> str:
        """The key of an evaluation metric; without an opponent, of the game's exact theory."""
        opponent = f"/{metric_name(self.opponent)}" if self.opponent else ""
        return f"evaluation/{metric_name(self.game)}{opponent}/{name}"


def learning_players(metrics: Mapping[str, object], matchup: Matchup) -> list[int]:
    """The players whose metrics a step has for these games, that is, those that learned."""
    return [player for player in range(MAX_PLAYERS) if matchup.key("return", player) in metrics]


def benchmark_key(task: str, name: str) -> str:
    """The key of a benchmark's metric."""
    return f"benchmark/{metric_name(task)}/{name}"


def worker_key(worker: int, name: str) -> str:
    """The key of a metric of one rollout worker."""
    return f"cluster/worker{worker}/{name}"


def episode_metrics(episodes: Sequence[Episode], times: Mapping[str, float]) -> Metrics:
    """Metrics of one step; `times` holds the seconds of each phase under its key.

    Rates are per second of the whole step. Games that could not be played are counted and otherwise left out.
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
        "policies/cut_off": _share(generations, lambda generation: generation.stop_reason != "stop"),
        "rollout/cut_by_context": _share(generations, lambda generation: generation.stop_reason == "context"),
        "rollout/prompt_too_long": _share(generations, _no_room),
        "rollout/illegal": _share(turns, lambda turn: turn.action is None),
        "rollout/unboxed": _share(turns, is_unboxed),
        "rollout/truncated_games": _share(episodes, lambda episode: episode.outcome == "truncated"),
    }
    metrics.update(_history_metrics(episodes))
    metrics.update(_thinking_metrics(generations))
    for matchup in sorted({matchup_of(episode) for episode in episodes}):
        metrics.update(_game_metrics(matchup, [episode for episode in episodes if matchup_of(episode) == matchup]))
    metrics.update(times)
    metrics["time/step_s"] = seconds
    metrics["time/games_per_s"] = len(episodes) / max(seconds, 1e-9)
    metrics["time/turns_per_s"] = len(turns) / max(seconds, 1e-9)
    metrics["time/tokens_per_s"] = sum(lengths) / max(seconds, 1e-9)
    return metrics


def _history_metrics(episodes: Sequence[Episode]) -> Metrics:
    """How many earlier turns prompts held, and how often some were left out; empty for prompts without a history."""
    held, cut = [], []
    for episode in episodes:
        earlier: Counter[int] = Counter()
        for turn in episode.turns:
            if turn.player in episode.learning_players and turn.history_turns is not None:
                held.append(turn.history_turns)
                cut.append(turn.history_turns < earlier[turn.player])
            earlier[turn.player] += 1
    return {"rollout/history_turns": _mean(held), "rollout/history_cut": _mean(cut)} if held else {}


def _thinking_metrics(generations: Sequence[Generation]) -> Metrics:
    """Mean lengths of thoughts and answers in tokens; shares of empty thoughts and of replies that end in thought."""
    return {
        "thinking/length": _mean([g.thinking_tokens for g in generations]),
        "thinking/answer_length": _mean([len(g.token_ids) - g.thinking_tokens for g in generations]),
        "thinking/empty": _share(generations, lambda g: not g.has_thought),
        "thinking/unclosed": _share(generations, lambda g: 0 < g.thinking_tokens == len(g.token_ids)),
    }


def matchup_of(episode: Episode) -> Matchup:
    """The game of an episode and the opponent that does not learn, if there is one."""
    return Matchup(game=episode.game, opponent=episode.opponent)


def _game_metrics(matchup: Matchup, episodes: Sequence[Episode]) -> Metrics:
    """Results, illegal moves and response lengths of each player that learned in one kind of game."""
    key = matchup.key
    metrics: Metrics = {key("games"): float(len(episodes))}
    metrics[key("turns")] = sum(len(episode.turns) for episode in episodes) / len(episodes)
    for player in sorted({player for episode in episodes for player in episode.learning_players}):
        own = [episode for episode in episodes if player in episode.learning_players]
        turns = [turn for episode in own for turn in episode.turns if turn.player == player]
        generations = _generations(turns)
        metrics[key("return", player)] = sum(episode.returns[player] for episode in own) / len(own)
        metrics[key("reward", player)] = sum(episode.rewards[player] for episode in own) / len(own)
        metrics[key("win", player)] = sum(episode.result(player) > 0 for episode in own) / len(own)
        metrics[key("illegal", player)] = _share(turns, lambda turn: turn.action is None)
        metrics[key("response_length", player)] = _mean([len(g.token_ids) for g in generations])
        metrics[key("thinking_length", player)] = _mean([g.thinking_tokens for g in generations])
        metrics[key("thinking_empty", player)] = _share(generations, lambda g: not g.has_thought)
        metrics |= _of_distribution(turns, partial(key, player=player))
    metrics[key("forfeits")] = _share(episodes, lambda episode: episode.outcome == "illegal_move")
    metrics[key("draw")] = _share(episodes, _is_draw)
    others = [turn for episode in episodes for turn in episode.turns if turn.player not in episode.learning_players]
    if theirs := _generations(others):  # of opponents that are models here
        metrics[key("opponent_cut_off")] = _share(theirs, lambda generation: generation.stop_reason != "stop")
    return metrics


def _of_distribution(turns: Sequence[Turn], key: Callable[[str], str]) -> Metrics:
    """Entropy of a player's replies, and how much its thoughts depend on the prompt where that can be estimated."""
    metrics: Metrics = {}
    generations = _generations(turns)
    if tokens := sum(len(g.token_ids) for g in generations):
        metrics[key("entropy")] = -sum(float(g.logprobs.sum(dtype="float64")) for g in generations) / tokens
    thoughtful = [turn for turn in turns if turn.generation is not None and turn.prompt_ids is not None]
    thoughts = [g.token_ids[: g.thinking_tokens] for g in _generations(thoughtful)]
    if any(map(len, thoughts)):
        prompts = [turn.prompt_ids.tobytes() for turn in thoughtful if turn.prompt_ids is not None]
        information = thought_information(prompts, thoughts)
        if information is not None:
            metrics[key("thought_information")] = information
    return metrics


def _is_draw(episode: Episode) -> bool:
    return len(episode.returns) > 1 and len(set(episode.returns)) == 1


def _generations(turns: Sequence[Turn]) -> list[Generation]:
    """The generations of turns taken by language models."""
    return [turn.generation for turn in turns if turn.generation is not None]


def _mean(numbers: Sequence[int]) -> float:
    """The mean; 0 without numbers."""
    return sum(numbers) / max(1, len(numbers))


def is_unboxed(turn: Turn) -> bool:
    """Whether a model's answer has no box; a box inside its thoughts does not count."""
    generation = turn.generation
    if generation is None:
        return False
    unanswered = generation.thinking_tokens == len(generation.token_ids)
    return unanswered or _BOX.search(turn.reply.rpartition("</think>")[2]) is None


def _no_room(generation: Generation) -> bool:
    """Whether the prompt alone filled the context."""
    return generation.stop_reason == "context" and not len(generation.token_ids)


def _share(items: Sequence[Item], test: Callable[[Item], bool]) -> float:
    """The share of items for which `test` holds; 0 without items."""
    return sum(1 for item in items if test(item)) / max(1, len(items))
