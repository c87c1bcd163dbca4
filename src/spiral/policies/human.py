"""A person in a seat: one more policy for the one game loop.

`HumanPolicy` asks instead of thinking; a slip of the keyboard is asked about again and never forfeits. `NarratedPolicy` sits
around the other side's policy and tells what it said. Both get `read` and `write` handed in, so a test can play.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from spiral.core.transcript import news, told_reply
from spiral.games import IllegalActionError, State
from spiral.policies import Policy, TurnReply, TurnRequest
from spiral.text import parse_action

Read = Callable[[str], str]
Write = Callable[[str], object]


class HumanPolicy:
    """Shows the full observation, later only what is new in it, and reads an action."""

    name = "you"

    def __init__(self, read: Read, write: Write) -> None:
        """`read(prompt)` gives a line and raises `EOFError` at the end of the input."""
        self._read = read
        self._write = write
        self._pending: list[TurnRequest] = []
        self._seen = ""

    def submit(self, requests: Sequence[TurnRequest]) -> None:
        """Takes on turns."""
        self._pending.extend(requests)

    def poll(self) -> list[TurnReply]:
        """Asks for every pending turn."""
        pending, self._pending = self._pending, []
        return [self._ask(request) for request in pending]

    def cancel(self) -> None:
        """Forgets every pending turn."""
        self._pending.clear()

    @property
    def seen(self) -> str:
        """The observation shown last."""
        return self._seen

    def _ask(self, request: TurnRequest) -> TurnReply:
        """Asks until the answer is legal."""
        state = request.state
        observation = state.observation(request.player)
        self._write(f"\n{news(self._seen, observation) or observation}")
        self._seen = observation
        while True:
            line = self._read("Your action: ").strip()
            action = read_action(line, state)
            if action is not None:
                return TurnReply(key=request.key, observation=observation, reply=line, action=action)
            self._write(refusal(line, state))


class NarratedPolicy:
    """Another policy whose replies are told as they come."""

    def __init__(self, policy: Policy, write: Write) -> None:
        self._policy = policy
        self._write = write

    @property
    def name(self) -> str:
        """The other policy's."""
        return self._policy.name

    def submit(self, requests: Sequence[TurnRequest]) -> None:
        """Passes turns on."""
        self._policy.submit(requests)

    def poll(self) -> list[TurnReply]:
        """Passes replies back, told."""
        replies = self._policy.poll()
        for reply in replies:
            if reply.fault is None:  # else the result says what happened
                self._write("\n" + told_reply(self.name, reply.reply, reply.action))
        return replies

    def cancel(self) -> None:
        """Passes it on."""
        self._policy.cancel()


def read_action(line: str, state: State) -> str | None:
    """The action a person means, spelled as freely as a model may spell it, boxed or not."""
    return parse_action(line, state) or parse_action(f"\\boxed{{{line}}}", state)


def refusal(line: str, state: State) -> str:
    """Why a line is no action, and what would be."""
    try:
        state.apply(line)
    except IllegalActionError as error:
        return f"That is not legal: {error}"
    return f"Got {line!r}; legal here: {', '.join(state.legal_actions())}"
