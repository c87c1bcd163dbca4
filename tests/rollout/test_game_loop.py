"""The game loop: what happens in a game depends on its seed and its players, and on nothing around it."""

import dataclasses
import random
from collections import Counter

import numpy as np
import pytest

from flip import Flip
from made_up import new_episode, new_estimator, new_turn
from spiral.cli.play import play_game
from spiral.core.metrics import episode_metrics
from spiral.core.transcript import game_text, result_line
from spiral.games import load_game
from spiral.inference.transformers import TransformersPolicy
from spiral.policies import SamplingConfig, ScriptedPolicy, TurnReply, scripted_policy
from spiral.rollout.loop import Match, play, play_as_completed
from spiral.rollout.rewards import illegal_move_returns, largest_payoff, returns, sign
from spiral.text import ChatCodec, PromptConfig
from spiral.training.advantages import ESTIMATORS
from spiral.training.batch import samples_from_episodes
from turns import GAMES

KUHN = load_game("kuhn_poker")
TICTACTOE = load_game("tictactoe")
ALL_GAMES = [load_game(spec) for spec in GAMES]


def random_matches(count, **fields):
    player = scripted_policy("random", TICTACTOE)
    return [
        Match(game=ALL_GAMES[seed % len(ALL_GAMES)], seed=seed, policies=(player, player), **fields)
        for seed in range(count)
    ]


def facts(episode):
    """Everything in an episode that can be compared with ==."""
    tokens = [(t.generation.token_ids.tolist(), t.generation.stop_reason) for t in episode.turns if t.generation]
    turns = [(turn.player, turn.observation, turn.reply, turn.action) for turn in episode.turns]
    return (
        episode.game,
        episode.seed,
        episode.seats,
        turns,
        tokens,
        episode.actions,
        episode.returns,
        episode.outcome,
    )


class Replies(ScriptedPolicy):
    """Gives fixed replies, game after game; None is an illegal reply."""

    name = "fixed"

    def __init__(self, *actions):
        super().__init__()
        self.actions = list(actions)

    def choose(self, state, player, rng):
        return self.actions.pop(0)


class Remembers(ScriptedPolicy):
    """Plays at random and remembers with which history it was asked."""

    name = "remembers"

    def __init__(self):
        super().__init__()
        self.asked = []

    def submit(self, requests):
        self.asked += [(request.player, request.history) for request in requests]
        super().submit(requests)

    def choose(self, state, player, rng):
        return rng.choice(state.legal_actions())


@pytest.mark.parametrize("spec", ["multi_kuhn(players=3)", "kuhn_poker(hands=4)", "tictactoe"])
def test_a_request_has_the_earlier_turns_of_its_player(spec):
    """Also of one that moves second, and where others move twice in between."""
    game, policy = load_game(spec), Remembers()
    policies = (policy,) * game.num_players
    most = 0
    for episode in play([Match(game=game, seed=seed, policies=policies, opening_plies=1) for seed in range(9)], 1):
        made = [dataclasses.replace(turn, reward=0.0) for turn in episode.turns]
        asked, policy.asked = policy.asked[: len(made)], policy.asked[len(made) :]
        assert [player for player, _ in asked] == [turn.player for turn in made]
        for index, (player, history) in enumerate(asked):
            assert list(history) == [turn for turn in made[:index] if turn.player == player]
            most = max(most, len(history))
    assert policy.asked == []
    assert most >= 1


class Slow:
    """Hands out one reply at a time, the last asked first; remembers how many turns were waiting."""

    name = "slow"

    def __init__(self, order="last"):
        self.order = order
        self.pending = []
        self.most = 0
        self.rng = random.Random(0)

    def submit(self, requests):
        self.pending.extend(requests)
        self.most = max(self.most, len(self.pending))

    def poll(self):
        if not self.pending:
            return []
        index = {"last": -1, "first": 0, "any": self.rng.randrange(len(self.pending))}[self.order]
        request = self.pending.pop(index)
        action = random.Random(request.seed).choice(request.state.legal_actions())
        observation = request.state.observation(request.player)
        return [TurnReply(key=request.key, observation=observation, reply=action, action=action)]


def test_scripted_episodes_do_not_depend_on_the_games_in_flight():
    expected = [facts(episode) for episode in play(random_matches(90), in_flight=1)]
    for in_flight in (16, 256):
        assert [facts(episode) for episode in play(random_matches(90), in_flight)] == expected
    assert {episode[-1] for episode in expected} == {"finished"}
    # Nor on the order of the games.
    assert [facts(episode) for episode in play(random_matches(90)[::-1])] == expected[::-1]


