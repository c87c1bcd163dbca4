"""Episodes on disk: a round trip loses nothing, and a crash while writing leaves the old file."""

import contextlib
import dataclasses
import errno
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from made_up import new_episode, new_turn
from spiral.core.files import point_to, sha256, write_atomically, write_directory_atomically
from spiral.core.records import SCHEMA_VERSION, Turn
from spiral.core.storage import SCHEMA, VERSION_KEY, read_episodes, write_episodes
from spiral.games import load_game
from spiral.inference.transformers import TransformersPolicy
from spiral.policies import SamplingConfig, scripted_policy
from spiral.rollout.loop import Match, play
from spiral.text import ChatCodec, PromptConfig
from turns import GAMES


def assert_equal(first, second):
    """Records are equal field by field, arrays with their types and every bit."""
    assert type(first) is type(second)
    if dataclasses.is_dataclass(first):
        for field in dataclasses.fields(first):
            assert_equal(getattr(first, field.name), getattr(second, field.name))
    elif isinstance(first, np.ndarray):
        assert first.dtype == second.dtype
        assert first.tolist() == second.tolist()
    elif isinstance(first, tuple):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_equal(one, other)
    else:
        assert first == second


def mixed_episodes(nano):
    """A model against a scripted player in every game, some of them cut off or illegal."""
    codec = ChatCodec(nano.tokenizer, PromptConfig(observation="compact", thinking=True))
    model = TransformersPolicy(nano.model, codec, SamplingConfig(max_new_tokens=12), name="nano")
    matches = []
    for seed, spec in enumerate(GAMES * 2):
        game = load_game(spec)
        policies = (model, scripted_policy("random", game))
        matches.append(Match(game=game, seed=2**63 - 1 - seed, policies=policies, trainable=(True, False), max_turns=6))
    return play(matches)


def test_a_round_trip_loses_nothing(nano, tmp_path):
    episodes = mixed_episodes(nano)
    assert len({episode.outcome for episode in episodes}) >= 2
    assert any(turn.generation is None for episode in episodes for turn in episode.turns)
    assert any(turn.action is None for episode in episodes for turn in episode.turns)
    path = tmp_path / "step-000001.parquet"
    write_episodes(path, episodes)
    assert_equal(tuple(read_episodes(path)), tuple(episodes))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


TURNS = st.builds(
    new_turn,
    st.integers(0, 1),
    st.lists(st.integers(0, 2**31 - 1), max_size=4),
    st.just((1, 2)),
    st.lists(st.floats(-100, 0, width=32), min_size=2, max_size=2),
    action=st.one_of(st.none(), st.text()),
    version=st.integers(0, 2**31 - 1),
    stop_reason=st.sampled_from(["stop", "length", "context"]),
    budget=st.integers(0, 2**31 - 1),
    thinking_tokens=st.integers(0, 2),
    has_thought=st.booleans(),
) | st.builds(
    Turn,
    player=st.integers(0, 1),
    observation=st.text(),
    reply=st.text(),
    action=st.one_of(st.none(), st.text()),
    history_turns=st.none() | st.integers(0, 1_000),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    games=st.lists(
        st.builds(
            new_episode,
            st.tuples(st.floats(-5, 5), st.floats(-5, 5)),
            st.lists(TURNS, min_size=1, max_size=4),
            game=st.text(min_size=1),
            seed=st.integers(0, 2**63 - 1),
            trainable=st.tuples(st.booleans(), st.booleans()),
            outcome=st.sampled_from(["finished", "illegal_move", "truncated", "not_played"]),
            fault=st.sampled_from(["", "HTTP 500", "no reply"]),
        ),
        max_size=4,
    )
)
def test_any_episode_survives(tmp_path, games):
    path = tmp_path / "any.parquet"
    write_episodes(path, games)
    assert_equal(tuple(read_episodes(path)), tuple(games))


def test_the_file_is_plain_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    turns = [new_turn(0, (5, 6), (7,), (-0.5,), action="4", version=2), new_turn(1, (5,), (8, 9), action=None)]
    write_episodes(
        path, [new_episode((-1.5, 0.5), turns, seed=11, outcome="illegal_move"), new_episode((1.0, -1.0), turns)]
    )
    table = pq.read_table(path)
    assert table.schema.names == SCHEMA.names
    assert table.schema.metadata[VERSION_KEY] == str(SCHEMA_VERSION).encode()
    rows = table.to_pylist()
    assert [(row["episode"], row["turn"]) for row in rows] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    first = rows[0]
    assert (first["prompt_ids"], first["token_ids"], first["logprobs"]) == ([5, 6], [7], [-0.5])
    assert (first["seed"], first["returns"], first["outcome"]) == (11, [-1.5, 0.5], "illegal_move")
    assert [row["action"] for row in rows] == ["4", None, "4", None]
    assert first["policy_version"] == 2


