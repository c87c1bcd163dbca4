"""Our games as an environment of the package `verifiers`, for prime-rl and other trainers that take such environments.

    from spiral.integrations.verifiers import load_environment

    env = load_environment(game="kuhn_poker", opponent="equilibrium")

The agent under training plays one player, and a policy of our registry (a scripted player, a model, an endpoint) plays
the others; with `opponent="self"` the agent plays both players of a game of two, each in its own conversation with its
own reward. The game loop, the parser, the returns and the penalty of an illegal move are those of `spiral train`. The
first message of a conversation holds the rules and the position, later ones what is new.

Of an agent's reply only the last box counts. A task is a deal: number i has the seed `derive_seed(seed, "verifiers",
i)` and, unless a player is given, the agent as player i modulo the number of players.

Needs `pip install verifiers` (0.4). From its command line the environment is called `spiral_verifiers`.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from spiral.core.printable import one_line
from spiral.core.records import Episode
from spiral.core.seeds import derive_seed
from spiral.core.transcript import new_lines
from spiral.games import Game, load_game
from spiral.policies import Policy, TurnReply, TurnRequest
from spiral.policies.registry import check_policy_name, load_policy
from spiral.rollout.loop import Match, play
from spiral.rollout.rewards import largest_payoff, normalised
from spiral.text import PromptConfig, parse_action
from spiral.text.prompts import question

try:
    import httpx
    import verifiers.v1 as vf
    from verifiers.v1.dialects.chat import message_to_wire
except ImportError as error:
    raise ImportError(
        "spiral.integrations.verifiers needs the package verifiers, version 0.4; run"
        " `pip install 'verifiers>=0.4,<0.5'`"
    ) from error

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

PACKAGE = "spiral_verifiers"
"""The name of the environment for verifiers, which takes names of top-level modules only."""
SELF = "self"
"""The opponent that is the agent itself."""
GAMES_AT_ONCE = 1024
"""Games of one environment that are played at once; each waits for its agents in a thread of its own."""


class SpiralTasksetConfig(vf.TasksetConfig):
    """Which game is played, and against whom."""

    game: str = "tictactoe"
    """As on spiral's command line, such as "kuhn_poker(hands=5)"."""
    opponent: str = "random"
    """A policy of spiral's registry, or "self"."""
    seat: int | None = None
    """The player that the agent is; None: each in turn."""
    seed: int = Field(0, ge=0)
    """Names the deals."""
    thinking: bool = True
    """Whether the agent is asked to reason before its action."""

    @model_validator(mode="after")
    def _can_be_played(self) -> SpiralTasksetConfig:
        game = load_game(self.game)
        if self.opponent == SELF and game.num_players != 2:
            raise ValueError(
                f"{game.spec} has {game.num_players} players; expected a game of two for the opponent 'self'"
            )
        if self.opponent != SELF and game.num_players > 1:
            check_policy_name(self.opponent, [SELF])
        if self.seat is not None and not 0 <= self.seat < game.num_players:
            raise ValueError(f"got seat {self.seat}; {game.spec} has players 0 to {game.num_players - 1}")
        return self


class SpiralData(vf.TaskData):
    """One deal."""

    seed: int
    player: int
    """The player that the agent is."""


class SpiralTask(vf.Task[SpiralData, vf.State, vf.TaskConfig]):
    """One game to play."""


class SpiralTaskset(vf.Taskset[SpiralTask, SpiralTasksetConfig]):
    """The deals of a game, without end."""

    INFINITE = True

    def load(self) -> Iterator[SpiralTask]:
        """Yields one task a deal."""
        config, game = self.config, load_game(self.config.game)
        for number in itertools.count():
            player = number % game.num_players if config.seat is None else config.seat
            data = SpiralData(
                name=f"{game.spec} against {config.opponent} #{number}",
                seed=derive_seed(config.seed, "verifiers", number),
                player=player,
            )
            yield SpiralTask(data, config.task)


class SpiralHarnessConfig(vf.HarnessConfig):
    """Settings of the harness; it has none of its own."""


