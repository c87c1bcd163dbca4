r"""Fine-tuning on expert games: the turns of those who played well, as the student would have written them.

    episodes -> turns to learn from -> prompt and reply of the student -> a Collector for the training loop

What was played is the source, never an expert's tokens. The game is replayed from its actions, so every prompt is the
one that the student gets in that state: its template, its way of putting observations, its worked example. The reply is
the expert's text in the student's form: a thought between the student's delimiters, none where `prompt.thinking` is
false, and the token that ends the student's turn. A scripted player has only an action, so its reply is
`\boxed{action}`. Every reply is read back as the game loop reads it; one that does not give the expert's action is left
out.

The loss is the mean negative log-likelihood of the replies' tokens, with one denominator for all samples of a minibatch
(`loss.kind` "nll"). In version 3 of the paper a student learns the winners' turns, thoughts included, of 25,000 or
52,000 games that Qwen3-32B played against itself, in one pass.

Learner, optimizer, packing, checkpoints and evaluation are those of self-play: `ExpertGames` takes the place of the
collector, and `Imitation` that of the advantage estimator. The turns of a step follow from the seed and the step.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from spiral.core.metrics import Metrics, metric_name
from spiral.core.progress import shown
from spiral.core.records import Episode, Generation, Seat, Turn
from spiral.core.seeds import derive_seed
from spiral.core.steps import numbered
from spiral.core.storage import read_episodes
from spiral.games import Game, State, load_game
from spiral.text import ChatCodec, parse_action, split_reply
from spiral.text.thinking import CLOSE, FAMILIES, OPEN, Thought, opened_family, thinking_tokens
from spiral.training.advantages import Estimator
from spiral.training.settings import SftConfig

logger = logging.getLogger(__name__)

STUDENT = "student"
"""The name of the policy in the episodes of a step, which hold what is learned."""
STATE = "expert_games"
"""The key of the data's fingerprint in a checkpoint."""
HOW_TO_COLLECT = "`spiral collect` makes such a directory"


# Reading


def episode_files(data: Sequence[str]) -> list[Path]:
    """The Parquet files of episodes in directories of `spiral collect`, run directories and files, in order.

    Raises:
        ValueError: There are none.
    """
    if not data:
        raise ValueError(f"there are no expert games to learn from; name them with --data DIR ({HOW_TO_COLLECT})")
    files: list[Path] = []
    for name in data:
        path = Path(name)
        if not path.exists():
            raise ValueError(f"sft.data: there is no {name}; {HOW_TO_COLLECT}")
        found = [path] if path.is_file() else _files_in(path)
        if not found:
            raise ValueError(f"sft.data: {name} holds no Parquet files of episodes; {HOW_TO_COLLECT}")
        files += found
    return files


def _files_in(directory: Path) -> list[Path]:
    steps = [file for _, file in numbered(directory / "episodes", ".parquet")]
    return steps or sorted(directory.glob("*.parquet"))


def games_in(config: SftConfig) -> dict[str, float]:
    """The games of the data that are learned from, each with its number of games; only one column is read.

    Raises:
        ValueError: There are no data, a file is damaged, no game is left, or a game does not exist here.
    """
    counts: Counter[str] = Counter()
    for file in episode_files(config.data):
        try:
            table = pq.read_table(file, columns=["game", "turn"])
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ValueError(f"cannot read episodes from {file}: {str(error).splitlines()[0]}") from error
        first = zip(table["game"].to_pylist(), table["turn"].to_pylist(), strict=True)
        counts.update(game for game, turn in first if turn == 0)
    wanted = _wanted(config)
    kept = {spec: float(count) for spec, count in sorted(counts.items()) if not wanted or spec in wanted}
    if not kept:
        has = f"the data have {', '.join(sorted(counts))}" if counts else "the data have no game"
        raise ValueError(f"sft.games is {', '.join(config.games) or 'all'}, and {has}; expected some of those")
    for spec in kept:
        try:
            load_game(spec)
        except ValueError as error:
            raise ValueError(f"the data have games of {spec}: {error}; or leave it out with sft.games") from error
    return kept


