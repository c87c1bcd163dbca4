"""The process in which a checkpoint plays against a person at the page: `python -m spiral.viewer.opponent`.

It holds the model, so that the viewer need not, and ends when its standard input does, as when the viewer is killed.
Its first line of input is a request, the later ones are moves; each line of output is the whole game as the page shows
it.

    {"model": "runs/r1/checkpoints/step-000100", "game": "tictactoe", "seat": 0, "seed": 1, "thinking": null}
    {"text": "4"}
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Sequence
from typing import Any, TextIO

from spiral.core.policy import Policy, TurnReply, TurnRequest
from spiral.core.printable import one_line
from spiral.core.records import Episode
from spiral.core.transcript import final_state, result_line
from spiral.games import Game, State, load_game
from spiral.games.failures import describe_error
from spiral.policies.human import read_action, refusal
from spiral.rollout.loop import Match, play
from spiral.text import split_reply
from spiral.viewer.drawings import drawing

MAX_LISTED = 500
"""Legal actions that the page lists."""


class Table:
    """The game as the page shows it, for one player."""

    def __init__(self, out: TextIO, seat: int) -> None:
        self._out = out
        self.seat = seat
        self.log: list[dict[str, Any]] = []

    def show(self, **view: Any) -> None:
        """Writes the game as it is now."""
        whole = {"ready": True, "your_turn": False, "over": False, "returns": None, "outcome": None, "error": None}
        self._out.write(json.dumps({**whole, "log": self.log, **view}, ensure_ascii=True) + "\n")
        self._out.flush()

    def position(self, state: State, **view: Any) -> None:
        """Writes the game with its board."""
        self.show(
            board=drawing(state, self.seat),
            observation=state.observation(self.seat),
            legal_actions=list(state.legal_actions())[:MAX_LISTED] if state.current_player == self.seat else [],
            **view,
        )


class Person:
    """A policy whose moves come from the page."""

    name = "you"

    def __init__(self, table: Table, moves: queue.Queue[str]) -> None:
        self._table = table
        self._moves = moves
        self._pending: list[TurnRequest] = []

    def submit(self, requests: Sequence[TurnRequest]) -> None:
        """Queues turns."""
        self._pending.extend(requests)

    def poll(self) -> list[TurnReply]:
        """Asks for every pending turn until the answer is legal."""
        pending, self._pending = self._pending, []
        return [self._ask(request) for request in pending]

    def cancel(self) -> None:
        """Drops every pending turn."""
        self._pending.clear()

    def _ask(self, request: TurnRequest) -> TurnReply:
        state, error = request.state, None
        while True:
            self._table.position(state, your_turn=True, error=error)
            text = self._moves.get().strip()
            action = read_action(text, state)
            if action is not None:
                self._table.log.append({"player": request.player, "action": action, "thinking": "", "reply": text})
                observation = state.observation(request.player)
                return TurnReply(key=request.key, observation=observation, reply=text, action=action)
            error = refusal(text, state)


class Watched:
    """The model's policy, whose turns and replies are shown."""

    def __init__(self, policy: Policy, table: Table) -> None:
        self._policy = policy
        self._table = table
        self._players: dict[int, int] = {}

    @property
    def name(self) -> str:
        """The name of the policy."""
        return self._policy.name

    def submit(self, requests: Sequence[TurnRequest]) -> None:
        """Shows the position and hands the turns on."""
        for request in requests:
            self._players[request.key] = request.player
            self._table.position(request.state)
        self._policy.submit(requests)

    def poll(self) -> list[TurnReply]:
        """The policy's replies, which are shown after the move."""
        replies = self._policy.poll()
        for reply in replies:
            generation = reply.generation
            unanswered = generation is not None and 0 < generation.thinking_tokens == len(generation.token_ids)
            thought = split_reply(reply.reply)
            self._table.log.append(
                {
                    "player": self._players.pop(reply.key),
                    "action": reply.action,
                    "thinking": reply.reply if unanswered else thought.thinking if generation is not None else "",
                    "reply": reply.reply,
                }
            )
        return replies

    def cancel(self) -> None:
        """Drops the pending turns."""
        self._policy.cancel()


def play_with(request: dict[str, Any], moves: queue.Queue[str], out: TextIO) -> None:
    """Loads the model of a request and plays one game with it."""
    table = Table(out, int(request["seat"]))
    try:
        from spiral.policies.registry import load_policy

        game: Game = load_game(str(request["game"]))
        model = load_policy(str(request["model"]), game, thinking=request.get("thinking"))
        person: Policy = Person(table, moves)
        other: Policy = Watched(model, table)
        policies = tuple(person if seat == table.seat else other for seat in range(game.num_players))
        (episode,) = play([Match(game=game, seed=int(request["seed"]), policies=policies)])
        _show_end(table, episode)
    except Exception as error:  # the page tells every fault, as a command does
        table.show(
            error=one_line(str(error) if isinstance(error, ValueError) else describe_error(error)),
            over=True,
            ready=False,
        )


def _show_end(table: Table, episode: Episode) -> None:
    state = final_state(episode)
    names = ["you" if seat == table.seat else "the model" for seat in range(len(episode.returns))]
    told = [state.observation(table.seat), state.revealed(), result_line(episode, names)]
    table.show(
        board=drawing(state, table.seat),
        observation="\n".join(filter(None, told)),
        legal_actions=[],
        over=True,
        returns=list(episode.returns),
        outcome=episode.outcome,
        error=f"The model could not reply: {episode.fault}." if episode.fault else None,
    )


def main() -> None:
    """Reads the request and the moves from standard input."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="ascii")
    sys.stdout = sys.stderr  # what packages print is no line of the game
    request = json.loads(sys.stdin.readline())
    moves: queue.Queue[str] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            moves.put(str(json.loads(line)["text"]))
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    play_with(request, moves, out)
    threading.Event().wait()  # until the page closes the game


if __name__ == "__main__":
    main()
