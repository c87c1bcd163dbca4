"""Rewards: the built-in ones, a user's own, and what happens when it fails."""

from __future__ import annotations

import dataclasses
import functools
import statistics

import numpy as np
import pytest

from made_up import new_episode, new_turn
from spiral.core.records import Generation
from spiral.evaluation.arena import evaluate
from spiral.games import TERMINAL, Game, State, load_game
from spiral.games.failures import UserCodeError
from spiral.games.registry import NATIVE_GAMES
from spiral.policies.scripted import RandomPolicy
from spiral.rollout.loop import Match, play
from spiral.rollout.rewards import (
    REWARDS,
    CheapIllegalMoveError,
    _call_reward,
    check_reward,
    coin,
    illegal_move_returns,
    largest_payoff,
    load_reward,
    with_reward,
)
from spiral.runs.checks import check_run
from spiral.runs.recipe import load_recipe

HERE = "tests.rollout.test_rewards"


def quick(episode, *, discount=0.5):
    return [value * discount ** len(episode.turns) for value in episode.returns]


def fails(episode):
    raise KeyError("my reward")


def too_few(episode):
    return [1.0]


def infinite(episode):
    return [float("inf"), 0.0]


def leaves(episode):
    raise SystemExit(3)


def test_the_built_in_rewards():
    """In Kuhn poker a hand pays up to 2 chips, and an illegal move costs 3."""
    kuhn = load_game("kuhn_poker")
    won, raised = new_episode((1.0, -1.0), game="kuhn_poker"), new_episode((-2.0, 2.0), game="kuhn_poker")
    illegal = [new_turn(1, action=None)]
    penalty = new_episode((1.0, -3.0), illegal, game="kuhn_poker", outcome="illegal_move")
    paid = {
        name: [with_reward(game, load_reward(name, kuhn)).rewards for game in (won, raised, penalty)]
        for name in ("normalised", "returns", "sign")
    }
    assert paid == {
        "normalised": [(0.5, -0.5), (-1.0, 1.0), (0.5, -1.5)],
        "returns": [(1.0, -1.0), (-2.0, 2.0), (1.0, -3.0)],
        "sign": [(1.0, -1.0), (-1.0, 1.0), (0.5, -1.5)],
    }
    assert with_reward(won, load_reward("normalised", kuhn)).returns == (1.0, -1.0)
    assert load_recipe("multi-qwen3-4b").selfplay.reward == "normalised"


def test_a_custom_reward_with_options():
    episode = new_episode((1.0, -1.0), [new_turn(0), new_turn(1, action="1")])
    game = load_game("tictactoe")
    assert with_reward(episode, load_reward(f"{HERE}:quick", game)).rewards == (0.25, -0.25)
    assert with_reward(episode, load_reward(f"{HERE}:quick", game, {"discount": 1.0})).rewards == (1.0, -1.0)


def careful(episode):
    """Tells how the last move was made; the game may be watched move by move."""
    state = load_game(episode.game).initial_state()
    for action in episode.actions:
        state = state.apply(action)
    assert state.is_terminal == (episode.outcome == "finished")
    assert (episode.turns[-1].action is None) == (episode.outcome == "illegal_move")
    return list(episode.returns)


def only_legality(episode):
    return [-1.0 if episode.outcome == "illegal_move" and episode.turns[-1].player == 0 else 0.0, 0.0]


def old_penalty(episode):
    """What was paid before returns were normalised: 1.5 for an illegal move, whatever the game."""
    illegal = episode.outcome == "illegal_move"
    return illegal_move_returns(2, episode.turns[-1].player) if illegal else episode.returns


