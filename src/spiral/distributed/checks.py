"""Checks that a worker's result is possible for the games that it was given.

A broken engine does not always raise an error: it may return noise, or the games of another step. Before the learner
uses an episode, the game is replayed from its actions, and tokens and log-probabilities are checked against what
sampling can produce. Whether a reply is one that the model would give is not checked, since that takes the model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from spiral.core.records import Episode, Generation, Turn
from spiral.games import State
from spiral.rollout.loop import Match
from spiral.rollout.rewards import illegal_move_returns, largest_payoff, with_reward

ROUNDING = 1e-4
"""Nats by which a log-probability may exceed zero."""


def check_results(results: object, indices: Sequence[int]) -> str | None:
    """Returns the fault in the result of a chunk; None when it has one episode for each index, in order."""
    if not isinstance(results, list) or not all(isinstance(item, tuple) and len(item) == 2 for item in results):
        return f"it returned {type(results).__name__} instead of a list of (index, episode)"
    if [index for index, _ in results] != list(indices):
        return f"it returned games {_shown([index for index, _ in results])} instead of games {_shown(list(indices))}"
    wrong = [type(episode).__name__ for _, episode in results if not isinstance(episode, Episode)]
    return f"it returned {wrong[0]} instead of an episode" if wrong else None


def check_episode(episode: Episode, match: Match, vocabulary: int, versions: range) -> str | None:
    """Returns the fault in an episode; None when there is none.

    Tokens of opponents that do not learn are not checked, nor are the names of the players' policies.

    Args:
        episode: The episode.
        match: The game that was to be played.
        vocabulary: Token ids must be below.
        versions: The versions of the weights that may have written turns.
    """
    spec = match.game.spec
    if (episode.game, episode.seed) != (spec, match.seed):
        return f"it played {episode.game} from seed {episode.seed} instead of {spec} from seed {match.seed}"
    if episode.attempt != match.attempt:
        return f"it played attempt {episode.attempt} of {spec} from seed {match.seed} instead of {match.attempt}"
    if tuple(seat.trainable for seat in episode.seats) != match.trainable:
        return f"{spec} from seed {match.seed}: the players that learn are not {match.trainable}"
    fault = _replay_fault(episode, match)
    for number, turn in enumerate(episode.turns, start=1):
        if match.trainable[turn.player]:
            fault = fault or _turn_fault(turn, number, vocabulary, versions)
    return None if fault is None else f"{spec} from seed {match.seed}: {fault}"


def _replay_fault(episode: Episode, match: Match) -> str | None:
    """The first part of the record that does not follow from the actions."""
    state = match.game.initial_state()
    decided: list[tuple[int, str]] = []
    for number, action in enumerate(episode.actions, start=1):
        if state.is_terminal:
            return f"action {number} comes after the end of the game"
        if not state.is_chance:
            decided.append((state.current_player, action))
        try:
            state = state.apply(action)
        except Exception as error:  # the record may hold anything
            return f"action {number} does not replay: {error}"
    legal = [(turn.player, turn.action) for turn in episode.turns if turn.action is not None]
    opening = len(decided) - len(legal)
    if not 0 <= opening <= match.opening_plies or decided[opening:] != legal:
        return "its turns are not the decisions among its actions"
    fault = _unanswered_fault(episode, match, state)
    return fault or _result_fault(episode, match, state)


def _unanswered_fault(episode: Episode, match: Match, state: State) -> str | None:
    """The fault in a turn without an action, if there is one; `state` is the state after all actions."""
    unanswered = [(number, turn) for number, turn in enumerate(episode.turns, start=1) if turn.action is None]
    for number, turn in unanswered:
        if number < len(episode.turns):
            return "it continues after an illegal reply"
        if state.is_terminal or turn.player != state.current_player:
            return f"player {turn.player} gave an illegal reply although it was not to move"
    if episode.outcome == "not_played" and (not unanswered or match.trainable[unanswered[-1][1].player]):
        return "it was not played because of a player whose policy always answers"
    return None


def _result_fault(episode: Episode, match: Match, state: State) -> str | None:
    """The fault in outcome or returns; `state` is the state after all actions."""
    last = episode.turns[-1] if episode.turns else None
    unanswered = last is not None and last.action is None
    terminal, players = state.is_terminal, match.game.num_players
    returns = (0.0,) * players
    if episode.outcome == "illegal_move":
        offender, game = 0 if last is None else last.player, match.game
        returns = illegal_move_returns(players, offender, largest_payoff(game), zero_sum=game.zero_sum)
        possible = unanswered and not terminal
    elif episode.outcome == "finished":
        returns = state.returns()
        possible = terminal and not unanswered
    elif episode.outcome == "truncated":
        possible = not terminal and not unanswered and len(episode.turns) == match.max_turns
    else:
        possible = episode.outcome == "not_played" and unanswered and bool(episode.fault)
    if not possible:
        return f"its actions do not lead to the outcome {episode.outcome!r}"
    if episode.returns != returns:
        return f"its returns are {episode.returns} instead of {returns}"
    rewards = with_reward(dataclasses.replace(episode, rewards=()), match.reward).rewards
    return None if episode.rewards == rewards else f"its rewards are {episode.rewards} instead of {rewards}"


def _turn_fault(turn: Turn, number: int, vocabulary: int, versions: range) -> str | None:
    if turn.generation is None or turn.prompt_ids is None:
        return None if turn.action is None else f"turn {number} has no tokens"
    fault = _tokens_fault(turn.generation, versions)
    for ids in (turn.prompt_ids, turn.generation.token_ids):
        if len(ids) and not (ids.min() >= 0 and ids.max() < vocabulary):
            fault = fault or f"token id {ids.max() if ids.min() >= 0 else ids.min()} outside {vocabulary} tokens"
    return None if fault is None else f"turn {number}: {fault}"


def _tokens_fault(generation: Generation, versions: range) -> str | None:
    logprobs = generation.logprobs
    if len(logprobs) != len(generation.token_ids):
        return f"{len(logprobs)} log-probabilities for {len(generation.token_ids)} tokens"
    if not np.isfinite(logprobs).all():
        return f"log-probability {logprobs[~np.isfinite(logprobs)][0]}"
    if len(logprobs) and logprobs.max() > ROUNDING:
        return f"log-probability {logprobs.max():.6g}, which is positive"
    if generation.policy_version not in versions:
        return f"weights of version {generation.policy_version}, which is not in {versions.start}..{versions.stop - 1}"
    return None


def _shown(numbers: list[int]) -> str:
    return f"{numbers[:8]}{' and more' if len(numbers) > 8 else ''}"
