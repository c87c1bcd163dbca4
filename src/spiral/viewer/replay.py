"""One episode, turn by turn: the states, what each player was shown and wrote, its tokens, credit and judgement."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spiral.core.records import Episode, Turn
from spiral.core.steps import models_of_run
from spiral.core.storage import read_episodes
from spiral.core.transcript import game_text
from spiral.games import Game, State, load_game
from spiral.games.failures import GameError
from spiral.games.registry import ADAPTERS, game_names
from spiral.text import split_reply
from spiral.theory.judgement import Judgement, TimeUpError, judge_decision
from spiral.viewer.drawings import drawing
from spiral.viewer.run import ViewedRun, notice

SUBTRACTING = ("rae", "rloo", "batch_mean")
"""Estimators whose advantage is the reward less a baseline."""
MODELS = Path(__file__).parents[1] / "models"
BUILT_IN = ("nano", "nano-think")
MAX_STATES = 5000
JUDGE_SECONDS = 2.0
"""How long an answer waits for the judgement of a game's moves."""


class Replay:
    """The episodes of a run, one at a time."""

    def __init__(self, run: ViewedRun, *, own_games: bool = False) -> None:
        """With `own_games`, games are imported that are neither built in nor installed, which runs their code."""
        self._run = run
        self._own_games = own_games

    def episode(self, file: Path, step: int, number: int) -> dict[str, Any]:
        """Everything about an episode. Raises `LookupError` where the file has no such episode."""
        episode = self.record(file, step, number)
        notices: list[str] = []
        game, states = None, list[tuple[State, tuple[str, ...]]]()
        try:
            game = self.game(episode.game)
            states = walk(game, episode)
        except (Exception, SystemExit) as error:  # a game may be anyone's code
            notices.append(notice(f"The boards of this game cannot be drawn: {error}."))
        recipe, _ = self._run.recipe()
        tokenizer, missing = self._tokenizer(recipe)
        if missing and any(turn.generation is not None for turn in episode.turns):
            notices.append(missing)
        judged = self._judged(game, states, episode)
        sampled = _section(recipe, "loss").get("kind") != "nll"
        turns = [
            _turn(
                turn,
                states[index][0] if states else None,
                _judgement(turn, judged.turns[index], _loses(episode, index)),
                tokenizer,
                sampled,
            )
            for index, turn in enumerate(episode.turns)
        ]
        if episode.fault:
            notices.append(notice(f"This game was not played to its end: {episode.fault}."))
        if any(turn.generation is not None for turn in episode.turns) and not _has_learning(episode):
            notices.append("Advantages and the learner's log-probabilities of this episode are not on record.")
        return {
            "run": self._run.id,
            "step": step,
            "episode": number,
            "game": episode.game,
            "seed": str(episode.seed),  # a number of JavaScript loses digits above 2**53
            "attempt": episode.attempt,
            "policies": [seat.policy for seat in episode.seats],
            "trainable": [seat.trainable for seat in episode.seats],
            "outcome": episode.outcome,
            "fault": episode.fault,
            "returns": list(episode.returns),
            "rewards": list(episode.rewards),
            "baselines": _baselines(episode, recipe),
            "blunder": _blunder(turns),
            "judging": judged.time_up,
            "judging_notes": judged.notes(),
            "notices": notices,
            "states": [_state(*state, episode, index) for index, state in enumerate(states)],
            "turns": turns,
        }

    def judgements(self, file: Path, step: int, number: int) -> dict[str, Any]:
        """The judgements alone, which goes on where `episode` had no more time."""
        episode = self.record(file, step, number)
        game = self.game(episode.game)
        judged = self._judged(game, walk(game, episode), episode)
        turns = [
            {"action": turn.action, "judgement": _judgement(turn, judged.turns[index], _loses(episode, index))}
            for index, turn in enumerate(episode.turns)
        ]
        return {
            "judgements": [turn["judgement"] for turn in turns],
            "blunder": _blunder(turns),
            "judging": judged.time_up,
            "judging_notes": judged.notes(),
        }

    def _judged(self, game: Game | None, states: Sequence[tuple[State, tuple[str, ...]]], episode: Episode) -> _Judged:
        if game is None or not states:
            return _Judged(turns=[None] * len(episode.turns), first=len(episode.turns))
        return _judge(game, states, episode)

    def record(self, file: Path, step: int, number: int) -> Episode:
        """An episode as it is on disk. Raises `LookupError` where the file has no such episode."""
        found = read_episodes(file, only=number) if number >= 0 else []
        if not found:
            raise LookupError(f"run {self._run.name} has no episode {number} in step {step}")
        return found[0]

    def text(self, file: Path, step: int, number: int) -> str:
        """An episode in words, as it is copied."""
        episode = self.record(file, step, number)
        try:
            self.game(episode.game)
            return game_text(episode)
        except (Exception, SystemExit) as error:
            return f"{_plain_text(episode)}\n\n(told without the game's rules: {error})"

    def game(self, spec: str) -> Game:
        """The game of a spec. Raises `ValueError` for one that would import code which only the run names."""
        name = spec.partition("(")[0].strip()
        known = name in game_names() or name.partition("/")[0] in ADAPTERS
        if not known and not self._own_games:
            raise ValueError(
                f"{name[:80]} is neither built in nor installed, and a run must not choose what code is imported; start"
                " `spiral view` with --own-games if you trust it"
            )
        return load_game(spec)

    def _tokenizer(self, recipe: Mapping[str, Any]) -> tuple[Any, str]:
        """The tokenizer of the run's model, and a notice without one."""
        directories = [path for _, path in sorted(models_of_run(self._run.path).items(), reverse=True)]
        directories = [path for path in directories if self._run.inside(path)]
        named = str(_section(recipe, "model").get("path", ""))
        directories += [MODELS / named.replace("-", "_")] if named in BUILT_IN else []
        for directory in directories:
            file = directory / "tokenizer.json"
            if file.is_file():
                return _load_tokenizer(file, file.stat().st_mtime_ns), ""
        return None, "No tokenizer is left with the run's checkpoints, so tokens are shown by their numbers."


