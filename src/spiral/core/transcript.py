"""A game in words: what each player saw, replied and played, and the result."""

from __future__ import annotations

from collections.abc import Sequence

from spiral.core.records import Episode
from spiral.games import State, load_game
from spiral.games.playout import replay

MAX_GAME_LINES = 25
"""Lines of an excerpt of a game."""


def game_text(episode: Episode) -> str:
    """A whole game: before each turn what is new to its player, then the reply and the action; last the result."""
    states = turn_states(episode)
    parts = [f"One game of {episode.game}, seed {episode.seed}:"]
    seen: dict[int, str] = {}
    last_observation = ""
    for state, turn in zip(states, episode.turns, strict=False):
        observation = state.observation(turn.player)
        parts.append(new_lines(seen.get(turn.player, last_observation), observation))
        missing = bool(episode.fault) and turn is episode.turns[-1]
        parts.append("" if missing else turn_text(f"player {turn.player}", turn.reply, turn.action))
        seen[turn.player] = last_observation = observation
    if episode.outcome == "finished":
        parts.append(new_lines(seen.get(0, ""), states[-1].observation(0)))
    parts.append(result_line(episode, [f"player {player}" for player in range(len(episode.returns))]))
    return "\n\n".join(part for part in parts if part)


def game_excerpt(episode: Episode) -> str:
    """`game_text` in at most `MAX_GAME_LINES` lines: its first line and its end."""
    lines = game_text(episode).splitlines()
    left_out = len(lines) - MAX_GAME_LINES
    if left_out <= 0:
        return "\n".join(lines)
    kept = lines[-(MAX_GAME_LINES - 3) :]
    while kept and not kept[0].strip():
        kept.pop(0)
    return "\n".join([lines[0], f"(its last {len(kept)} lines of {len(lines)})", "", *kept])


def turn_text(name: str, reply: str, action: str | None) -> str:
    """The reply, unless it is just the action, and the action; None is an illegal reply."""
    reply = reply.strip()
    lines = [] if reply == action else [f"{name} replies: {reply or '(nothing)'}"]
    lines.append(f"{name} plays: {action}" if action is not None else f"{name} forfeits: no legal action in the reply")
    return "\n".join(lines)


def turn_states(episode: Episode) -> list[State]:
    """The state of every turn, and the last state. A random opening comes before the first turn."""
    state, states = load_game(episode.game).initial_state(), []
    for action in episode.actions:
        if not state.is_chance:
            states.append(state)
        state = state.apply(action)
    states.append(state)
    legal = sum(turn.action is not None for turn in episode.turns)
    return states[len(states) - 1 - legal :]


def final_state(episode: Episode) -> State:
    """The state at the end of the game."""
    return replay(load_game(episode.game), episode.actions)


def result_line(episode: Episode, names: Sequence[str]) -> str:
    """The winner, the returns, and the rewards where they differ. `names` are those of the players in order."""
    returns = ", ".join(f"{name} {value:+g}" for name, value in zip(names, episode.returns, strict=True))
    if episode.rewards != episode.returns:
        returns += f"; paid in training: {', '.join(f'{value:+g}' for value in episode.rewards)}"
    if episode.outcome == "not_played":
        return f"Result: none, the game could not be played to its end ({episode.fault})."
    if len(episode.returns) == 1:
        return f"Result: {returns}."
    if episode.outcome == "truncated":
        return f"Result: cut off at the turn limit, a draw (returns: {returns})."
    best = max(episode.returns)
    winners = [name for name, value in zip(names, episode.returns, strict=True) if value == best]
    if len(winners) == len(episode.returns):
        return f"Result: {'all get the same' if best else 'a draw'} (returns: {returns})."
    forfeit = " by forfeit" if episode.outcome == "illegal_move" else ""
    return f"Result: {' and '.join(winners)} won{forfeit} (returns: {returns})."


def new_lines(before: str, now: str) -> str:
    """The observation `now` without the first lines that it shares with an earlier one, such as the rules."""
    old, new = before.splitlines(), now.splitlines()
    same = 0
    while same < min(len(old), len(new)) and old[same] == new[same]:
        same += 1
    return "\n".join(new[same:])