def _wanted(config: SftConfig) -> set[str]:
    return {load_game(game).spec for game in config.games}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """The turns to learn from, and why others were left out."""

    turns: tuple[tuple[Episode, int], ...]
    """An episode, and the index of one of its turns."""
    episodes: int
    """Games that have such a turn."""
    left_out: Mapping[str, int]
    """Reasons for leaving games out, with the number of games."""


def select(config: SftConfig, seed: int) -> Selection:
    """Reads the data and selects the turns to learn from, in the order of the files.

    Raises:
        ValueError: The data are missing or damaged, or no turn is left; the message says why.
    """
    wanted, left_out = _wanted(config), Counter[str]()
    games: list[tuple[Episode, list[int]]] = []
    total = 0
    for file in episode_files(config.data):
        for episode in read_episodes(file, tokens=False):
            total += 1
            turns, reason = _turns_of(episode, config, wanted)
            if turns:
                games.append((episode, turns))
            else:
                left_out[reason] += 1
    if config.max_episodes and len(games) > config.max_episodes:
        drawn = random.Random(derive_seed(seed, "expert games")).sample(range(len(games)), config.max_episodes)
        left_out["more than sft.max_episodes"] = len(games) - config.max_episodes
        games = [games[index] for index in sorted(drawn)]
    if not games:
        why = ", ".join(f"{count:,} {reason}" for reason, count in left_out.most_common())
        hint = "; set sft.keep to 'not_losers' to learn from draws too" if left_out["without a winner"] else ""
        raise ValueError(f"of {total:,} games none has a turn to learn from: {why or 'there are none'}{hint}")
    return Selection(
        turns=tuple((episode, index) for episode, turns in games for index in turns),
        episodes=len(games),
        left_out=dict(left_out),
    )


def _turns_of(episode: Episode, config: SftConfig, wanted: set[str]) -> tuple[list[int], str]:
    """The indices of the turns that are learned from; or none, and the reason."""
    if wanted and episode.game not in wanted:
        return [], "of other games"
    if episode.outcome == "not_played" or (config.finished_only and episode.outcome != "finished"):
        return [], "not finished by their rules"
    if config.max_turns and len(episode.turns) > config.max_turns:
        return [], "longer than sft.max_turns"
    players = set(_players_to_learn_from(episode, config)) & set(episode.learning_players)
    if not players:
        return [], _why_none(episode, config)
    turns = [i for i, turn in enumerate(episode.turns) if turn.player in players and turn.action is not None]
    return turns, "without a turn of the expert"


def _why_none(episode: Episode, config: SftConfig) -> str:
    """Why `sft.keep` takes no player of a game."""
    if len(episode.returns) == 1:
        return "without a return above 0"
    decided = len(set(episode.returns)) > 1
    return "won by an opponent" if decided or config.keep != "winners" else "without a winner"


def _players_to_learn_from(episode: Episode, config: SftConfig) -> Iterator[int]:
    """The players whose turns `sft.keep` takes. The highest return wins; equal returns are a draw."""
    best, drawn = max(episode.returns), len(set(episode.returns)) == 1
    for player, value in enumerate(episode.returns):
        if len(episode.returns) == 1:
            won, lost = value > 0, value <= 0
        else:
            won, lost = value == best and not drawn, value < best
        if config.keep == "all" or won or (config.keep == "not_losers" and not lost):
            yield player


# Writing as the student


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExpertTurn:
    """One turn as training data."""

    episode: Episode
    turn: Turn
    """With the student's observation and reply."""
    prompt_ids: NDArray[np.int32]
    """[P]"""
    reply_ids: NDArray[np.int32]
    """[T] the reply's tokens, and the one that ends the turn."""