@pytest.mark.usefixtures("one_thread")
def test_model_episodes_do_not_depend_on_the_games_in_flight(random_model, nano):
    for model, games, budget in ((nano.model, ALL_GAMES, 24), (random_model, ALL_GAMES[:2], 12)):
        codec = ChatCodec(nano.tokenizer, PromptConfig(observation="compact", thinking=False))

        def episodes(in_flight, model=model, games=games, budget=budget, codec=codec):
            policy = TransformersPolicy(model, codec, SamplingConfig(max_new_tokens=budget))
            matches = [
                Match(game=games[seed % len(games)], seed=seed, policies=(policy, policy), trainable=(True, True))
                for seed in range(18)
            ]
            return [facts(episode) for episode in play(matches, in_flight)]

        assert episodes(1) == episodes(16) == episodes(256)


@pytest.mark.parametrize("order", ["last", "first", "any"])
def test_replies_in_any_order_and_one_at_a_time(order):
    slow = Slow(order)
    matches = [Match(game=match.game, seed=match.seed, policies=(slow, slow)) for match in random_matches(40)]
    expected = [facts(episode)[3:] for episode in play(random_matches(40), in_flight=1)]
    finished = list(play_as_completed(iter(matches), in_flight=10))
    assert slow.most == 10
    assert sorted(index for index, _ in finished) == list(range(40))
    assert [index for index, _ in finished] != list(range(40))
    assert [facts(episode)[3:] for _, episode in sorted(finished, key=lambda item: item[0])] == expected


def test_no_game_waits_for_another():
    # The slow player gives one answer a poll, and before each of them every game's question is before it.
    slow, quick = Slow("first"), scripted_policy("random", TICTACTOE)
    matches = [Match(game=TICTACTOE, seed=seed, policies=(slow, quick)) for seed in range(50)]
    waiting = []
    poll = slow.poll

    def counting():
        waiting.append(len(slow.pending))
        return poll()

    slow.poll = counting
    assert len(play(matches, in_flight=50)) == 50
    # No game of tic-tac-toe ends before the third move of the first player.
    assert waiting[:101] == [50] * 101


def test_episodes_come_in_the_order_of_the_matches():
    episodes = play(random_matches(30), in_flight=7)
    assert [episode.seed for episode in episodes] == list(range(30))
    assert [episode.game for episode in episodes] == [ALL_GAMES[seed % len(ALL_GAMES)].spec for seed in range(30)]
    assert play([]) == []


def test_matches_are_drawn_only_when_there_is_room():
    drawn = []

    def matches():
        for match in random_matches(20):
            drawn.append(match.seed)
            yield match

    running = play_as_completed(matches(), in_flight=4)
    assert drawn == []
    next(running)
    assert len(drawn) == 4
    assert len(list(running)) == 19


@pytest.mark.parametrize("player", [0, 1])
def test_an_illegal_move_ends_the_game_and_costs_the_same_everywhere(player):
    class Illegal(ScriptedPolicy):
        name = "illegal"

        def choose(self, state, player, rng):
            return "?"

        def _reply(self, request):
            return TurnReply(key=request.key, observation="", reply="?", action=None)

    legal = scripted_policy("random", TICTACTOE)
    for game in ALL_GAMES:
        for reward in (returns, sign):
            policies = (Illegal(), legal) if player == 0 else (legal, Illegal())
            match = Match(game=game, seed=1, policies=policies, trainable=(False, True), reward=reward)
            episode = play([match])[0]
            if episode.outcome == "finished":
                # Only a single hand of poker can end before the second player has acted.
                assert (game.name, player, len(episode.turns)) == ("kuhn_poker", 1, 1)
                continue
            assert episode.outcome == "illegal_move"
            payoff = largest_payoff(game)
            assert episode.returns == illegal_move_returns(2, player, payoff)
            assert episode.returns[player] == -1.5 * payoff < game.min_return
            assert episode.rewards == illegal_move_returns(2, player, 1.0 if reward is sign else payoff)
            assert episode.turns[-1].player == player
            assert episode.turns[-1].action is None
            assert [turn.action is None for turn in episode.turns].count(True) == 1
            assert [named.policy for named in episode.seats] == [policy.name for policy in policies]
            assert [named.trainable for named in episode.seats] == [False, True]


class Faulty(ScriptedPolicy):
    """Gives its first replies as specified, and then none."""

    name = "faulty"

    def __init__(self, *actions, fault="the line is dead"):
        super().__init__()
        self.actions, self.fault = list(actions), fault

    def choose(self, state, player, rng):
        return self.actions.pop(0)

    def _reply(self, request):
        if self.actions:
            return super()._reply(request)
        return TurnReply(key=request.key, observation="seen", reply="", action=None, fault=self.fault)


