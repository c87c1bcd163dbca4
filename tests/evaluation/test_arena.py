"""Evaluation against an opponent: intervals, and pairs of games with the same deals."""

import json
import math

import pytest

from made_up import new_episode, new_turn
from spiral.core.policy import NotPlayedError
from spiral.evaluation import evaluate
from spiral.evaluation.arena import MAX_FAULTS, OTHER_FAULTS, summarise
from spiral.evaluation.statistics import wilson
from spiral.games import load_game
from spiral.policies import ScriptedPolicy, TurnReply, scripted_policy

TICTACTOE = load_game("tictactoe")
KUHN = load_game("kuhn_poker")


class Faulty(ScriptedPolicy):
    """Random play that gives an illegal reply in its second turn as the given player."""

    name = "faulty"

    def __init__(self, player):
        super().__init__()
        self.player = player

    def choose(self, state, player, rng):
        return rng.choice(state.legal_actions())

    def _reply(self, request):
        if request.player == self.player and len(request.state.moves) >= 2:
            return TurnReply(key=request.key, observation="", reply="?", action=None)
        return super()._reply(request)


class First(ScriptedPolicy):
    """Always takes the first legal action; records the cards it was dealt."""

    name = "first"

    def __init__(self):
        super().__init__()
        self.dealt = []

    def choose(self, state, player, rng):
        self.dealt.append((player, state.cards))
        return state.legal_actions()[0]


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # No success in n gives z^2 / (n + z^2) as the upper bound, with z^2 = 3.841459.
        (0, 10, 0.0, 0.277533),
        (5, 10, 0.236593, 0.763407),
        (10, 10, 0.722467, 1.0),
        (1, 10, 0.017876, 0.404150),
        (50, 100, 0.403832, 0.596168),
        (400, 400, 0.990488, 1.0),
    ],
)
def test_wilson_intervals(successes, trials, low, high):
    rate = wilson(successes, trials)
    assert rate.value == successes / trials
    assert (rate.low, rate.high) == pytest.approx((low, high), abs=1e-6)
    assert 0 <= rate.low <= rate.value <= rate.high <= 1


def test_wilson_intervals_cover_the_truth():
    for share in (0.1, 0.3, 0.5):
        rates = [wilson(count, 60) for count in range(61)]
        chances = [math.comb(60, count) * share**count * (1 - share) ** (60 - count) for count in range(61)]
        covered = sum(chance for chance, rate in zip(chances, rates, strict=True) if rate.low <= share <= rate.high)
        assert covered == pytest.approx(0.95, abs=0.03)


def test_both_players_get_the_same_deals():
    first, opponent = First(), First()
    result = evaluate(first, opponent, KUHN, episodes=120, seed=3)
    # Everyone checks, so the higher card wins one chip: what one player wins the other loses.
    assert result.win.value == result.loss.value == 0.5
    assert result.seat_returns[0] == -result.seat_returns[1]
    dealt = {player: sorted(cards for mine, cards in first.dealt if mine == player) for player in (0, 1)}
    assert dealt[0] == dealt[1]
    assert len(dealt[0]) == 60
    assert len(set(dealt[0])) == 6


def test_equal_policies_have_equal_rates_and_seeds_matter():
    random = scripted_policy("random", TICTACTOE)
    one = evaluate(random, random, TICTACTOE, episodes=100, seed=1)
    assert one == evaluate(random, random, TICTACTOE, episodes=100, seed=1, in_flight=3)
    assert one != evaluate(random, random, TICTACTOE, episodes=100, seed=2)
    # Both games of a pair share every draw, so the same game is won once by each.
    assert one.win.value == one.loss.value
    assert one.seat_returns[0] == -one.seat_returns[1]


def test_random_play_against_perfect_play():
    result = evaluate(
        scripted_policy("random", TICTACTOE), scripted_policy("minimax", TICTACTOE), TICTACTOE, 200, seed=0
    )
    assert result.win.value == 0.0
    assert result.loss.value > 0.7
    assert result.win.value + result.draw.value + result.loss.value == pytest.approx(1.0)
    assert result.not_lost.value == result.draw.value
    assert result.seat_returns[1] < result.seat_returns[0] < 0
    assert (result.illegal, result.opponent_illegal) == (0.0, 0.0)
    assert (result.policy, result.opponent, result.game) == ("random", "minimax", "tictactoe")


@pytest.mark.parametrize("player", [0, 1])
def test_illegal_moves_are_attributed_to_the_offender(player):
    random = scripted_policy("random", TICTACTOE)
    result = evaluate(Faulty(player), random, TICTACTOE, episodes=60, seed=0)
    # As that player every game is lost by an illegal move; as the other none is.
    assert (result.illegal, result.opponent_illegal) == (0.5, 0.0)
    assert result.seat_returns[player] == -1.5
    assert result.loss.value >= 0.5
    swapped = evaluate(random, Faulty(player), TICTACTOE, episodes=60, seed=0)
    assert (swapped.illegal, swapped.opponent_illegal) == (0.0, 0.5)
    assert swapped.seat_returns[1 - player] == 0.5


@pytest.mark.parametrize("episodes", [0, 1, 7, -2])
def test_an_odd_number_of_games_is_refused(episodes):
    random = scripted_policy("random", TICTACTOE)
    with pytest.raises(ValueError, match=f"got {episodes} episodes; expected an even number of at least 2"):
        evaluate(random, random, TICTACTOE, episodes, seed=0)