class SpiralHarness(vf.Harness[SpiralHarnessConfig]):
    """Asks for the next reply of a conversation, and nothing else: no tools, no program, no sandbox."""

    APPENDS_SYSTEM_PROMPT = True
    SUPPORTS_RESUME = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self,
        ctx: Any,
        trace: Any,
        runtime: Any,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: Any,
    ) -> Any:
        """Sends the conversation to the model, through the server that records the trace."""
        system, prompt = self.resolve_prompt(data)
        conversation = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else None
        messages = conversation or [message_to_wire(message) for message in prompt or []]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        async with httpx.AsyncClient(timeout=None, trust_env=False) as client:
            response = await client.post(
                f"{endpoint.rstrip('/')}/chat/completions",
                headers={"Authorization": f"Bearer {secret}"},
                json={"model": ctx.model, "messages": messages},
            )
        failed = response.status_code >= 400
        return vf.ProgramResult(int(failed), "", response.text if failed else "")


class SpiralEnvConfig(vf.EnvConfig):
    """The environment's settings: those of the taskset, and of the agents."""

    player: vf.AgentConfig = vf.AgentConfig(runtime=vf.SubprocessConfig())
    """The agent under training."""
    other: vf.AgentConfig = vf.AgentConfig(runtime=vf.SubprocessConfig())
    """The same agent as the other player, with the opponent "self"; give it another model to play against that."""


class SpiralEnv(vf.Env[SpiralEnvConfig]):
    """Plays a game: our loop in a thread, the agent's turns through verifiers."""

    def __init__(self, config: SpiralEnvConfig) -> None:
        super().__init__(config)
        settings = config.taskset
        self._game = load_game(settings.game)
        self._prompt = PromptConfig(thinking=settings.thinking)
        self._opponent: Policy | None = None
        if settings.opponent != SELF and self._game.num_players > 1:
            self._opponent = load_policy(settings.opponent, self._game)
        self._opponents_turn = threading.Lock()
        # Threads of asyncio's own are few where processors are: six games at once on two of them.
        self._threads = ThreadPoolExecutor(GAMES_AT_ONCE, thread_name_prefix="spiral-game")

    async def run(self, task: Any, agents: Any) -> None:
        """Plays one game, and records the reward of the agent."""
        player, seed = task.data.player, task.data.seed
        async with agents.player.interaction(task) as own:
            if self._opponent is None and self._game.num_players == 2:
                async with agents.other.interaction(task) as others:
                    episode = await self._play(seed, {player: own, 1 - player: others})
                _record(others.trace, episode, 1 - player)
            else:
                episode = await self._play(seed, {player: own})
        _record(own.trace, episode, player)

    async def _play(self, seed: int, agents: dict[int, Any]) -> Episode:
        """Plays the game with agents as some of the players."""
        loop = asyncio.get_running_loop()
        policies: list[Policy] = []
        for player in range(self._game.num_players):
            if player in agents:
                policies.append(AgentPolicy(agents[player], loop, self._prompt))
            else:
                assert self._opponent is not None
                policies.append(_InTurn(self._opponent, self._opponents_turn))
        trainable = tuple(player in agents for player in range(self._game.num_players))
        match = Match(
            game=self._game,
            seed=seed,
            policies=tuple(policies),
            trainable=trainable,
            max_turns=self._game.max_turns,
            reward=lambda episode: normalised(episode, largest_payoff(self._game)),
        )
        context = contextvars.copy_context()
        (episode,) = await loop.run_in_executor(self._threads, context.run, play, [match])
        if episode.outcome == "not_played":
            raise RuntimeError(f"the game could not be played to its end: {episode.fault}")
        return episode


def _record(trace: Any, episode: Episode, player: int) -> None:
    """Writes the result of a game into the trace of the agent that was a player."""
    trace.record_reward("reward", episode.rewards[player], 1.0)
    turns = [turn for turn in episode.turns if turn.player == player]
    illegal = bool(turns) and turns[-1].action is None
    trace.record_metric("win", float(episode.result(player) > 0))
    trace.record_metric("illegal", float(illegal))
    trace.record_metric("turns", float(len(turns)))
    trace.info["game"] = {
        "game": episode.game,
        "seed": episode.seed,
        "player": player,
        "policies": [seat.policy for seat in episode.seats],
        "outcome": episode.outcome,
        "returns": list(episode.returns),
        "actions": list(episode.actions),
    }