@pytest.mark.parametrize("reward", [returns, sign])
def test_a_missing_reply_ends_the_game_without_a_result(reward):
    # Player 0 is about to win when the other's reply fails to come.
    policies = (Replies("0", "1", "2"), Faulty("3"))
    episode = play([Match(game=TICTACTOE, seed=0, policies=policies, trainable=(True, True), reward=reward)])[0]
    assert (episode.outcome, episode.fault, episode.returns) == ("not_played", "the line is dead", (0.0, 0.0))
    assert episode.actions == ("0", "3", "1")
    assert [(turn.player, turn.action) for turn in episode.turns] == [(0, "0"), (1, "3"), (0, "1"), (1, None)]
    assert (episode.turns[-1].observation, episode.turns[-1].reply) == ("seen", "")
    assert (
        result_line(episode, ("a", "b")) == "Result: none, the game could not be played to its end (the line is dead)."
    )
    assert "forfeits" not in game_text(episode)
    messages, typed = [], iter(["0", "1", "2"])
    again = play_game(TICTACTOE, Faulty("3"), 0, 0, lambda prompt: next(typed), messages.append)
    assert (again.outcome, again.actions) == ("not_played", episode.actions)
    assert messages[-1] == result_line(episode, ("you", "faulty"))
    assert "forfeits" not in "".join(messages)
    # Also at the turn limit, and where no reason is given.
    policies = (Replies("0", "1"), Faulty("3", fault=""))
    episode = play([Match(game=TICTACTOE, seed=0, policies=policies, max_turns=4)])[0]
    assert (episode.outcome, episode.fault) == ("not_played", "no reason given")


def test_nothing_is_learned_from_a_game_that_was_not_played():
    player = Faulty("0", "1", "2")
    generation = new_turn(0).generation
    episode = play([Match(game=TICTACTOE, seed=0, policies=(player, player), trainable=(True, True))])[0]
    prompt = new_turn(0).prompt_ids
    turns = [dataclasses.replace(turn, generation=generation, prompt_ids=prompt) for turn in episode.turns]
    missing = dataclasses.replace(episode, turns=tuple(turns))
    missing_too = dataclasses.replace(missing, attempt=1)
    real = new_episode((1.0, -1.0), [new_turn(0), new_turn(1)])
    real_too = dataclasses.replace(new_episode((0.0, 0.0), real.turns), attempt=1)
    zero = [0.0] * len(turns)
    for name in ESTIMATORS:
        alone, mixed = new_estimator(name), new_estimator(name)
        expected = [list(values) for values in alone([real, real_too])]
        assert [list(values) for values in mixed([missing, real, missing_too, real_too])] == [
            zero,
            expected[0],
            zero,
            expected[1],
        ]
        assert expected[0] != [0.0, 0.0]
        assert mixed.state_dict() == alone.state_dict()
        assert [list(values) for values in new_estimator(name)([missing, missing_too])] == [zero, zero]
    advantages = [np.full(len(turns), 0.5), np.array([1.0, -1.0]), np.array(zero)]
    samples, dropped = samples_from_episodes([missing, real, missing], advantages, drop_zero_advantage=True)
    assert ([float(sample.advantages[0]) for sample in samples], dropped) == ([1.0, -1.0], 0)
    assert episode_metrics([missing, real, missing], {}) == {**episode_metrics([real], {}), "rollout/not_played": 2.0}


def test_truncation_is_a_draw():
    player = Replies("0", "1", "3", "2", "6")
    episode = play([Match(game=TICTACTOE, seed=0, policies=(player, player), max_turns=4)])[0]
    assert (episode.outcome, episode.returns) == ("truncated", (0.0, 0.0))
    assert episode.actions == ("0", "1", "3", "2")
    # One more turn would have been a win, and a game that ends on its last turn is no draw.
    player = Replies("0", "1", "3", "2", "6")
    episode = play([Match(game=TICTACTOE, seed=0, policies=(player, player), max_turns=5)])[0]
    assert (episode.outcome, episode.returns) == ("finished", (1.0, -1.0))


