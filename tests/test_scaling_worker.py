"""A rollout worker in simulated time: cases by hand, and the game loop of the product in virtual time beside it."""

import dataclasses
import heapq
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.scaling_inputs import Workload
from benchmarks.scaling_model import Engine
from benchmarks.scaling_play import draw_games, play
from benchmarks.scaling_worker import Chunk, Worker
from spiral.distributed.rollout_thread import FreshPolicy
from spiral.games import load_game
from spiral.policies import TurnReply
from spiral.rollout.loop import Match, play_as_completed

UNEVEN = Workload(games=24, turns=(2, 3, 4), prompt=100.0, reply=100.0, budget=800, tail=1.0)
SLOW = Engine(
    pass_seconds=1.0, weights_seconds=4.0, row_seconds=0.5, cache_seconds=0.001, prompt_seconds=2.0, rows=16
)  # fmt: skip
FIVE = Engine(pass_seconds=5.0, weights_seconds=0.0, row_seconds=0.0, cache_seconds=0.0, prompt_seconds=0.0, rows=2)
"""Five seconds a pass, two games at once."""


def worker(engine, way="joined", load=0.0, prompt=0.0):
    """A worker, and when it answered which chunk."""
    answers = {}
    made = Worker(engine, prompt, way=way, load=load, answer=lambda _, chunk, now: answers.update({chunk.number: now}))
    return made, answers


def chunk(number, *games, version=None):
    """A chunk of these games."""
    return Chunk(0, number, list(enumerate(games)), version)


def run(played):
    """Until nothing happens any more."""
    while played.next < math.inf:
        played.turn()


