"""A person as a policy, for the same game loop as every other policy.

`HumanPolicy` asks a person for an action, and asks again after a typing mistake instead of forfeiting the game; "help"
or "?" shows the rules and the position again, and "quit" ends as the end of the input does.
`NarratedPolicy` wraps the opponent's policy and prints its moves, and what it thought where that is asked for. Both
receive `read` and `write` as arguments, so that a test can play.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from spiral.core.settings import shown
from spiral.core.transcript import new_lines, turn_text
from spiral.games import IllegalActionError, State
from spiral.policies import Policy, TurnReply, TurnRequest
from spiral.text import parse_action
from spiral.text.thinking import split_reply

HELP, QUIT = ("help", "?"), ("quit", "exit", "q")
Read = Callable[[str], str]
Write = Callable[[str], object]


class HumanPolicy:
    """Shows the full observation, on later turns only what is new in it, and reads an action."""

    name = "you"

    def __init__(self, read: Read, write: Write) -> None:
        """Both arguments are functions: `read(prompt)` returns a line or raises `EOFError`, `write(text)` prints."""
        self._read = read
        self._write = write
        self._pending: list[TurnRequest] = []
        self._seen = ""

    def submit(self, requests: Sequence[TurnRequest]) -> None:
        """Adds turns to those pending."""
        self._pending.extend(requests)

    def poll(self) -> list[TurnReply]:
        """Asks for every pending turn."""
        pending, self._pending = self._pending, []
        return [self._ask(request) for request in pending]

    def cancel(self) -> None:
        """Drops every pending turn."""
        self._pending.clear()

    @property
    def seen(self) -> str:
        """The observation that was shown last."""
        return self._seen

    def _ask(self, request: TurnRequest) -> TurnReply:
        """Asks until the answer is legal."""
        state = request.state
        observation = state.observation(request.player)
        self._write(f"\n{new_lines(self._seen, observation) or observation}")
        self._seen = observation
        asked = "Your action or message: " if request.game.free_text else "Your action: "
        while True:
            line = self._read(asked).strip()
            if line.lower() in HELP and line not in state.legal_actions():
                self._write(f"\n{observation}")
                continue
            action = read_action(line, state)
            if action is None and line.lower() in QUIT:
                raise EOFError
            if action is not None:
                return TurnReply(key=request.key, observation=observation, reply=line, action=action)
            self._write(refusal(line, state))


class NarratedPolicy:
    """A policy whose moves are printed as they arrive."""

    def __init__(self, policy: Policy, write: Write, *, thoughts: bool = False) -> None:
        """With `thoughts`, what was written before each move is printed after it."""
        self._policy = policy
        self._write = write
        self._thoughts = thoughts

    @property
    def name(self) -> str:
        """The name of the wrapped policy."""
        return self._policy.name

    def submit(self, requests: Sequence[TurnRequest]) -> None:
        """Submits turns to the wrapped policy."""
        self._policy.submit(requests)

    def poll(self) -> list[TurnReply]:
        """Returns the wrapped policy's replies and prints each one."""
        replies = self._policy.poll()
        for reply in replies:
            if reply.fault is None:  # the result of the game reports faults
                # A reply without a legal action is shown, since nothing else says what was wrong.
                said = reply.reply if reply.action is None else reply.action
                self._write("\n" + turn_text(self.name, said, reply.action))
                if self._thoughts and (thought := self._thought(reply)):
                    self._write(f"{self.name} thought: {thought}")
        return replies

    def _thought(self, reply: TurnReply) -> str:
        """What a model wrote before its answer; empty for a policy that writes no text."""
        if reply.generation is None and reply.reply == reply.action:
            return ""
        found = split_reply(reply.reply, getattr(self._policy, "opening", ""))
        return found.thinking.strip() or "(nothing)"

    def cancel(self) -> None:
        """Drops the wrapped policy's pending turns."""
        self._policy.cancel()


def read_action(line: str, state: State) -> str | None:
    """The action in a line that a person typed, parsed like a model's reply, with or without a box; None if illegal."""
    return parse_action(line, state) or parse_action(f"\\boxed{{{line}}}", state)


def refusal(line: str, state: State) -> str:
    """Message that says why a line is not a legal action, and what is legal."""
    try:
        state.apply(line)
    except IllegalActionError as error:
        if not error.reason.startswith("got action"):  # what every game says; some say more
            return f"That is not legal: {error.reason}"
    legal = ", ".join(state.legal_actions())
    if not line:
        if state.verbatim:  # any text is an answer, and the legal actions only stand for one
            return "Type an answer, help for the rules, or quit."
        return f"Type an action ({legal}), help for the rules, or quit."
    return f"{shown(line)} is not legal here; legal: {legal}"