def expert_turns(selection: Selection, codec: ChatCodec, *, max_reply: int, max_tokens: int) -> list[ExpertTurn]:
    """Puts the selected turns into the student's words and tokens.

    Args:
        selection: The turns.
        codec: The student's tokenizer and prompt.
        max_reply: Tokens that a reply may have, the end of the turn included.
        max_tokens: Tokens that prompt and reply may have together.

    Returns:
        The turns that fit. Those left out are logged as a warning, with the number for each reason.

    Raises:
        ValueError: An episode does not replay, or no turn is left.
    """
    made: list[ExpertTurn] = []
    left_out: Counter[str] = Counter()
    unthinking = 0
    progress = shown()
    progress.stage("reading expert games", len(selection.turns), "turns")
    states: dict[int, list[State]] = {}
    for number, (episode, index) in enumerate(selection.turns):
        game, turn = load_game(episode.game), episode.turns[index]
        if id(episode) not in states:
            states = {id(episode): replayed(game, episode)}
        state = states[id(episode)][index]
        text = student_reply(turn, codec)
        if turn.generation is not None and turn.generation.stop_reason != "stop":
            left_out["were cut off"] += 1
            continue
        observation = state.observation(turn.player, codec.config.observation)
        reply_ids = codec.encode_turn(text)
        history = student_history(episode, index, states[id(episode)], codec)
        prompt_ids, history_turns = codec.encode_in_chat(history, observation, game, max_tokens - max_reply)
        if len(reply_ids) > max_reply:
            left_out[f"have replies of more than {max_reply:,} tokens (sampling.max_new_tokens)"] += 1
        elif len(prompt_ids) + len(reply_ids) > max_tokens:
            left_out[f"have more than {max_tokens:,} tokens with their prompts"] += 1
        elif parse_action(codec.opened + codec.read(reply_ids).text, state) != turn.action:
            left_out["do not give the expert's action when the student's tokens are read back"] += 1
        else:
            unthinking += codec.config.thinking and not codec.read(reply_ids).has_thought
            made.append(
                ExpertTurn(
                    episode=episode,
                    turn=dataclasses.replace(
                        turn,
                        observation=observation,
                        reply=codec.read(reply_ids).text,
                        history_turns=history_turns,
                    ),
                    prompt_ids=prompt_ids.astype(np.int32),
                    reply_ids=reply_ids.astype(np.int32),
                )
            )
        progress.update(number + 1)
    reasons = "; ".join(f"{count:,} {reason}" for reason, count in left_out.most_common())
    if not made:
        raise ValueError(f"none of the {len(selection.turns):,} turns can be learned from: {reasons}")
    if left_out:
        logger.warning("%s of %s expert turns are left out: %s", f"{left_out.total():,}",
                       f"{len(selection.turns):,}", reasons)  # fmt: skip
    if unthinking:
        logger.warning(
            "%s of %s expert turns have no thought, but prompt.thinking is true, so the student learns to answer at"
            " once; set prompt.thinking to false, or collect games of an expert that thinks",
            f"{unthinking:,}", f"{len(made):,}",
        )  # fmt: skip
    return made


def student_history(episode: Episode, index: int, states: Sequence[State], codec: ChatCodec) -> list[Turn]:
    """The earlier turns of a turn's player, in the student's words.

    Args:
        episode: The expert's game.
        index: The index of the turn.
        states: The state before each turn.
        codec: The student's tokenizer and prompt.

    Returns:
        The turns in order; none where the student's prompts have no history.
    """
    if codec.config.history != "chat":
        return []
    player = episode.turns[index].player
    return [
        Turn(
            player=player,
            observation=state.observation(player, codec.config.observation),
            reply=codec.read(codec.encode_turn(student_reply(turn, codec))).text,
            action=turn.action,
        )
        for turn, state in zip(episode.turns[:index], states, strict=False)
        if turn.player == player
    ]


