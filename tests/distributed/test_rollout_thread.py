"""Games that join those under way, and weights that are renewed between turns; no Ray is needed."""

import threading

import pytest

from distributed_policies import coin
from distributed_session import GAMES, facts
from spiral.distributed.rollout_thread import FreshPolicy, RolloutThread
from spiral.distributed.weights.base import WeightsHandle
from spiral.rollout.loop import play
from spiral.rollout.matchmaking import Matchmaker

ALL = range(14)


def handle(version):
    return WeightsHandle(version=version)


class Table:
    """A player with a coin that answers one turn at a time, and waits before the first until it is let go."""

    def __init__(self, hold=False):
        self.policy = coin()
        self.taken, self.pending_when_taken, self.pending = [], [], []
        self.before_poll = {}
        self.polls = 0
        self.go, self.polling = threading.Event(), threading.Event()
        if not hold:
            self.go.set()
        self.thread = RolloutThread(self.take)
        self.policy.poll = self.poll
        fresh = FreshPolicy(self.policy, is_stale=self.thread.is_stale, refresh=self.thread.refresh)
        self.matchmaker = Matchmaker(fresh, GAMES, 3)

    def take(self, weights):
        if weights.version != self.policy.version or not self.taken:
            self.pending_when_taken.append(len(self.policy.pending))
            self.taken.append(weights.version)
            self.policy.weight, self.policy.version = float(weights.version), weights.version

    def poll(self):
        self.polling.set()
        assert self.go.wait(30)
        self.polls += 1
        self.before_poll.pop(self.polls, lambda: None)()
        self.pending.append(len(self.policy.pending))
        (asked, *self.policy.pending) = self.policy.pending or [None]
        return [] if asked is None else [self.policy.reply(asked, garbage=False)]

    def begin(self, version, indices, *, newest=False, step=1, in_flight=256):
        """Asks for games; what they gave is in the list that is returned, after the thread has ended."""
        found = []
        matches = self.matchmaker.matches(step)

        def work():
            try:
                found.extend(self.thread.play([matches[i] for i in indices], handle(version), newest, in_flight))
            except Exception as error:
                found.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        return thread, found

    def arrived(self, count):
        """Waits until the given number of jobs wait for the thread."""
        with self.thread._changed:
            assert self.thread._changed.wait_for(lambda: len(self.thread._inbox) >= count, timeout=30)


def expected(version, indices, step=1):
    policy = coin()
    policy.weight, policy.version = float(version), version
    matches = Matchmaker(policy, GAMES, 3).matches(step)
    return [facts(episode) for episode in play([matches[index] for index in indices])]


def test_chunks_with_the_same_weights_are_played_together_and_play_as_alone():
    table = Table(hold=True)
    first = table.begin(4, [0, 2, 4, 6], in_flight=6)
    assert_begun(table)
    second = table.begin(4, [1, 3, 5], in_flight=6)
    table.arrived(1)
    table.go.set()
    for thread, _ in (first, second):
        thread.join(30)
    assert [facts(episode) for episode in first[1]] == expected(4, [0, 2, 4, 6])
    assert [facts(episode) for episode in second[1]] == expected(4, [1, 3, 5])
    assert table.taken == [4]
    # The first poll may come before the second chunk; from the second on as many games as may be are under way.
    assert table.pending[1] == 6
    assert max(table.pending) == 6


def test_chunks_with_other_weights_wait_and_older_versions_go_first():
    table = Table(hold=True)
    chunks = [table.begin(2, [0, 1])]
    assert_begun(table)
    for version, indices in ((4, [2, 3]), (3, [4, 5]), (2, [6])):
        chunks.append(table.begin(version, indices))
    table.arrived(3)
    table.go.set()
    for thread, _ in chunks:
        thread.join(30)
    assert table.taken == [2, 3, 4]
    assert table.pending_when_taken == [0, 0, 0]
    got = [[facts(episode) for episode in found] for _, found in chunks]
    assert got == [expected(2, [0, 1]), expected(4, [2, 3]), expected(3, [4, 5]), expected(2, [6])]


