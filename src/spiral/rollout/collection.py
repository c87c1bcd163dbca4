"""Games to learn from: any policy plays, and its episodes are kept in a directory that grows until all are there.

    data/ttt/
      collection.json     what was asked for: policy, opponent, games, seed
      episodes/           step-000001.parquet and so on: at most 256 games each, in the form of a run's episodes

Which games there are follows from the settings alone: game number i of a kind has the same seed whenever it is played.
So a collection that was stopped continues where it was, one that is complete can be made larger, and games that could
not be played (a network error, a spend limit) are tried again. Finished games are written every `WRITE_EVERY` games and
when the collection ends in any way, so that a kill loses few of them.

`spiral.training.sft` learns from such a directory, and from that of a run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spiral.core.files import remove_unfinished, write_text_atomically
from spiral.core.locks import locked
from spiral.core.policy import NotPlayedError
from spiral.core.records import Episode, Seat
from spiral.core.seeds import derive_seed
from spiral.core.steps import numbered, step_name
from spiral.core.storage import read_episodes, write_episodes
from spiral.games import Game
from spiral.policies import Policy
from spiral.rollout.loop import Match, play_as_completed

GAMES_PER_FILE = 256
WRITE_EVERY = 32
"""Finished games after which a file that is not complete yet is written."""
MAX_NOT_PLAYED = 64
"""Games in a row that could not be played after which a collection stops: the reason is hardly one of these games."""
SETTINGS_FILE = "collection.json"
LOCK = ".lock"

Players = Callable[[str, Game], Policy]
"""From the name of a policy and a game to the policy."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CollectionResult:
    """The games of a collection."""

    episodes: int
    """Games that are kept."""
    new: int
    """Those of them that were played by this call."""
    turns: int
    not_played: int
    """Games that could not be played; the next call tries them again."""
    faults: dict[str, int]
    """Reasons why games were not played, most frequent first, with their counts."""
    games: dict[str, dict[str, float]]
    """For each game: `episodes`, `finished` and `decided` games (one with a winner), and the mean returns."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON-ready form."""
        return dataclasses.asdict(self)