class AgentPolicy:
    """An agent of verifiers as one of our policies, for the thread of the game loop."""

    name = "agent"

    def __init__(self, interaction: Any, loop: AbstractEventLoop, prompt: PromptConfig) -> None:
        self._interaction = interaction
        self._loop = loop
        self._prompt = prompt
        self._seen = ""
        self._pending: list[tuple[TurnRequest, str, Future[Any]]] = []

    def submit(self, requests: Sequence[TurnRequest]) -> None:
        """Sends each turn to the agent: what is new in the observation, and the instruction."""
        for request in requests:
            observation = request.state.observation(request.player, self._prompt.observation)
            shown = new_lines(self._seen, observation) or observation
            self._seen = observation
            text = question(shown, self._prompt, request.game)
            turn = asyncio.run_coroutine_threadsafe(self._interaction.turn(text), self._loop)
            self._pending.append((request, observation, turn))

    def poll(self) -> list[TurnReply]:
        """Waits for the agent's replies."""
        pending, self._pending = self._pending, []
        return [self._reply(*turn) for turn in pending]

    def cancel(self) -> None:
        """Drops the pending turns."""
        for _, _, turn in self._pending:
            turn.cancel()
        self._pending.clear()

    def _reply(self, request: TurnRequest, observation: str, turn: Future[Any]) -> TurnReply:
        segment = turn.result()
        if segment.terminated:
            errors = self._interaction.trace.errors
            reason = one_line(errors[-1].message, max_length=300) if errors else self._interaction.trace.stop_condition
            fault = f"the agent's run ended before the game: {reason}"
            return TurnReply(key=request.key, observation=observation, reply="", action=None, fault=fault)
        text = segment.last_reply
        action = parse_action(text, request.state)
        return TurnReply(key=request.key, observation=observation, reply=text, action=action)


class _InTurn:
    """A policy that several games share; each game's turn waits for those of the others."""

    def __init__(self, policy: Policy, lock: threading.Lock) -> None:
        self._policy = policy
        self._lock = lock
        self._pending: list[TurnRequest] = []

    @property
    def name(self) -> str:
        return self._policy.name

    def submit(self, requests: Sequence[TurnRequest]) -> None:
        self._pending.extend(requests)

    def poll(self) -> list[TurnReply]:
        pending, self._pending = self._pending, []
        replies: list[TurnReply] = []
        with self._lock:
            self._policy.submit(pending)
            while len(replies) < len(pending):
                replies += self._policy.poll()
        return replies

    def cancel(self) -> None:
        self._pending.clear()


def load_environment(
    game: str | Game = "tictactoe",
    opponent: str = "random",
    *,
    seat: int | None = None,
    seed: int = 0,
    thinking: bool = True,
    **settings: Any,
) -> SpiralEnv:
    """An environment of verifiers in which an agent plays a game.

    Args:
        game: A game or its spec.
        opponent: A policy of spiral's registry, such as "random", "minimax", "nano" or "endpoint:NAME", or "self".
        seat: The player that the agent is; None: each in turn.
        seed: Names the deals.
        thinking: Whether the agent is asked to reason before its action.
        settings: Further settings of verifiers' `EnvConfig`, such as `player` or `timeout`.

    Raises:
        ValueError: There is no such game or policy, or they do not fit.
    """
    spec = game if isinstance(game, str) else game.spec
    taskset = {"id": PACKAGE, "game": spec, "opponent": opponent, "seat": seat, "seed": seed, "thinking": thinking}
    config = SpiralEnvConfig.model_validate({"taskset": taskset, **settings})
    return SpiralEnv(config)


__all__ = [
    "SpiralEnv",
    "SpiralEnvConfig",
    "SpiralHarness",
    "SpiralHarnessConfig",
    "SpiralTask",
    "SpiralTaskset",
    "SpiralTasksetConfig",
    "load_environment",
]