def test_the_sign_of_the_returns():
    bold = [Match(game=KUHN, seed=seed, policies=(Replies("bet"), Replies("call")), reward=sign) for seed in range(20)]
    chips = [Match(game=KUHN, seed=seed, policies=(Replies("bet"), Replies("call"))) for seed in range(20)]
    episodes, won = play(bold), [e.returns for e in play(chips)]
    paid = [e.rewards for e in episodes]
    assert won == [e.returns for e in episodes]
    assert set(won) == {(2.0, -2.0), (-2.0, 2.0)}
    assert paid == [(first / 2, second / 2) for first, second in won]
    drawn = Replies("0", "1", "2", "4", "3", "5", "7", "6", "8")
    episode = play([Match(game=TICTACTOE, seed=0, policies=(drawn, drawn), reward=sign)])[0]
    assert (episode.outcome, episode.returns) == ("finished", (0.0, 0.0))


def test_actions_replay_to_the_final_state():
    for episode in play(random_matches(60, opening_plies=3)):
        state, turns = load_game(episode.game).initial_state(), list(episode.turns)
        played = []
        for action in episode.actions:
            if not state.is_chance:
                played.append((state.current_player, state.observation(state.current_player), action))
            state = state.apply(action)
        assert state.is_terminal
        assert state.returns() == episode.returns
        # The turns are the last of the decisions; the rest was the opening.
        assert [(turn.player, turn.observation, turn.action) for turn in turns] == played[len(played) - len(turns) :]


def test_chance_is_fixed_by_the_seed_alone():
    def deals(policy, seeds):
        return [e.actions[:2] for e in play([Match(game=KUHN, seed=s, policies=(policy, policy)) for s in seeds])]

    seeds = range(1200)
    first = deals(scripted_policy("random", KUHN), seeds)
    assert first == deals(scripted_policy("equilibrium", KUHN), seeds)
    counts = Counter(first)
    assert len(counts) == 6
    # 200 expected of each deal; the standard deviation is 13.
    assert all(150 < count < 250 for count in counts.values())


@pytest.mark.parametrize("game", ALL_GAMES, ids=lambda game: game.spec)
def test_openings_come_in_half_of_the_games_and_never_end_one(game):
    player = scripted_policy("random", game)
    matches = [Match(game=game, seed=seed, policies=(player, player), opening_plies=4) for seed in range(150)]
    openings = []
    for episode in play(matches):
        assert len(episode.turns) >= 1
        state = game.initial_state()
        decisions = 0
        for action in episode.actions:
            decisions += not state.is_chance
            state = state.apply(action)
        openings.append(decisions - len(episode.turns))
    assert min(openings) >= 0
    assert max(openings) <= 4
    without = openings.count(0)
    # In a single hand of Kuhn poker an opening may be cut to nothing, since it would end the game.
    assert 55 <= without <= 95
    assert len(set(openings)) >= 3
    again = play(matches)
    assert [facts(episode) for episode in again] == [facts(episode) for episode in play(matches, in_flight=3)]


def test_without_opening_plies_every_decision_is_a_turn():
    for episode in play(random_matches(30)):
        state, decisions = load_game(episode.game).initial_state(), 0
        for action in episode.actions:
            decisions += not state.is_chance
            state = state.apply(action)
        assert decisions == len(episode.turns)


def test_an_opening_does_not_end_a_game_by_chance_either():
    player = scripted_policy("random", TICTACTOE)
    matches = [Match(game=Flip(), seed=seed, policies=(player, player), opening_plies=2) for seed in range(20)]
    for episode in play(matches):
        assert len(episode.turns) == 1
        assert len(episode.actions) == 2
        assert episode.outcome == "finished"


class Idle:
    """Takes turns and never answers."""

    name = "idle"

    def submit(self, requests):
        self.taken = len(requests)

    def poll(self):
        return []

    def cancel(self):
        self.taken = 0


def test_a_policy_that_never_answers_is_an_error_and_not_a_wait():
    policy = Idle()
    with pytest.raises(RuntimeError, match=r"1 games wait for a reply, but no policy .idle. has one pending"):
        play([Match(game=load_game("tictactoe"), seed=0, policies=(policy, policy))])
    assert policy.taken == 0


@pytest.mark.parametrize("thinking", [False, True])
def test_games_given_up_leave_nothing_behind(nano, thinking):
    prompt = PromptConfig(observation="compact", thinking=thinking)
    policy = TransformersPolicy(nano.model, ChatCodec(nano.tokenizer, prompt), SamplingConfig(max_new_tokens=64))
    matches = [Match(game=load_game("tictactoe"), seed=seed, policies=(policy, policy)) for seed in range(20)]
    whole = [episode.actions for episode in play(matches)]
    given_up = play_as_completed(matches)
    next(given_up)
    given_up.close()
    assert policy.poll() == []
    assert [episode.actions for episode in play(matches)] == whole