def assert_begun(table):
    """Waits until the thread has taken all that there was, and asks for a reply."""
    assert table.polling.wait(30), "no game has begun"


def test_newer_weights_are_loaded_between_turns():
    table = Table()
    table.before_poll[5] = lambda: table.thread.announce(handle(8))
    thread, episodes = table.begin(7, ALL, newest=True, in_flight=3)
    thread.join(30)
    assert table.taken == [7, 8]
    assert table.pending_when_taken == [0, 0]  # what was pending has ended, and the others were held back
    by_game = [[turn.generation.policy_version for turn in episode.turns] for episode in episodes]
    assert all(versions == sorted(versions) for versions in by_game)
    assert [7, 8] in [sorted(set(versions)) for versions in by_game]
    assert sum(versions.count(7) for versions in by_game) == 4 + 3  # before the news, and what was pending then
    # What was written with version 7 is what a game with version 7 alone begins with.
    for episode, alone in zip(episodes, expected(7, ALL), strict=True):
        old = [turn for turn in facts(episode)[3] if turn[5][3] == 7]
        assert old == alone[3][: len(old)]


def test_a_chunk_announces_its_weights():
    table = Table()
    late = {}
    table.before_poll[3] = lambda: late.update(begun=table.begin(9, [6, 7], newest=True)) or table.arrived(1)
    thread, episodes = table.begin(7, [0, 1], newest=True, in_flight=8)
    thread.join(30)
    late_thread, late_episodes = late["begun"]
    late_thread.join(30)
    assert table.taken == [7, 9]
    assert {turn.generation.policy_version for episode in late_episodes for turn in episode.turns} == {9}
    assert [len(episodes), len(late_episodes)] == [2, 2]


def test_a_call_runs_although_more_games_could_join():
    table = Table()
    said, late = [], []
    asking = threading.Thread(target=lambda: said.append(table.thread.call(lambda: list(table.policy.pending), 7)))

    def ask_then_bring_more():
        asking.start()
        table.arrived(1)
        late.append(table.begin(7, [8, 9], newest=True))
        table.arrived(2)

    table.before_poll[2] = ask_then_bring_more
    first, episodes = table.begin(7, [0, 1], newest=True)
    for thread in (first, asking):
        thread.join(30)
    late[0][0].join(30)
    assert said == [[]]  # no turn was pending
    assert [len(episodes), len(late[0][1])] == [2, 2]


def test_an_error_ends_the_games_under_way_and_no_others():
    table = Table(hold=True)

    def burn():
        raise RuntimeError("the engine is on fire")

    table.before_poll[2] = burn
    lost = table.begin(2, [0, 1])
    assert_begun(table)
    kept = table.begin(3, [2, 3])
    table.arrived(1)
    table.go.set()
    for thread, _ in (lost, kept):
        thread.join(30)
    assert [str(error) for error in lost[1]] == ["the engine is on fire"]
    assert [facts(episode) for episode in kept[1]] == expected(3, [2, 3])
    with pytest.raises(ZeroDivisionError):
        table.thread.call(lambda: 1 / 0)
    assert table.thread.call(lambda: 5) == 5


def test_games_in_flight_stay_within_bounds_when_many_chunks_join():
    table = Table()
    called, all_arrived = threading.Event(), threading.Event()

    def wait_for_all():
        called.set()
        return all_arrived.wait(30)

    # A call keeps the thread from taking any chunk before the last one has arrived.
    call = threading.Thread(target=table.thread.call, args=(wait_for_all,))
    call.start()
    assert called.wait(30)
    chunks = [table.begin(1, [index], in_flight=4) for index in ALL]
    table.arrived(len(ALL))
    all_arrived.set()
    for thread in (call, *(thread for thread, _ in chunks)):
        thread.join(30)
    assert [[facts(episode) for episode in found] for _, found in chunks] == [expected(1, [index]) for index in ALL]
    assert max(table.pending) == 4
    assert set(table.pending[1:10]) == {4}