def test_a_reward_that_makes_illegal_moves_worth_more_is_refused():
    leduc, player = load_game("leduc_poker"), RandomPolicy()

    def games(reward, count):
        reward = load_reward(f"{HERE}:{reward}", leduc)
        return play(Match(game=leduc, seed=n, policies=(player,) * 2, reward=reward) for n in range(count))

    for fine in ("careful", "only_legality"):
        assert len(games(fine, 40)) == 40
    with pytest.raises(
        CheapIllegalMoveError, match=r"pays player \d -\d+ for an episode of leduc.* and -1.5 had its last"
    ):
        games("old_penalty", 40)
    with pytest.raises(ValueError, match=r"selfplay.reward: the reward .*old_penalty' pays player \d -\d+ for an"):
        check_run(load_recipe("nano", ["selfplay.games=leduc_poker", f"selfplay.reward={HERE}:old_penalty"]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stakes(Game):
    """Player 0 says who wins the stake; the bounds of returns are not stated."""

    summary = "one move"
    rules = "made up"
    stake: float = 1.0

    def initial_state(self):
        return StakesState(stake=self.stake)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StakesState(State):
    stake: float
    winner: str = ""

    @property
    def current_player(self):
        return TERMINAL if self.winner else 0

    def legal_actions(self):
        return () if self.winner else ("me", "you")

    def apply(self, action):
        return dataclasses.replace(self, winner=action)

    def observation(self, player, style="full"):
        return "who wins?"

    def information_state(self, player):
        return self.winner

    def returns(self):
        sign = {"": 0, "me": 1, "you": -1}[self.winner]
        return (sign * self.stake, -sign * self.stake)


def test_a_game_without_bounds_is_taken_to_pay_one(caplog):
    def played(game, reward):
        policies = (RandomPolicy(), RandomPolicy())
        matches = [Match(game=game, seed=n, policies=policies, reward=load_reward(reward, game)) for n in range(3)]
        return play(matches)

    stakes = "tests.rollout.test_rewards:Stakes"
    small, large = f"{stakes}(stake=1.2)", f"{stakes}(stake=7.0)"
    assert largest_payoff(load_game(large)) == 1.0
    assert {episode.rewards for episode in played(load_game(small), "normalised")} <= {(1.2, -1.2), (-1.2, 1.2)}
    assert {episode.rewards for episode in played(load_game(small), "sign")} <= {(1.0, -1.0), (-1.0, 1.0)}
    for reward in REWARDS:
        with pytest.raises(UserCodeError, match=r"gave player \d the return -7, and an illegal move gives -1.5"):
            played(load_game(large), reward)
    check_run(load_recipe("nano", [f"selfplay.games={small}"]))
    assert "(min_return, max_return): its largest payoff is taken to be 1, and an illegal move costs 1.5" in caplog.text


def test_a_game_that_was_not_played_has_no_reward():
    episode = new_episode((0.0, 0.0), [new_turn(0)], outcome="not_played", fault="HTTP 500")
    assert with_reward(episode, load_reward(f"{HERE}:fails", load_game("tictactoe"))) == episode


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fails", r"failed for an episode of tictactoe \(seed 7\): KeyError: 'my reward' \(test_rewards.py"),
        ("leaves", r"failed for an episode of tictactoe \(seed 7\): SystemExit: 3"),
        ("too_few", r"gave \[1.0\] for an episode of tictactoe \(seed 7\); expected 2 finite numbers"),
        ("infinite", r"gave \[inf, 0.0\] for an episode of tictactoe \(seed 7\); expected 2 finite numbers"),
    ],
)
def test_failing_reward_error_names_reward_and_game(name, message):
    player, game = RandomPolicy(), load_game("tictactoe")
    reward = load_reward(f"{HERE}:{name}", game)
    match = Match(game=game, seed=7, policies=(player, player), reward=reward)
    with pytest.raises(UserCodeError, match=f"the reward '{HERE}:{name}' {message}"):
        play([match])


def test_recipes_name_rewards_and_refuse_what_is_wrong():
    own = load_recipe("nano", [f"selfplay.reward={HERE}:quick", "selfplay.reward_options={ discount = 0.9 }"])
    assert own.selfplay.reward_options == {"discount": 0.9}
    for reward, message in (("sum", "selfplay.reward: there is no 'sum' among the rewards"), ("no:thing", "no:thing")):
        with pytest.raises(ValueError, match=message):
            load_recipe("nano", [f"selfplay.reward={reward}"])
    with pytest.raises(ValueError, match="has no option 'gamma'; its options: discount"):
        load_recipe("nano", [f"selfplay.reward={HERE}:quick", "selfplay.reward_options={ gamma = 0.9 }"])


@pytest.mark.parametrize(
    "given",
    [{0: 1.0, 1: -1.0}, {1.0, -1.0}, "19", b"19", ("1", "9"), (1j, -1j), np.array([1j, -1j]), [None, 1.0], None],
    ids=repr,
)
def test_a_reward_is_a_list_of_numbers(given):
    reward = functools.partial(_call_reward, "mine", lambda _episode: given, {})
    with pytest.raises(UserCodeError, match=r"the reward 'mine' gave .* expected 2 finite numbers"):
        reward(new_episode((1.0, -1.0)))


def test_rewards_may_come_from_generators_and_arrays():
    def reward(given):
        return _call_reward("mine", lambda _episode: given, {}, new_episode((1.0, -1.0)))

    assert reward(value for value in (1.5, -1)) == reward(np.float64([1.5, -1.0])) == (1.5, -1.0)
    assert reward({0: 1.5, 1: -1}.values()) == (1.5, -1.0)
    with pytest.raises(UserCodeError, match=r"the reward 'mine' failed .*: ZeroDivisionError"):
        reward(1 / value for value in (1, 0))


def without_arguments():
    return [1.0, -1.0]


def by_keyword(*, episode=None):
    return [1.0, -1.0]


@pytest.mark.parametrize("name", ["without_arguments", "by_keyword"])
def test_a_reward_that_does_not_take_an_episode_is_refused(name):
    with pytest.raises(ValueError, match=f"'{HERE}:{name}' is called as {name}\\(episode, .*options\\), but takes "):
        check_reward(f"{HERE}:{name}", {})


@pytest.mark.parametrize(
    ("players", "offender", "paid"),
    [(1, 0, (-1.5,)), (2, 0, (-1.5, 0.5)), (2, 1, (0.5, -1.5)), (3, 1, (0.25, -1.5, 0.25))],
)
def test_what_an_illegal_move_pays(players, offender, paid):
    assert illegal_move_returns(players, offender) == paid


def test_an_illegal_move_costs_more_than_the_largest_loss_in_the_games_units():
    assert illegal_move_returns(2, 0, 13.0) == (-19.5, 6.5)
    assert largest_payoff(load_game("leduc_poker")) == 13.0
    assert [largest_payoff(load_game(name)) for name in ("kuhn_poker", "kuhn_poker(hands=5)", "tictactoe")] == [2, 1, 1]


class Answers(RandomPolicy):
    """Raises when it can, and answers the other's raise with `answer`; None is an illegal reply."""

    def __init__(self, answer):
        super().__init__()
        self.name = str(answer)
        self.answer = answer

    def choose(self, state, player, rng):
        legal = state.legal_actions()
        return self.answer if "fold" in legal else "raise" if "raise" in legal else legal[0]

    def _reply(self, request):
        if self.answer is None and "fold" in request.state.legal_actions():
            return dataclasses.replace(RandomPolicy()._reply(request), reply="", action=None)
        return super()._reply(request)


class Raises(RandomPolicy):
    def choose(self, state, player, rng):
        return next(action for action in ("raise", "call", "check") if action in state.legal_actions())


@pytest.mark.parametrize("reward", list(REWARDS))
def test_an_illegal_answer_to_a_raise_in_leduc_loses_against_folding(reward):
    """Folding can cost 9; an illegal move cost 1.5 once, so that it was the cheap way out."""
    leduc = load_game("leduc_poker")
    paid = {}
    for answer in ("fold", None):
        policy, pay = Answers(answer), load_reward(reward, leduc)
        matches = [Match(game=leduc, seed=n, policies=(policy, Raises()), reward=pay) for n in range(60)]
        paid[answer] = statistics.fmean(episode.rewards[0] for episode in play(matches))
    assert paid[None] < paid["fold"]
    assert paid["fold"] < 0 or reward in ("coin", "legality", "format")
    evaluated = {answer: evaluate(Answers(answer), Raises(), leduc, 60, 0) for answer in ("fold", None)}
    for seat in (0, 1):
        assert evaluated[None].seat_returns[seat] < evaluated["fold"].seat_returns[seat]


def reply_of(player, text, action):
    generation = Generation(
        token_ids=np.array([1, 2]), logprobs=np.zeros(2, np.float32), stop_reason="stop", policy_version=0
    )
    return dataclasses.replace(new_turn(player, action=action), reply=text, generation=generation)


def test_legality_and_format_pay_for_what_they_are_called_after():
    """An illegal move in a box costs nothing under "format", and a bare legal-looking reply does."""
    turns = [reply_of(0, "\\boxed{4}", "4"), reply_of(1, "\\boxed{99}", None)]
    bare = [reply_of(0, "\\boxed{4}", "4"), reply_of(1, "4", None)]
    game = load_game("tictactoe")
    boxed, unboxed = (
        new_episode((0.5, -1.5), given, game="tictactoe", outcome="illegal_move") for given in (turns, bare)
    )
    finished = new_episode((-1.0, 1.0), turns[:1], game="tictactoe")
    paid = {
        name: [with_reward(episode, load_reward(name, game)).rewards for episode in (finished, boxed, unboxed)]
        for name in ("legality", "format")
    }
    assert paid == {
        "legality": [(1.0, 1.0), (1.0, -1.5), (1.0, -1.5)],
        "format": [(1.0, 1.0), (1.0, 1.0), (1.0, -1.5)],
    }


def test_the_coin_knows_the_seed_and_nothing_of_the_game():
    """The coin is fair and zero-sum, differs between attempts, and does not depend on the winner."""
    game = load_game("tictactoe")
    won = [dataclasses.replace(new_episode((1.0, -1.0), game="tictactoe"), seed=n) for n in range(2000)]
    paid = [with_reward(episode, coin).rewards for episode in won]
    assert set(paid) == {(1.0, -1.0), (-1.0, 1.0)}
    assert abs(statistics.fmean(value for value, _ in paid)) < 0.06
    lost = [dataclasses.replace(episode, returns=(-1.0, 1.0), rewards=()) for episode in won]
    assert [with_reward(episode, coin).rewards for episode in lost] == paid
    again = [dataclasses.replace(episode, attempt=1) for episode in won]
    same = sum(with_reward(episode, coin).rewards == before for episode, before in zip(again, paid, strict=True))
    assert 900 < same < 1100
    illegal = new_episode((0.5, -1.5), [new_turn(1, action=None)], game=game.spec, outcome="illegal_move")
    assert with_reward(illegal, coin).rewards == (0.5, -1.5)


def of_three(seed):
    episode = new_episode((0.0, 0.0, 0.0), seed=seed)
    return dataclasses.replace(episode, seats=(*episode.seats, episode.seats[0]))


def test_coins_of_more_players_and_of_partners():
    three = [coin(of_three(n)) for n in range(300)]
    assert {sum(paid) for paid in three} == {0.0}
    assert {max(map(abs, paid)) for paid in three} == {1.0}
    assert {sorted(paid)[1] for paid in three} == {0.5, -0.5}
    partners = [coin(new_episode((0.0, 0.0), seed=n), zero_sum=False) for n in range(300)]
    assert {*partners} == {(1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0)}


def test_a_partner_gains_nothing_from_an_illegal_move():
    assert illegal_move_returns(3, 1, zero_sum=False) == (0.0, -1.5, 0.0)
    game, players = load_game("lewis_signalling"), (RandomPolicy(), Careless())
    matches = [Match(game=game, seed=n, policies=players) for n in range(9)]
    broken = [episode for episode in play(matches) if episode.outcome == "illegal_move"]
    assert {episode.returns for episode in broken} == {(0.0, -1.5)}


class Careless(RandomPolicy):
    """Plays at random and makes an illegal move at its third turn, or at every turn."""

    name = "careless"

    def _reply(self, request):
        reply = super()._reply(request)
        return dataclasses.replace(reply, reply="", action=None) if request.seed % 3 == 0 else reply


OPENSPIEL = [
    *("backgammon", "breakthrough", "clobber", "connect_four", "dots_and_boxes", "einstein_wurfelt_nicht", "go_fish"),
    *("gomoku", "hex", "kuhn_poker", "leduc_poker", "liars_dice", "mancala", "nim", "othello", "oware", "pentago"),
    *("phantom_ttt", "pig", "tic_tac_toe", "universal_poker", "y"),
]


@pytest.mark.parametrize("spec", [*NATIVE_GAMES, "kuhn_poker(hands=5)", *(f"openspiel/{name}" for name in OPENSPIEL)])
def test_no_legal_outcome_is_worse_than_an_illegal_move(spec):
    """Neither in training, whatever the built-in reward, nor in evaluation."""
    if spec.startswith("openspiel/"):
        pytest.importorskip("pyspiel")
    game = load_game(spec)
    players = game.num_players
    random_play = Match(game=game, seed=0, policies=(RandomPolicy(),) * players)
    legal = play(dataclasses.replace(random_play, seed=n) for n in range(4))
    broken = play(dataclasses.replace(random_play, seed=n, policies=(Careless(),) * players) for n in range(4))
    illegal = [episode for episode in broken if episode.outcome == "illegal_move"]
    assert illegal
    for name in REWARDS:
        reward = load_reward(name, game)
        lowest = min(value for episode in legal for value in with_reward(episode, reward).rewards)
        for episode in illegal:
            paid = with_reward(episode, reward).rewards[episode.turns[-1].player]
            assert paid < lowest
            assert paid < (-1 if name != "returns" else game.min_return)
            assert paid == (-1.5 if name != "returns" else episode.returns[episode.turns[-1].player])
        if name != "returns":
            assert lowest >= -1