def won(player):
    return new_episode((1.0, -1.0) if player == 0 else (-1.0, 1.0), [new_turn(player)])


def forfeited(player):
    turns = [new_turn(player, action=None)]
    return new_episode((-1.5, 0.5) if player == 0 else (0.5, -1.5), turns, outcome="illegal_move")


def missing(player, fault):
    return new_episode((0.0, 0.0), [new_turn(player, action=None)], outcome="not_played", fault=fault)


def summary(*episodes):
    return summarise(episodes, TICTACTOE, "a", "b", 0)


def test_results_by_hand():
    # The policy has player 0 in even games and player 1 in odd ones.
    drawn = new_episode((0.0, 0.0), [new_turn(0)])
    result = summary(
        won(0), won(1), won(1), forfeited(0), forfeited(0), drawn, missing(0, "x"), won(0), won(0), missing(0, "y")
    )
    assert (result.episodes, result.played, result.not_played, result.faults) == (10, 8, 2, {"x": 1, "y": 1})
    assert (result.win.value, result.draw.value, result.loss.value) == (4 / 8, 1 / 8, 3 / 8)
    assert result.win == wilson(4, 8)
    assert (result.win_on_board, result.win_by_illegal, result.loss_on_board) == (
        wilson(3, 8),
        wilson(1, 8),
        wilson(2, 8),
    )
    assert (result.illegal, result.opponent_illegal) == (1 / 8, 1 / 8)
    # From player 0: a win, a loss, an illegal move and a win; from player 1: a win, their illegal move, a draw, a loss.
    assert result.seat_returns == ((1 - 1 - 1.5 + 1) / 4, (1 + 0.5 + 0 - 1) / 4)
    # Player 0 won 3 times by 2 and lost twice by 2, and twice forfeited by 2.
    assert result.seat_advantage == (3 * 2 - 2 * 2 - 2 * 2) / 8


def test_the_larger_return_wins_where_returns_do_not_sum_to_zero():
    equal, ahead, behind = (new_episode(pay, [new_turn(0)]) for pay in ((1.0, 1.0), (3.0, 1.0), (-3.0, -1.0)))
    result = summary(equal, equal, ahead, ahead, behind, behind, ahead, equal)
    # From player 0: a draw, a win, a loss and a win; from player 1: a draw, a loss, a win and a draw.
    assert (result.win, result.draw, result.loss) == (wilson(3, 8), wilson(3, 8), wilson(2, 8))
    assert result.win_on_board == wilson(3, 8)
    assert result.loss_on_board == wilson(2, 8)


def test_unplayed_games_change_no_rate():
    played = [won(0), won(1), forfeited(1), won(1)]
    alone = summary(*played)
    mixed = summary(*played, *[missing(player % 2, "x") for player in range(96)])
    for name in ("win", "draw", "loss", "not_lost", "win_on_board", "loss_on_board", "illegal", "seat_returns"):
        assert getattr(mixed, name) == getattr(alone, name)
    assert (alone.episodes, alone.played, alone.faults) == (4, 4, {})
    assert (mixed.episodes, mixed.played, mixed.not_played) == (100, 4, 96)


def test_a_player_without_a_game():
    result = summary(won(0), missing(0, "x"))
    assert result.seat_returns == (1.0, None)
    assert json.loads(json.dumps(result.to_json()))["seat_returns"] == [1.0, None]


def test_no_game_at_all():
    with pytest.raises(NotPlayedError, match=r"none of 4 games of tictactoe between a and b could be played: often$"):
        summary(missing(0, "seldom"), missing(1, "often"), missing(0, "often"), missing(0, "often"))


def test_the_most_frequent_faults_are_listed():
    games = [missing(0, f"reason {number}") for number in range(MAX_FAULTS + 3) for _ in range(20 - number)]
    faults = summary(won(0), *games).faults
    assert list(faults.values()) == [*range(20, 20 - MAX_FAULTS, -1), 12 + 11 + 10]
    assert next(iter(faults)) == "reason 0"
    assert list(faults)[-1] == OTHER_FAULTS
    assert sum(faults.values()) == len(games)


def test_the_first_to_move_has_an_advantage():
    random = scripted_policy("random", TICTACTOE)
    result = evaluate(random, random, TICTACTOE, episodes=400, seed=0)
    # Between random players the first wins 58.5%, the second 28.8%: 0.297 on average, twice that between the players.
    assert result.seat_advantage == pytest.approx(2 * 0.297, abs=0.25)
    assert result.win == result.win_on_board


def test_the_json_form_is_flat():
    random = scripted_policy("random", TICTACTOE)
    flat = json.loads(json.dumps(evaluate(random, random, TICTACTOE, 10, seed=0).to_json()))
    for rate in ("win", "draw", "loss", "not_lost", "win_on_board", "win_by_illegal", "loss_on_board"):
        assert flat[f"{rate}_low"] <= flat[rate] <= flat[f"{rate}_high"]
    assert (flat["episodes"], flat["seed"], len(flat["seat_returns"])) == (10, 0, 2)
    assert {"illegal", "opponent_illegal", "game", "policy", "opponent", "seat_advantage"} < set(flat)
    assert (flat["played"], flat["not_played"], flat["faults"]) == (10, 0, {})
