"""Collections of games: the same whenever they are played, continued where they stopped, marked for learning."""

import random

import pytest

from made_up import new_episode, new_turn
from small_games import OddOneOut
from spiral.core.policy import NotPlayedError, TurnReply
from spiral.core.records import Turn
from spiral.core.storage import read_episodes, write_episodes
from spiral.games import load_game
from spiral.policies import scripted_policy
from spiral.policies.scripted import RandomPolicy
from spiral.rollout.collection import GAMES_PER_FILE, Collection

TICTACTOE, KUHN = load_game("tictactoe"), load_game("kuhn_poker")


class Unreachable(RandomPolicy):
    """Random play behind a server that does not answer from its reply `first` on."""

    def __init__(self, first):
        super().__init__()
        self.first, self.replies = first, 0

    def _reply(self, request):
        self.replies += 1
        if self.replies >= self.first:
            return TurnReply(key=request.key, observation="", reply="", action=None, fault="no answer")
        return super()._reply(request)


def collected(path):
    """All episodes of a collection, in the order of its files."""
    return [episode for file in sorted((path / "episodes").iterdir()) for episode in read_episodes(file)]


def play(path, episodes, players=scripted_policy, games=(TICTACTOE, KUHN), **options):
    return Collection(path, games=games, episodes=episodes, policy="random", **options).play(players)


def test_a_collection_that_grows_is_that_which_was_asked_for_at_once(tmp_path):
    first = play(tmp_path / "grown", 20)
    assert (first.episodes, first.new, first.games["kuhn_poker"]["episodes"]) == (40, 40, 20)
    second = play(tmp_path / "grown", 130)
    assert (second.episodes, second.new) == (260, 220)
    play(tmp_path / "whole", 130)
    files = sorted(path.name for path in (tmp_path / "whole" / "episodes").iterdir())
    assert files == ["step-000001.parquet", "step-000002.parquet"]
    assert len(read_episodes(tmp_path / "whole" / "episodes" / files[0])) == GAMES_PER_FILE
    for name in files:
        grown, whole = (tmp_path / kind / "episodes" / name for kind in ("grown", "whole"))
        assert grown.read_bytes() == whole.read_bytes()
    assert play(tmp_path / "grown", 130).new == 0
    assert play(tmp_path / "grown", 10).episodes == 260


def test_only_the_policy_of_a_collection_is_learned_from_and_it_is_every_player_in_turn(tmp_path):
    play(tmp_path / "duel", 4, opponent="minimax", games=[TICTACTOE])
    seats = [[(seat.policy, seat.trainable) for seat in episode.seats] for episode in collected(tmp_path / "duel")]
    mine, other = ("random", True), ("minimax", False)
    assert seats == [[mine, other], [other, mine]] * 2
    play(tmp_path / "self", 2, games=[TICTACTOE])
    assert {seat.trainable for episode in collected(tmp_path / "self") for seat in episode.seats} == {True}
    play(tmp_path / "three", 3, opponent="other", games=[OddOneOut()], players=lambda _name, _game: RandomPolicy())
    assert [e.learning_players for e in collected(tmp_path / "three")] == [(0,), (1,), (2,)]


def test_games_that_could_not_be_played_are_tried_again(tmp_path):
    broken = Unreachable(first=200)
    with pytest.raises(NotPlayedError, match="64 games in a row could not be played: no answer"):
        play(tmp_path, 100, games=[TICTACTOE], players=lambda _name, _game: broken, opening_plies=2)
    kept = len(collected(tmp_path))
    assert 0 <= kept < 100
    result = play(tmp_path, 100, games=[TICTACTOE], opening_plies=2)
    assert (result.episodes, result.new, result.not_played) == (100, 100 - kept, 0)


def test_a_few_games_without_a_reply_do_not_stop_a_collection(tmp_path):
    broken = Unreachable(first=10**9)
    broken.choose = lambda state, player, rng: random.Random(0).choice(state.legal_actions())
    original = broken._reply
    broken._reply = lambda request: (
        TurnReply(key=request.key, observation="", reply="", action=None, fault="busy")
        if request.key == 3
        else original(request)
    )
    result = play(tmp_path, 10, games=[TICTACTOE], players=lambda _name, _game: broken)
    assert (result.episodes, result.not_played, result.faults) == (9, 1, {"busy": 1})


def test_a_smaller_number_of_games_keeps_the_others(tmp_path):
    skipping = RandomPolicy()
    original = skipping._reply
    skipping._reply = lambda request: (
        TurnReply(key=request.key, observation="", reply="", action=None, fault="busy")
        if request.key == 3
        else original(request)
    )
    assert play(tmp_path, 20, games=[TICTACTOE], players=lambda _name, _game: skipping).episodes == 19
    result = play(tmp_path, 10, games=[TICTACTOE])
    assert (result.episodes, result.new) == (20, 1)
    assert play(tmp_path, 20, games=[TICTACTOE]).new == 0


def test_what_was_played_is_kept_when_a_collection_is_interrupted(tmp_path):
    def stop(done, _total):
        if done == 7:
            raise KeyboardInterrupt

    collection = Collection(tmp_path, games=[TICTACTOE], episodes=60, policy="random")
    with pytest.raises(KeyboardInterrupt):
        collection.play(scripted_policy, in_flight=1, watch=stop)
    assert len(collected(tmp_path)) == 7
    assert play(tmp_path, 60, games=[TICTACTOE]).new == 53


def test_other_games_are_refused(tmp_path):
    play(tmp_path / "c", 2, seed=1)
    with pytest.raises(ValueError, match="holds other games: seed is 1 in it and 2 now; choose another directory"):
        play(tmp_path / "c", 2, seed=2)
    with pytest.raises(ValueError, match="opponent is null in it and"):
        play(tmp_path / "c", 2, seed=1, opponent="minimax")
    (tmp_path / "c" / "collection.json").write_text("[")
    with pytest.raises(ValueError, match=r"collection\.json is damaged"):
        play(tmp_path / "c", 2, seed=1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds no collection of games, but thesis\.txt"):
        play(tmp_path / "other", 2)
    with pytest.raises(ValueError, match="expected each game once"):
        play(tmp_path / "twice", 2, games=[TICTACTOE, TICTACTOE])


def test_a_file_is_read_without_its_tokens(tmp_path):
    turns = [new_turn(0, stop_reason="length"), Turn(player=1, observation="o", reply="4", action="4")]
    write_episodes(tmp_path / "e.parquet", [new_episode((1.0, -1.0), turns)])
    (episode,) = read_episodes(tmp_path / "e.parquet", tokens=False)
    first, second = episode.turns
    assert first.prompt_ids is None
    assert second.generation is None
    assert (first.generation.stop_reason, len(first.generation.token_ids)) == ("length", 0)
    assert episode.returns == (1.0, -1.0)