def replayed(game: Game, episode: Episode) -> list[State]:
    """The state before each turn of an episode, from the actions that it records.

    Raises:
        ValueError: The actions are not those of this game.
    """
    decided = sum(turn.action is not None for turn in episode.turns)
    states: list[State] = []
    try:
        state = game.initial_state()
        for action in episode.actions:
            if not state.is_chance:
                states.append(state)
            state = state.apply(action)
        if decided < len(episode.turns):
            states.append(state)  # an illegal reply ended the game
    except Exception as error:  # the record may hold anything
        raise ValueError(
            f"a game of {episode.game} (seed {episode.seed}) does not replay: {error}; it is damaged, or the game's"
            " rules have changed"
        ) from error
    states = states[len(states) - len(episode.turns) :] if len(states) >= len(episode.turns) else []
    if [state.current_player for state in states] != [turn.player for turn in episode.turns]:
        raise ValueError(
            f"a game of {episode.game} (seed {episode.seed}) does not replay: its turns are not the decisions among its"
            " actions; it is damaged, or the game's rules have changed"
        )
    return states


def student_reply(turn: Turn, codec: ChatCodec) -> str:
    """The reply that the student would have sampled for an expert's turn, without the end of the turn.

    A thought stands between the student's delimiters where it has some; the first of them is left out where the
    student's prompt ends with it. Without `prompt.thinking` only the answer stays.
    """
    if turn.reply == turn.action:  # of a scripted player; a model's action is in a box
        thought, answer = "", f"\\boxed{{{turn.action}}}"
        found = Thought(head="", answer=answer, closed=True)
    else:
        found = split_reply(turn.reply)
        thought, answer = found.thinking, found.answer
    if not codec.config.thinking:
        return answer.lstrip()
    opening, closing = _delimiters(codec)
    if codec.opened:
        thought = thought.lstrip("\n")
        joined = found.head[-1:].isspace() or not found.head or not found.delimited
        return f"{thought}{closing}\n\n{answer.lstrip()}" if joined else f"{thought}{closing}{answer}"
    if not found.delimited or not thought.strip():
        return found.head + answer if thought.strip() else answer.lstrip()
    return f"{opening}{thought}{closing}{answer}"


def _delimiters(codec: ChatCodec) -> tuple[str, str]:
    """What opens and closes the student's thoughts: as in its prompt, or of tokens that it has, or `<think>`."""
    family = opened_family(codec.opened)
    if family is not None and len(family.delimiters) == 2:
        return family.delimiters[0], family.delimiters[1]
    known = thinking_tokens(codec.tokenizer)
    for family in FAMILIES:
        if len(family.delimiters) == 2 and known.issuperset(family.delimiters):
            return family.delimiters[0], family.delimiters[1]
    return OPEN, CLOSE


# In the training loop