class Collection:
    """The directory of a collection, held by one process at a time."""

    def __init__(
        self,
        path: Path,
        *,
        games: Sequence[Game],
        episodes: int,
        policy: str,
        opponent: str | None = None,
        seed: int = 0,
        opening_plies: int = 0,
        max_turns: int = 1000,
    ) -> None:
        """Plans the games; nothing is read or written yet.

        Args:
            path: The directory.
            games: The games, each once.
            episodes: Number of games of each kind.
            policy: The name of the policy to learn from.
            opponent: The name of another policy for all other players. Games are played as each player in turn, and
                only the turns of `policy` are marked to be learned from. None: `policy` is every player.
            seed: Fixes all deals, openings and random draws.
            opening_plies: Half of the games open with up to this many random moves, which are no turns.
            max_turns: A game that takes more turns is cut off.

        Raises:
            ValueError: A game is named twice, or has one player and an opponent is named.
        """
        specs = [game.spec for game in games]
        if len(set(specs)) < len(specs):
            raise ValueError(f"got the games {', '.join(specs)}; expected each game once")
        alone = [game.spec for game in games if game.num_players == 1]
        if opponent is not None and alone:
            raise ValueError(f"{alone[0]} is a game of one player; leave out the opponent {opponent!r}")
        self.path = path
        self._games = tuple(games)
        self._total = episodes * len(games)
        self._policy, self._opponent, self._seed = policy, opponent, seed
        self._opening_plies, self._max_turns = opening_plies, max_turns

    @property
    def settings(self) -> dict[str, Any]:
        """What fixes the games, for `collection.json`."""
        return {
            "policy": self._policy,
            "opponent": self._opponent,
            "games": [game.spec for game in self._games],
            "seed": self._seed,
            "opening_plies": self._opening_plies,
            "max_turns": self._max_turns,
        }

    def play(
        self,
        players: Players,
        *,
        more_settings: Mapping[str, Any] | None = None,
        in_flight: int = 256,
        watch: Callable[[int, int], object] | None = None,
    ) -> CollectionResult:
        """Plays the games that are missing.

        Args:
            players: Gives the policies.
            more_settings: What else fixes the games, such as the sampling of a model and the hash of its weights.
            in_flight: Games under way at once.
            watch: Called after every game with the number of kept games and of all games.

        Raises:
            ValueError: The directory holds other games, is damaged, or another process writes to it.
            NotPlayedError: Too many games in a row could not be played. What was played is kept.
        """
        with contextlib.ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(self.path / LOCK))
            except BlockingIOError as error:
                raise ValueError(f"{error.strerror} is writing to {self.path} right now; wait until it ends") from error
            except OSError as error:
                raise ValueError(f"cannot write to {self.path}: {error.strerror}; choose another directory") from error
            self._keep_settings({**self.settings, **(more_settings or {})})
            return self._play(players, in_flight, watch)

    def _play(self, players: Players, in_flight: int, watch: Callable[[int, int], object] | None) -> CollectionResult:
        kept = self._kept()
        missing = [index for index in range(self._total) if index not in kept.get(index // GAMES_PER_FILE, {})]
        count = before = self._total - len(missing)
        faults: Counter[str] = Counter()
        unwritten: Counter[int] = Counter()
        in_a_row = 0
        if watch is not None:
            watch(count, self._total)
        matches = (self._match(index, players) for index in missing)
        played = play_as_completed(matches, in_flight)
        try:
            for number, episode in played:
                index = missing[number]
                if episode.outcome == "not_played":
                    faults[episode.fault] += 1
                    in_a_row += 1
                    if in_a_row in (MAX_NOT_PLAYED, len(missing)):
                        raise NotPlayedError(f"{in_a_row} games in a row could not be played: {episode.fault}")
                    continue
                in_a_row, count = 0, count + 1
                file = index // GAMES_PER_FILE
                kept.setdefault(file, {})[index] = self._marked(index, episode)
                unwritten[file] += 1
                whole = self._complete(file, kept[file])
                if whole or unwritten[file] >= WRITE_EVERY:
                    self._write(file, kept[file])
                    del unwritten[file]
                if whole:
                    kept[file] = dict.fromkeys(kept[file])
                if watch is not None:
                    watch(count, self._total)
        finally:
            played.close()
            for file in unwritten:
                self._write(file, kept[file])
        return self._result(count - before, faults)

    def _match(self, index: int, players: Players) -> Match:
        """Game `index` of the collection: the kinds of games take turns."""
        game, number = self._games[index % len(self._games)], index // len(self._games)
        return Match(
            game=game,
            seed=self._game_seed(index),
            policies=tuple(players(name, game) for name in self._names(game, number)),
            max_turns=self._max_turns,
            opening_plies=self._opening_plies,
        )

    def _names(self, game: Game, number: int) -> list[str]:
        """The name of each player's policy in game `number` of its kind."""
        learner = number % game.num_players
        return [
            self._policy if self._opponent is None or player == learner else self._opponent
            for player in range(game.num_players)
        ]

    def _game_seed(self, index: int) -> int:
        spec = self._games[index % len(self._games)].spec
        return derive_seed(self._seed, "collect", spec, index // len(self._games))

    def _marked(self, index: int, episode: Episode) -> Episode:
        """The episode with the players to learn from marked, under the names that were asked for."""
        game = self._games[index % len(self._games)]
        learner = index // len(self._games) % game.num_players
        seats = tuple(
            Seat(policy=seat.policy, trainable=self._opponent is None or player == learner)
            for player, seat in enumerate(episode.seats)
        )
        return dataclasses.replace(episode, seats=seats)

    def _kept(self) -> dict[int, dict[int, Episode | None]]:
        """For every file the games in it by their index; of complete files the episodes themselves are left out.

        The last file may have games of a larger collection too, which are kept.
        """
        directory = self.path / "episodes"
        directory.mkdir(exist_ok=True)
        remove_unfinished(directory)
        files = -(-self._total // GAMES_PER_FILE)
        indices = {self._game_seed(index): index for index in range(files * GAMES_PER_FILE)}
        kept: dict[int, dict[int, Episode | None]] = {}
        for number, path in numbered(directory, ".parquet"):
            file = number - 1
            if file >= files:
                continue  # of a larger collection
            found = read_episodes(path, tokens=False)
            games: dict[int, Episode | None] = {
                indices[episode.seed]: None for episode in found if indices.get(episode.seed) is not None
            }
            if not self._complete(file, games):
                games = {indices[episode.seed]: episode for episode in read_episodes(path) if episode.seed in indices}
            kept[file] = games
        return kept

    def _complete(self, file: int, games: Mapping[int, Episode | None]) -> bool:
        """Whether a file has all of its games that were asked for."""
        asked = min(GAMES_PER_FILE, self._total - file * GAMES_PER_FILE)
        return sum(index < self._total for index in games) == asked

    def _write(self, file: int, games: Mapping[int, Episode | None]) -> None:
        episodes = [episode for _, episode in sorted(games.items()) if episode is not None]
        write_episodes(self.path / "episodes" / f"{step_name(file + 1)}.parquet", episodes)

    def _keep_settings(self, settings: Mapping[str, Any]) -> None:
        """Writes the settings of a new collection. Raises `ValueError` for a directory that holds something else."""
        file = self.path / SETTINGS_FILE
        own = {SETTINGS_FILE, LOCK, f"{LOCK}.owner", "episodes"}
        if not numbered(self.path / "episodes", ".parquet"):  # nothing is lost if the settings change
            others = [path.name for path in self.path.iterdir() if path.name not in own]
            if others:
                raise ValueError(f"{self.path} holds no collection of games, but {others[0]}; choose another directory")
            write_text_atomically(file, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
            return
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
            differences = [
                f"{name} is {_short(kept.get(name))} in it and {_short(value)} now"
                for name, value in json.loads(json.dumps(settings)).items()
                if kept.get(name) != value
            ]
        except (OSError, ValueError, AttributeError) as error:
            raise ValueError(f"{file} is damaged ({type(error).__name__}); choose another directory") from error
        if differences:
            raise ValueError(f"{self.path} holds other games: {'; '.join(differences)}; choose another directory")

    def _result(self, new: int, faults: Counter[str]) -> CollectionResult:
        """Counts all games of the directory."""
        turns = 0
        games: dict[str, dict[str, float]] = {}
        returns: dict[str, list[tuple[float, ...]]] = {}
        for _, path in numbered(self.path / "episodes", ".parquet"):
            for episode in read_episodes(path, tokens=False):
                turns += len(episode.turns)
                counts = games.setdefault(episode.game, {"episodes": 0, "finished": 0, "decided": 0})
                counts["episodes"] += 1
                counts["finished"] += episode.outcome == "finished"
                counts["decided"] += len(set(episode.returns)) > 1
                returns.setdefault(episode.game, []).append(episode.returns)
        for spec, paid in returns.items():
            for player, values in enumerate(zip(*paid, strict=True)):
                games[spec][f"return_player{player}"] = sum(values) / len(values)
        return CollectionResult(
            episodes=sum(int(counts["episodes"]) for counts in games.values()),
            new=new,
            turns=turns,
            not_played=faults.total(),
            faults=dict(faults.most_common()),
            games=games,
        )


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:80] + "..."
