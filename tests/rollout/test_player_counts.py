"""Games of one and of three players, through the whole of rollout."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from small_games import Echo, OddOneOut
from spiral.core.metrics import Matchup, episode_metrics
from spiral.core.storage import read_episodes, write_episodes
from spiral.core.transcript import game_text
from spiral.evaluation.arena import paired_matches, summarise
from spiral.games import TERMINAL
from spiral.launch import execute, start
from spiral.policies import ScriptedPolicy, TurnReply
from spiral.policies.scripted import RandomPolicy
from spiral.rollout.loop import Match, play
from spiral.rollout.matchmaking import Matchmaker, SelfPlayConfig
from spiral.runs.recipe import load_recipe
from spiral.training.advantages import RAE

ODD, ECHO = "small_games:OddOneOut", "small_games:Echo"


class Says(ScriptedPolicy):
    """Always gives the same reply; "?" is illegal."""

    def __init__(self, word: str) -> None:
        super().__init__()
        self.name, self.word = word, word

    def choose(self, state, player, rng):
        return self.word

    def _reply(self, request):
        if self.word == "?":
            return TurnReply(key=request.key, observation="", reply="?", action=None)
        return super()._reply(request)


def play_odd(*words, **fields):
    (episode,) = play([Match(game=OddOneOut(), seed=0, policies=tuple(map(Says, words)), **fields)])
    return episode


def test_three_players_are_paid_and_each_has_turns():
    episode = play_odd("heads", "tails", "heads")
    assert [(turn.player, turn.action) for turn in episode.turns] == [(0, "heads"), (1, "tails"), (2, "heads")]
    assert (episode.outcome, episode.returns) == ("finished", (1.0, -2.0, 1.0))
    assert [turn.reward for turn in episode.turns] == [1.0, -2.0, 1.0]
    assert [seat.policy for seat in episode.seats] == ["heads", "tails", "heads"]
    assert (episode.learning_players, episode.matchup) == ((0, 1, 2), ODD)


def test_the_others_share_what_an_illegal_move_costs():
    episode = play_odd("heads", "?", "heads")
    assert (episode.outcome, episode.returns) == ("illegal_move", (0.5, -3.0, 0.5))
    assert [turn.reward for turn in episode.turns] == [0.5, -3.0]
    (alone,) = play([Match(game=Echo(), seed=0, policies=(Says("?"),))])
    assert (alone.outcome, alone.returns) == ("illegal_move", (-1.5,))


def test_a_game_of_three_can_be_cut_off():
    episode = play_odd("heads", "tails", "heads", max_turns=2)
    assert (episode.outcome, episode.returns) == ("truncated", (0.0, 0.0, 0.0))


def test_one_player_gets_its_rewards_when_they_are_earned():
    matches = [Match(game=Echo(rounds=3), seed=seed, policies=(Says("ping"),)) for seed in range(20)]
    seen = Counter()
    for episode in play(matches):
        shown = episode.actions[::2]
        assert [turn.reward for turn in episode.turns] == [float(word == "ping") for word in shown]
        assert episode.returns == (sum(turn.reward for turn in episode.turns),)
        seen[episode.returns] += 1
    assert len(seen) >= 3


def test_a_match_has_a_policy_for_each_player():
    with pytest.raises(ValueError, match="got 2 policies and 3 entries of trainable; it has 3 players"):
        Match(game=OddOneOut(), seed=0, policies=(Says("heads"), Says("tails")))


def test_opponents_play_all_other_players_and_the_policy_each_in_turn():
    config = SelfPlayConfig(
        games={ODD: 1.0, ECHO: 1.0}, opponents={"mirror": 1.0, "random": 1.0}, episodes_per_step=24, in_flight=4
    )
    learner = RandomPolicy()
    learner.name = "learner"
    matches = Matchmaker(learner, config, 3).matches(1)
    learning = Counter((match.game.name, match.trainable) for match in matches)
    assert learning == {
        (ODD, (True, True, True)): 6,
        (ODD, (True, False, False)): 2,
        (ODD, (False, True, False)): 2,
        (ODD, (False, False, True)): 2,
        (ECHO, (True,)): 12,
    }
    for match in matches:
        for policy, learns in zip(match.policies, match.trainable, strict=True):
            assert policy.name == ("learner" if learns else "random")
    episodes = play(matches, in_flight=4)
    assert {episode.matchup for episode in episodes} == {ODD, f"{ODD} against random, random", ECHO}
    assert {episode.learning_players for episode in episodes if episode.matchup == f"{ODD} against random, random"} == {
        (0,),
        (1,),
        (2,),
    }
    metrics = episode_metrics(episodes, {})
    assert metrics["rollout/games"] == 24.0
    assert metrics["rollout/turns"] == 6 * 3 + 6 + 12 * 2


def test_openings_leave_a_decision_in_three_player_games():
    player = RandomPolicy()
    matches = [Match(game=OddOneOut(), seed=seed, policies=(player,) * 3, opening_plies=5) for seed in range(60)]
    turns = Counter(len(episode.turns) for episode in play(matches))
    assert set(turns) == {1, 2, 3}
    for episode in play(matches):
        state = OddOneOut().initial_state()
        for action in episode.actions:
            state = state.apply(action)
        assert state.current_player == TERMINAL
        assert episode.returns == state.returns()


def test_records_of_any_number_of_players_survive(tmp_path: Path):
    player = RandomPolicy()
    episodes = play(
        [
            Match(game=OddOneOut(), seed=1, policies=(player,) * 3, trainable=(True, False, True)),
            Match(game=Echo(), seed=2, policies=(player,), trainable=(True,)),
        ]
    )
    write_episodes(tmp_path / "e.parquet", episodes)
    assert read_episodes(tmp_path / "e.parquet") == episodes


def test_an_episode_in_which_two_of_three_learn():
    episode = play_odd("heads", "heads", "tails", trainable=(True, False, True))
    assert episode.learning_players == (0, 2)
    assert episode.matchup == f"{ODD} against heads"


def test_transcripts_name_every_player():
    text = game_text(play_odd("heads", "tails", "heads"))
    assert "player 1 plays: tails" in text
    assert text.endswith("Result: player 0 and player 2 won (returns: player 0 +1, player 1 -2, player 2 +1).")
    assert game_text(play_odd("heads", "?", "heads")).endswith(
        "Result: player 0 and player 2 won by forfeit (returns: player 0 +0.5, player 1 -3, player 2 +0.5)."
    )
    (alone,) = play([Match(game=Echo(), seed=3, policies=(Says("ping"),))])
    assert game_text(alone).endswith(f"Result: player 0 {alone.returns[0]:+g}.")


def test_a_policy_is_each_of_three_players_in_turn():
    """A player who alone says heads pays 2, as each player in turn, with the same deals in a group."""
    matches = paired_matches(Says("heads"), Says("tails"), OddOneOut(), 6, 0)
    assert [[policy.name for policy in match.policies].index("heads") for match in matches] == [0, 1, 2, 0, 1, 2]
    assert [match.seed for match in matches] == [matches[0].seed] * 3 + [matches[3].seed] * 3
    result = summarise(play(matches), OddOneOut(), "heads", "tails", 0)
    assert (result.mean_return, result.seat_returns) == (-2.0, (-2.0, -2.0, -2.0))
    assert (result.loss.value, result.mean_return_low, result.mean_return_high) == (1.0, -2.0, -2.0)
    assert (result.opponent_return, result.opponent_return_low, result.opponent_return_high) == (1.0, 1.0, 1.0)
    assert result.seat_advantage == pytest.approx((-3.0 + 1.5 + 1.5) / 3)
    one = summarise(play(matches[:3]), OddOneOut(), "heads", "tails", 0)
    assert (one.mean_return, one.mean_return_low) == (-2.0, None)
    assert (one.opponent_return, one.opponent_return_low, one.opponent_return_high) == (1.0, None, None)


def test_what_cannot_be_evaluated_is_refused():
    player = RandomPolicy()
    with pytest.raises(ValueError, match="expected a multiple of its 3 players, such as 9"):
        paired_matches(player, player, OddOneOut(), 8, 0)
    with pytest.raises(ValueError, match="has 1 player; only games of two players or more have an opponent"):
        paired_matches(player, player, Echo(), 2, 0)
    with pytest.raises(ValueError, match=r"evaluation\.games: 'small_games:Echo' is a game of 1 player; only games"):
        load_recipe("nano", [f'evaluation.games=["{ECHO}"]'])


def test_a_run_trains_on_games_of_one_and_of_three_players(tmp_path: Path):
    settings = (
        "run.steps=2",
        "run.episodes_every=1",
        f'selfplay.games={{ "{ODD}" = 1.0, "{ECHO}" = 1.0 }}',
        "selfplay.opponents={ mirror = 1.0, random = 1.0 }",
        "selfplay.episodes_per_step=16",
        "sampling.max_new_tokens=4",
        "evaluation.games=[]",
        "evaluation.exploitability=[]",
    )
    shown: list[dict[str, float]] = []
    run = execute(start(load_recipe("nano", settings), tmp_path / "run"), lambda step, metrics: shown.append(metrics))
    sample = run.sample_game(ODD, 0)
    run.close()
    assert len(sample.seats) == 3
    key = Matchup(game=ODD).key
    assert {key("return", player) for player in range(3)} <= set(shown[-1])
    assert key("baseline", 2) in shown[-1]
    episodes = read_episodes(tmp_path / "run" / "episodes" / "step-000002.parquet")
    assert Counter(len(episode.seats) for episode in episodes) == {3: 8, 1: 8}
    estimator = RAE()
    advantages = estimator(episodes)
    for episode, of_turns in zip(episodes, advantages, strict=True):
        assert len(of_turns) == len(episode.turns)


@pytest.mark.parametrize(
    ("games", "players"),
    [
        ({"multi_kuhn": 1.0}, {"multi_kuhn": 3}),
        ({"lewis_signalling": 1.0}, {"lewis_signalling": 2}),
        (
            {"tictactoe": 1.0, "multi_kuhn": 1.0, "prisoners_dilemma(labels='0 1')": 1.0},
            {"tictactoe": 2, "multi_kuhn": 3, "prisoners_dilemma(labels='0 1')": 2},
        ),
        ({"proposer_solver(problems=2)": 1.0}, {"proposer_solver(problems=2)": 2}),
        ({"textarena/Surround-v0(players=3)": 1.0}, {"textarena/Surround-v0(players=3)": 3}),
    ],
    ids=["three players", "partners", "mixed", "proposer and solver", "three players of TextArena"],
)
def test_runs_of_three_players_of_partners_and_of_both(games, players, tmp_path: Path):
    """Every player has a return, a reward and a baseline, and the gradient is finite."""
    for game, library in (("proposer", "reasoning_gym"), ("textarena", "textarena")):
        if next(iter(games)).startswith(game):
            pytest.importorskip(library)
    recipe = load_recipe(
        "nano",
        [
            *("run.steps=2", "selfplay.opening_plies={}", "selfplay.episodes_per_step=12", "sampling.max_new_tokens=4"),
            "selfplay.reward=normalised",
            *("learner.minibatches=1", "evaluation.games=[]", "evaluation.exploitability=[]"),
        ],
    )
    recipe = recipe.model_copy(update={"selfplay": recipe.selfplay.model_copy(update={"games": games})})
    shown: list[dict[str, float]] = []
    execute(start(recipe, tmp_path / "run"), lambda step, metrics: shown.append(metrics)).close()
    for game, count in players.items():
        key = Matchup(game=game).key
        for player in range(count):
            assert {key(name, player) for name in ("return", "reward", "baseline", "win")} <= set(shown[-1])
            assert -1.5 <= shown[-1][key("reward", player)] <= 1
        assert key("return", count) not in shown[-1]
        assert shown[-1][key("games")] == 12 / len(games)
    assert 0 < shown[-1]["learner/grad_norm"] < float("inf")
