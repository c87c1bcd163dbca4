"""A game told in words: what each player saw, replied and did, and the result."""

from __future__ import annotations

from spiral.core.records import Episode
from spiral.games import State, load_game
from spiral.games.playout import replay

MAX_GAME_LINES = 25
"""Lines of the game that is shown at the end."""


def game_text(episode: Episode) -> str:
    """A game for people to read: before each turn what its seat sees anew, then the reply, at the end the result."""
    state = _dealt(load_game(episode.game).initial_state(), actions := list(episode.actions))
    parts = [f"One game of {episode.game}, seed {episode.seed}:"]
    seen: dict[int, str] = {}
    for turn in episode.turns:
        observation = state.observation(turn.player)
        parts.append(news(seen.get(turn.player, seen.get(1 - turn.player, "")), observation))
        missing = bool(episode.fault) and turn is episode.turns[-1]
        parts.append("" if missing else told_reply(f"seat {turn.player}", turn.reply, turn.action))
        seen[turn.player] = observation
        if turn.action is not None:
            state = _dealt(state.apply(actions.pop(0)), actions)
    if episode.outcome == "finished":
        parts.append(news(seen.get(0, ""), state.observation(0)))
    parts.append(result_line(episode, ("seat 0", "seat 1")))
    return "\n\n".join(part for part in parts if part)


def game_excerpt(episode: Episode) -> str:
    """`game_text` in at most `MAX_GAME_LINES` lines: what it is, and how it ended."""
    lines = game_text(episode).splitlines()
    left_out = len(lines) - MAX_GAME_LINES
    if left_out <= 0:
        return "\n".join(lines)
    kept = lines[-(MAX_GAME_LINES - 3) :]
    while kept and not kept[0].strip():
        kept.pop(0)
    return "\n".join([lines[0], f"(its last {len(kept)} lines of {len(lines)})", "", *kept])


def told_reply(who: str, reply: str, action: str | None) -> str:
    """What was said, unless it is just the move, and the move."""
    said = reply.strip()
    lines = [] if said == action else [f"{who} replies: {said or '(nothing)'}"]
    lines.append(f"{who} plays: {action}" if action is not None else f"{who} forfeits: no legal action in the reply")
    return "\n".join(lines)


def final_position(episode: Episode, seat: int) -> str:
    """What `seat` sees when the game is over."""
    return replay(load_game(episode.game), episode.actions).observation(seat)


def result_line(episode: Episode, names: tuple[str, str]) -> str:
    """Who won, and what each seat is paid."""
    first, second = episode.returns
    paid = f"returns: {names[0]} {first:+g}, {names[1]} {second:+g}"
    if episode.outcome == "not_played":
        return f"Result: none, the game could not be played to its end ({episode.fault})."
    if episode.outcome == "truncated":
        return f"Result: cut off at the turn limit, a draw ({paid})."
    if first == second:
        return f"Result: a draw ({paid})."
    winner = names[0 if first > second else 1]
    return f"Result: {winner} won{' by forfeit' if episode.outcome == 'illegal_move' else ''} ({paid})."


def _dealt(state: State, actions: list[str]) -> State:
    """Takes chance's actions from the front of `actions`."""
    while state.is_chance:
        state = state.apply(actions.pop(0))
    return state


def news(before: str, now: str) -> str:
    """The observation without the lines it begins with as an earlier one did (the rules, the seat)."""
    old, new = before.splitlines(), now.splitlines()
    same = 0
    while same < min(len(old), len(new)) and old[same] == new[same]:
        same += 1
    return "\n".join(new[same:])