@functools.lru_cache(maxsize=4)
def _load_tokenizer(file: Path, changed: int) -> Any:  # noqa: ARG001 (what it is kept for)
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(file))


def walk(game: Game, episode: Episode) -> list[tuple[State, tuple[str, ...]]]:
    """The state before each turn and the last one, each with the actions before it.

    Raises:
        GameError: The actions cannot be played by the game's rules of today.
    """
    state, before = game.initial_state(), list[str]()
    decisions: list[tuple[State, tuple[str, ...]]] = []
    for action in episode.actions:
        if not state.is_chance:
            decisions.append((state, tuple(before)))
        state = state.apply(action)
        before.append(action)
    decisions.append((state, tuple(before)))
    legal = sum(turn.action is not None for turn in episode.turns)
    opening = len(decisions) - 1 - legal
    if opening < 0 or len(decisions) > MAX_STATES:
        raise GameError(f"its {len(episode.actions)} actions do not fit its {len(episode.turns)} turns")
    states = decisions[opening:]
    # A turn without an action leaves the state as it is.
    return states + [states[-1]] * (len(episode.turns) + 1 - len(states))


def _state(state: State, before: Sequence[str], episode: Episode, index: int) -> dict[str, Any]:
    last = index == len(episode.turns)
    player = 0 if last else episode.turns[index].player
    text = state.observation(player)
    if last and state.revealed():
        text = f"{text}\n{state.revealed()}"
    return {"actions_so_far": list(before), "board": drawing(state), "text": text}


def _turn(
    turn: Turn,
    state: State | None,
    judgement: Mapping[str, Any] | None,
    tokenizer: Any,
    sampled: bool,
) -> dict[str, Any]:
    opened = turn.generation is not None and turn.generation.thinking_tokens == len(turn.generation.token_ids)
    thought = split_reply(turn.reply)
    tokens = _tokens(turn, tokenizer, sampled)
    return {
        "player": turn.player,
        "observation": turn.observation,
        "thinking": turn.reply if opened and turn.reply else thought.thinking,
        "answer": "" if opened else thought.answer,
        "action": turn.action,
        "legal_actions": list(state.legal_actions()) if state is not None and state.current_player >= 0 else [],
        "reply": turn.reply,
        "stop_reason": None if turn.generation is None else turn.generation.stop_reason,
        "advantage": _mean(turn.advantages),
        "reward": turn.reward,
        "tokens": tokens,
        "judgement": judgement,
    }


def _judgement(turn: Turn, judgement: Judgement | None, forfeited: float | None) -> dict[str, Any] | None:
    """The judgement of a turn, with what the player gave away."""
    if judgement is None:
        return None
    played = forfeited if turn.action is None else judgement.values.get(turn.action)
    regret = None
    if turn.action in judgement.values:
        regret = judgement.regret(str(turn.action))
    elif played is not None:
        regret = max(judgement.values.values()) - played
    return {
        "method": judgement.method,
        "values": dict(judgement.values),
        "best": list(judgement.best),
        "played": played,
        "regret": regret,
        "hand": judgement.hand,
    }


def _tokens(turn: Turn, tokenizer: Any, sampled: bool) -> list[dict[str, Any]]:
    """The tokens with their text and numbers; [] where no model wrote the reply.

    Tokens that were not `sampled` but are an expert's have no log-probabilities.
    """
    generation = turn.generation
    if generation is None:
        return []
    ids = [int(token) for token in generation.token_ids]
    advantages = _floats(turn.advantages, ids)
    if len(advantages) == 1:
        advantages *= len(ids)
    learner = _floats(turn.learner_logprobs, ids)
    return [
        {
            "text": text,
            "logprob": logprob if sampled else None,
            "gap": logprob - of_learner if sampled and of_learner is not None and logprob is not None else None,
            "advantage": advantage,
            "part": "thinking" if index < generation.thinking_tokens else "answer",
        }
        for index, (text, logprob, of_learner, advantage) in enumerate(
            itertools.zip_longest(_texts(ids, tokenizer), _floats(generation.logprobs, ids), learner, advantages)
        )
    ]