class Imitation:
    """The estimator of expert games: every token has the advantage 1, so that the policy gradient is that of NLL."""

    def __call__(self, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        """Return one array [turns] of ones for each episode."""
        return [np.ones(len(episode.turns)) for episode in episodes]


def imitation() -> Estimator:
    """The estimator of fine-tuning runs, in place of the recipe's `credit.estimator`."""
    return Estimator("imitation", Imitation())


class ExpertGames:
    """The collector of a fine-tuning run: gives the turns of a step, shuffled anew for every pass over them.

    Each turn is an episode of its own, so that a step has exactly `sft.samples_per_step` of them; the last step has
    what is left of `sft.epochs` passes.
    """

    def __init__(self, turns: Sequence[ExpertTurn], config: SftConfig, seed: int, *, about: str = "") -> None:
        """`about` describes the turns; it is logged once, at the first step of a process."""
        self._turns = tuple(turns)
        self._about = about
        self._config = config
        self._seed = seed
        self._orders: dict[int, list[int]] = {}

    @classmethod
    def read(cls, config: SftConfig, seed: int, codec: ChatCodec, *, max_reply: int, context: int) -> ExpertGames:
        """Reads the data of a run; `context` is the most tokens of prompt and reply that the student takes.

        Raises:
            ValueError: There is nothing to learn from, or the data are damaged.
        """
        limit = min(config.max_tokens or context, context)
        selection = select(config, seed)
        turns = expert_turns(selection, codec, max_reply=max_reply, max_tokens=limit)
        others = ", ".join(f"{count:,} {reason}" for reason, count in selection.left_out.items())
        about = f"{len(turns):,} turns of {selection.episodes:,} games"
        return cls(turns, config, seed, about=f"{about}; not learned from: {others}" if others else about)

    def __len__(self) -> int:
        return len(self._turns)

    @property
    def steps(self) -> int:
        """Steps of `sft.epochs` passes."""
        return -(-len(self) * self._config.epochs // self._config.samples_per_step)

    def collect(self, step: int) -> list[Episode]:
        """The turns of a step, each as an episode with the student's tokens."""
        if self._about:
            logger.info("expert games: %s", self._about)
            self._about = ""
        shown().stage(f"step {step}: reading")
        size, total = self._config.samples_per_step, len(self) * self._config.epochs
        end = total if step == self.steps else step * size
        return [self._episode(self._turn_at(position)) for position in range((step - 1) * size, end)]

    def describe(self, episodes: Sequence[Episode], times: Mapping[str, float]) -> Metrics:
        """The metrics of a step, beside those of the update; `times` holds the seconds of each phase under its key."""
        replies = [len(turn.generation.token_ids) for e in episodes for turn in e.turns if turn.generation]
        prompts = [len(turn.prompt_ids) for e in episodes for turn in e.turns if turn.prompt_ids is not None]
        games = Counter(episode.game for episode in episodes)
        seconds = sum(times.values())
        return {
            "sft/tokens": float(sum(replies)),
            "sft/reply_length": sum(replies) / max(1, len(replies)),
            "sft/reply_length_max": float(max(replies, default=0)),
            "sft/prompt_length": sum(prompts) / max(1, len(prompts)),
            **{f"sft/{metric_name(game)}/samples": float(count) for game, count in sorted(games.items())},
            **times,
            "time/step_s": seconds,
            "time/turns_per_s": len(replies) / max(seconds, 1e-9),
            "time/tokens_per_s": sum(replies) / max(seconds, 1e-9),
        }

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run has to find again: the number of turns and the hash of their tokens."""
        digest = hashlib.sha256()
        for turn in self._turns:
            digest.update(turn.prompt_ids.tobytes() + b"|" + turn.reply_ids.tobytes() + b"\n")
        return {STATE: {"turns": len(self), "sha256": digest.hexdigest()}}

    def load_state_dict(self, state: Mapping[str, Any], source: str = "a checkpoint") -> None:
        """Raises `ValueError` when the data are not those of the state, which is that of the checkpoint `source`."""
        known, given = state.get(STATE), self.state_dict()[STATE]
        if known is not None and known != given:
            raise ValueError(
                f"the expert games are not those of {source}, which has learned from {known['turns']:,} turns with the"
                f" hash {known['sha256'][:8]}: {', '.join(self._config.data)} give {given['turns']:,} with the hash"
                f" {given['sha256'][:8]}; restore them, or start a new run"
            )

    def metrics(self) -> Metrics:
        """No metrics beyond those of the turns and of the update."""
        return {}

    def add_checkpoint(self, step: int, path: Path) -> None:
        """Does nothing: no game is played against a checkpoint."""

    def _turn_at(self, position: int) -> ExpertTurn:
        epoch, place = divmod(position, len(self))
        if epoch not in self._orders:
            order = list(range(len(self)))
            random.Random(derive_seed(self._seed, "expert order", epoch)).shuffle(order)
            self._orders = {number: kept for number, kept in self._orders.items() if number == epoch - 1}
            self._orders[epoch] = order
        return self._turns[self._orders[epoch][place]]

    def _episode(self, expert: ExpertTurn) -> Episode:
        generation = Generation(
            token_ids=expert.reply_ids.astype(np.int64),
            # An expert chose these tokens, so there are no log-probabilities; the loss of expert games reads none.
            logprobs=np.zeros(len(expert.reply_ids), dtype=np.float32),
            stop_reason="stop",
            policy_version=0,
        )
        turn = dataclasses.replace(expert.turn, prompt_ids=expert.prompt_ids.astype(np.int64), generation=generation)
        seats = tuple(
            Seat(policy=STUDENT if player == turn.player else seat.policy, trainable=player == turn.player)
            for player, seat in enumerate(expert.episode.seats)
        )
        return dataclasses.replace(expert.episode, turns=(turn,), seats=seats)