@given(times=st.lists(st.floats(0.0, 3000.0), max_size=5), rows=st.integers(1, 16), chunks=st.integers(1, 8))
@settings(max_examples=30, deadline=None)
def test_a_worker_takes_as_long_as_games_given_at_once_however_they_are_cut_and_looked_at(times, rows, chunks):
    engine = dataclasses.replace(SLOW, rows=rows)
    games = draw_games(UNEVEN, 0, 1)
    played, answers = worker(engine, "in reply", prompt=100.0)
    for number, first in enumerate(range(0, 24, -(-24 // chunks))):
        played.give(chunk(number, *games[first : first + -(-24 // chunks)]), 0.0)
    for time in sorted(times):
        while played.next <= time:
            played.turn()
        played.notify(1, time)  # takes no time, but has the worker worked out for this moment
    run(played)
    assert max(answers.values()) == pytest.approx(play(engine, 100.0, games), rel=1e-9)


def test_games_join_those_under_way():
    for way, first, second in (("joined", 50.0, 35.0), ("chunks", 50.0, 65.0)):
        played, answers = worker(FIVE, way)
        played.give(chunk(0, (10.0,), (4.0,)), 0.0)
        played.give(chunk(1, (3.0,)), 0.0)
        run(played)
        assert answers == pytest.approx({0: first, 1: second})


def test_a_chunk_with_other_weights_waits_for_all_games_to_end():
    played, answers = worker(FIVE, load=7.0)
    played.give(chunk(0, (10.0,), (4.0,), version=3), 0.0)
    played.give(chunk(1, (3.0,), version=4), 0.0)
    played.give(chunk(2, (6.0,), version=4), 0.0)
    run(played)
    assert answers == pytest.approx({0: 57.0, 1: 57.0 + 7.0 + 15.0, 2: 57.0 + 7.0 + 30.0})
    assert played.busy == [(0.0, pytest.approx(94.0))]
    assert played.row_seconds == pytest.approx(5 * (10 + 4 + 3 + 6))


def test_a_game_joins_in_the_middle_of_a_pass():
    played, answers = worker(FIVE)
    played.give(chunk(0, (10.0,)), 0.0)
    played.give(chunk(1, (3.0,)), 12.5)
    run(played)
    assert answers == pytest.approx({0: 50.0, 1: 27.5})


def test_newer_weights_wait_for_the_turns_under_way():
    played, answers = worker(FIVE, load=7.0)
    first, second = chunk(0, (10.0, 10.0), (4.0, 10.0)), chunk(1, (2.0,))
    played.give(first, 0.0)
    played.give(second, 0.0)
    played.notify(1, 12.0)
    run(played)
    # After 7 s for the first weights, the turns of 4 and 10 end at 27 and 57, the newer weights are there at 64, and
    # both second turns end 50 s later.
    assert answers == pytest.approx({0: 114.0, 1: 124.0})
    assert [table.versions for table in (*first.tables, *second.tables)] == [[0, 1], [0, 1], [1]]


def test_a_game_that_joins_while_weights_are_waited_for_begins_with_them():
    played, answers = worker(FIVE, load=7.0)
    first, second = chunk(0, (10.0,)), chunk(1, (2.0,))
    played.give(first, 0.0)
    played.notify(1, 12.0)
    played.give(second, 20.0)
    run(played)
    assert answers == pytest.approx({0: 57.0, 1: 57.0 + 7.0 + 10.0})
    assert (first.tables[0].versions, second.tables[0].versions) == ([0], [1])


def test_weights_may_change_within_a_reply():
    played, answers = worker(FIVE, "in reply", load=7.0)
    games = chunk(0, (10.0, 1.0))
    played.give(games, 0.0)
    played.notify(1, 12.0)
    run(played)
    assert answers == pytest.approx({0: 7.0 + 50.0 + 7.0 + 5.0})
    assert games.tables[0].versions == [0, 1]


class VirtualEngine:
    """A policy that takes virtual time for its replies, notified of weights at certain times; every move is legal."""

    name = "virtual"

    def __init__(self, engine, games, load, notices):
        self.engine, self.games, self.load, self.notices = engine, games, load, notices
        self.now, self.clock = load, 0.0
        self.version = self.announced = 0
        self.rows, self.versions, self.count = [], [[] for _ in games], 0
        self.fresh = FreshPolicy(self, is_stale=lambda: self.announced > self.version, refresh=self.refresh)

    def refresh(self):
        assert not self.rows
        self.version = self.announced
        self.now += self.load

    def submit(self, requests):
        for request in requests:
            length = self.games[request.key][len(self.versions[request.key])]
            self.versions[request.key].append(self.version)
            self.count += 1
            heapq.heappush(self.rows, (self.clock + length, self.count, request))
            self.now += self.engine.prompt_seconds

    def poll(self):
        if not self.rows:
            return []
        count = len(self.rows)
        end, _, request = heapq.heappop(self.rows)
        self.now += (end - self.clock) * self.engine.pass_base(count)
        self.clock = end
        self.announced = max([self.announced, *(version for time, version in self.notices if time < self.now)])
        action = request.state.legal_actions()[0]
        return [TurnReply(key=request.key, observation="", reply=action, action=action)]

    def cancel(self):
        raise AssertionError("no turn is given up")


@given(
    seed=st.integers(0, 1000),
    rows=st.integers(1, 10),
    chunks=st.integers(1, 6),
    load=st.sampled_from([0.0, 40.0]),
    times=st.lists(st.floats(1.0, 3000.0), max_size=5),
)
@settings(max_examples=40, deadline=None)
def test_simulated_games_end_when_those_of_the_game_loop_do(seed, rows, chunks, load, times):
    """`spiral.rollout.loop` and `FreshPolicy`, with an engine in virtual time: the same ends, the same versions."""
    engine = dataclasses.replace(SLOW, rows=rows, cache_seconds=0.0)
    games = draw_games(UNEVEN, seed, 1)
    notices = [(time, version) for version, time in enumerate(sorted(times), start=1)]
    policy = VirtualEngine(engine, games, load, notices)
    kuhn = load_game("kuhn_poker(hands=50)")
    matches = [Match(game=kuhn, seed=0, policies=(policy.fresh,) * 2, max_turns=len(game)) for game in games]
    ends = {index: policy.now for index, _ in play_as_completed(matches, rows)}

    played, answers = worker(engine, load=load)
    size = -(-len(games) // chunks)
    cut = [chunk(number, *games[first : first + size]) for number, first in enumerate(range(0, len(games), size))]
    for each in cut:
        played.give(each, 0.0)
    for time, version in notices:
        while played.next <= time:
            played.turn()
        played.notify(version, time)
    run(played)
    expected = {
        number: max(ends[number * size + index] for index in range(len(each.tables))) for number, each in enumerate(cut)
    }
    assert answers == pytest.approx(expected)
    assert [table.versions for each in cut for table in each.tables] == policy.versions