def test_files_of_former_versions_are_read(tmp_path):
    path = tmp_path / "old.parquet"
    turns = [new_turn(0, (5, 6), (7, 8), version=2, budget=9, thinking_tokens=1, has_thought=True), new_turn(1)]
    untold = [new_turn(0, (5, 6), (7, 8), version=2, thinking_tokens=1, has_thought=True), new_turn(1)]
    scripted = Turn(player=0, observation="o", action="3")
    write_episodes(path, [new_episode((1.0, -1.0), [*turns, scripted], seed=11)])
    table = pq.read_table(path)
    assert table["thinking_tokens"].to_pylist() == [1, 0, None]
    assert table["has_thought"].to_pylist() == [True, False, None]
    eighth = table.drop_columns(["history_turns"]).replace_schema_metadata({VERSION_KEY: b"8"})
    pq.write_table(eighth, path)
    assert {turn.history_turns for turn in read_episodes(path)[0].turns} == {None}
    sixth = eighth.drop_columns(["rewards"]).replace_schema_metadata({VERSION_KEY: b"6"})
    pq.write_table(sixth, path)
    assert read_episodes(path)[0].rewards == (1.0, -1.0)
    fifth = sixth.drop_columns(["attempt"]).replace_schema_metadata({VERSION_KEY: b"5"})
    pq.write_table(fifth, path)
    assert_equal(tuple(read_episodes(path)), (new_episode((1.0, -1.0), [*turns, scripted], seed=11),))
    third = fifth.drop_columns(["budget", "reward"]).replace_schema_metadata({VERSION_KEY: b"3"})
    pq.write_table(third, path)
    assert_equal(tuple(read_episodes(path)), (new_episode((1.0, -1.0), [*untold, scripted], seed=11),))
    former = third.drop_columns(["fault"]).replace_schema_metadata({VERSION_KEY: b"2"})
    pq.write_table(former, path)
    assert_equal(tuple(read_episodes(path)), (new_episode((1.0, -1.0), [*untold, scripted], seed=11),))
    oldest = former.drop_columns(["thinking_tokens", "has_thought"]).replace_schema_metadata({VERSION_KEY: b"1"})
    pq.write_table(oldest, path)
    expected = [new_turn(0, (5, 6), (7, 8), version=2), turns[1], scripted]
    assert_equal(tuple(read_episodes(path)), (new_episode((1.0, -1.0), expected, seed=11),))


def test_a_file_of_schema_4_is_read():
    """Written by the release before rewards were recorded."""
    episodes = read_episodes(Path(__file__).parents[1] / "golden_episodes" / "schema4.parquet")
    assert len(episodes) == 9
    assert {episode.game for episode in episodes} == {"tictactoe", "kuhn_poker", "kuhn_poker(hands=3)"}
    by_seed = {episode.seed: episode for episode in episodes}
    won = by_seed[9164473484248766367]
    assert (won.game, won.outcome, won.returns) == ("kuhn_poker", "finished", (2.0, -2.0))
    assert won.actions == ("K", "Q", "bet", "call")
    assert [(turn.player, turn.action, turn.generation.token_ids.tolist()) for turn in won.turns] == [
        (0, "bet", [513, 257]),
        (1, "call", [514, 257]),
    ]
    assert {turn.reward for episode in episodes for turn in episode.turns} == {0.0}
    mixed = by_seed[542250717924180942]
    assert (mixed.matchup, mixed.learning_players) == ("tictactoe against random", (1,))
    assert (mixed.outcome, mixed.returns, mixed.turns[-1].action) == ("illegal_move", (0.5, -1.5), None)


def test_no_episodes_are_an_empty_file(tmp_path):
    write_episodes(tmp_path / "none.parquet", [])
    assert read_episodes(tmp_path / "none.parquet") == []