def _floats(values: Iterable[float] | None, ids: Sequence[int]) -> list[float]:
    """Numbers of tokens, at most one for each."""
    return [] if values is None else [float(value) for value in values][: len(ids)]


def _texts(ids: Sequence[int], tokenizer: Any) -> list[str]:
    """The text that each token adds; a character of several tokens comes with its last one."""
    if tokenizer is None:
        return [f"⟨{token}⟩" for token in ids]
    from tokenizers.decoders import DecodeStream

    stream, texts = DecodeStream(skip_special_tokens=False), []
    for token in ids:
        if tokenizer.id_to_token(token) is None:  # beyond the vocabulary
            texts.append(f"⟨{token}⟩")
            continue
        try:
            texts.append(stream.step(tokenizer, token) or "")
        except Exception:  # bytes that are no text
            stream = DecodeStream(skip_special_tokens=False)
            texts.append(f"⟨{token}⟩")
    return texts


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Judged:
    """The judgements of a game's turns, as far as they are made."""

    turns: Sequence[Judgement | None]
    first: int
    """The first turn that was judged; the number of turns where none was."""
    time_up: bool = False
    """Whether asking again gives more."""
    fault: str = ""

    def notes(self) -> list[str]:
        """What is not judged, where a part of the game is."""
        if self.fault:
            return [notice(f"{self._left()} not judged: {self.fault}.")]
        if self.time_up:
            return [f"{self._left()} not judged yet: this takes longer than {JUDGE_SECONDS:g} s, and goes on."]
        if 0 < self.first < len(self.turns):
            return [f"{self._left()} not judged: the positions that can follow are too many, or not covered by theory."]
        return []

    def _left(self) -> str:
        return "Turn 1 is" if self.first == 1 else f"Turns 1 to {self.first} are"


def _judge(game: Game, states: Sequence[tuple[State, tuple[str, ...]]], episode: Episode) -> _Judged:
    """The judgement of every turn, the last first: earlier positions of a game too large are larger still."""
    found: list[Judgement | None] = [None] * len(episode.turns)
    until = time.monotonic() + JUDGE_SECONDS
    first = len(found)
    for index in reversed(range(len(found))):
        state = states[index][0]
        if state.current_player != episode.turns[index].player:
            break
        try:
            found[index] = judge_decision(game, state, until=until)
        except TimeUpError:
            return _Judged(turns=found, first=first, time_up=True)
        except (Exception, SystemExit) as error:  # a game may be anyone's code
            return _Judged(turns=found, first=first, fault=f"{type(error).__name__}: {error}")
        if found[index] is None:
            break
        first = index
    return _Judged(turns=found, first=first)


def _loses(episode: Episode, index: int) -> float | None:
    """What a player got for the illegal move that ended the game in this turn."""
    last = index == len(episode.turns) - 1
    return episode.returns[episode.turns[index].player] if last and episode.outcome == "illegal_move" else None


def _blunder(turns: Sequence[Mapping[str, Any]]) -> int | None:
    """The turn that gave most away; an illegal move where no turn is judged."""
    regrets = {
        index: float(turn["judgement"]["regret"])
        for index, turn in enumerate(turns)
        if turn["judgement"] is not None and turn["judgement"]["regret"]
    }
    if regrets:
        return max(regrets, key=lambda index: regrets[index])
    illegal = [index for index, turn in enumerate(turns) if turn["action"] is None]
    return illegal[-1] if illegal and not any(turn["judgement"] for turn in turns) else None


def _baselines(episode: Episode, recipe: Mapping[str, Any]) -> list[float | None]:
    """What was subtracted from each player's reward, where the estimator subtracts a baseline."""
    estimator = _section(recipe, "credit").get("estimator", "rae")
    baselines: list[float | None] = [None] * len(episode.seats)
    if estimator not in SUBTRACTING:
        return baselines
    for turn in episode.turns:
        if turn.advantages is not None and len(turn.advantages) == 1 and episode.learns_from(turn):
            baselines[turn.player] = episode.rewards[turn.player] - float(turn.advantages[0])
    return baselines


def _section(recipe: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = recipe.get(name)
    return found if isinstance(found, dict) else {}


def _has_learning(episode: Episode) -> bool:
    return any(turn.advantages is not None for turn in episode.turns)


def _mean(values: Iterable[float] | None) -> float | None:
    numbers = [] if values is None else [float(value) for value in values]
    return sum(numbers) / len(numbers) if numbers else None


def _plain_text(episode: Episode) -> str:
    parts = [f"One game of {episode.game}, seed {episode.seed}:"]
    for turn in episode.turns:
        action = "no legal action" if turn.action is None else turn.action
        parts += [turn.observation, f"player {turn.player} replies: {turn.reply}", f"player {turn.player}: {action}"]
    parts.append(f"Returns: {', '.join(f'{value:+g}' for value in episode.returns)}.")
    return "\n\n".join(parts)