def test_another_schema_version_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    write_episodes(path, [new_episode((1.0, -1.0), [new_turn(0)])])
    table = pq.read_table(path)
    for metadata, shown in (({VERSION_KEY: b"99"}, "99"), ({}, "none")):
        pq.write_table(table.replace_schema_metadata(metadata), path)
        with pytest.raises(ValueError, match=f"has schema version {shown}; this spiral reads 1, 2, 3, 4, 5, 6, 7"):
            read_episodes(path)


def test_what_is_not_a_whole_file_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    write_episodes(path, [new_episode((1.0, -1.0), [new_turn(0)] * 50)])
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], content[:-1], b"", b"not parquet at all" * 10):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"cannot read episodes from .*a\.parquet"):
            read_episodes(path)
    with pytest.raises(ValueError, match=r"cannot read episodes from .*absent\.parquet"):
        read_episodes(tmp_path / "absent.parquet")


def full_disk(path):
    """Writes a part and then fails as a full disk does."""
    path.write_text("half of the new con")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    old = [new_episode((1.0, -1.0), [new_turn(0)])]
    write_episodes(path, old)
    monkeypatch.setattr(pq, "write_table", lambda table, where, **_: full_disk(where))
    with pytest.raises(OSError, match="No space left"):
        write_episodes(path, [new_episode((0.0, 0.0), [new_turn(1)])])
    assert_equal(tuple(read_episodes(path)), tuple(old))
    assert [file.name for file in tmp_path.iterdir()] == ["a.parquet"]


def test_a_new_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "note.txt"
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, full_disk)
    assert list(tmp_path.iterdir()) == []
    seen = []

    def write(temporary):
        temporary.write_text("whole")
        seen.extend((temporary.parent == tmp_path, path.exists()))

    write_atomically(path, write)
    assert seen == [True, False]  # beside the target, so that moving it is one step
    assert path.read_text() == "whole"


def fill(directory):
    (directory / "inner").mkdir()
    (directory / "inner" / "file").write_text("new")


def test_a_directory_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "step-000001"
    write_directory_atomically(path, fill)
    assert (path / "inner" / "file").read_text() == "new"
    (path / "old").write_text("kept")
    with pytest.raises(OSError, match="No space left"):
        write_directory_atomically(path, lambda directory: full_disk(directory / "file"))
    assert sorted(file.name for file in path.iterdir()) == ["inner", "old"]
    write_directory_atomically(path, fill)
    assert [file.name for file in path.iterdir()] == ["inner"]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_an_old_directory_stays_intact_until_it_is_replaced(tmp_path, monkeypatch):
    path = tmp_path / "step-000001"
    write_directory_atomically(path, fill)
    (path / "old").write_text("kept")
    kept, rename = [], type(path).rename

    def interrupted(self, target):
        if target == path and not kept:
            kept.extend(file for file in tmp_path.rglob("old"))
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(type(path), "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_directory_atomically(path, fill)
    assert [file.name for file in kept] == ["old"]  # a kill at this point would have found it too
    assert sorted(file.name for file in path.iterdir()) == ["inner", "old"]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_links_are_replaced_in_one_step(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        point_to(tmp_path / "latest", name)
        assert (tmp_path / "latest").resolve() == tmp_path / name
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "b", "latest"]


def test_a_link_replaces_a_copied_directory(tmp_path):
    for name in ("latest", "a"):
        (tmp_path / name).mkdir()
    (tmp_path / "latest" / "file").write_text("old")
    point_to(tmp_path / "latest", "a")
    assert (tmp_path / "latest").readlink().name == "a"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "latest"]


def test_a_known_hash(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_harm_to_a_file_of_episodes_is_noticed(tmp_path):
    """Every file is read as it was written, or refused by its name; never something else, never another error."""
    path = tmp_path / "episodes.parquet"
    episodes = [new_episode((1.0, -1.0), [new_turn(0), new_turn(1)]), new_episode((0.0, 0.0), [new_turn(1)])]
    write_episodes(path, episodes)
    content = path.read_bytes()
    refused = 0
    harmed = [content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :]
              for position in range(0, len(content), 29)]  # fmt: skip
    for data in (*harmed, b"", content[:-1], content[: len(content) // 2], content[8:], b"\0" * len(content)):
        path.write_bytes(data)
        found = None
        with contextlib.suppress(ValueError):
            found = read_episodes(path)
        if found is None:
            refused += 1
        else:
            assert_equal(tuple(found), tuple(episodes))
    assert refused > len(harmed) * 0.6
