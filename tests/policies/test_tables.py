"""Policies as files: what is written is played, in theory, evaluation and training, and what is wrong is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from commands import refused, spiral
from spiral.games import load_game
from spiral.policies import able_opponents, can_play, scripted_policy, scripted_table
from spiral.policies.tables import read_table, write_table
from spiral.theory import equilibrium, exploitability
from spiral.theory.policy import policy_probabilities
from spiral.theory.tree import build_tree

KUHN = load_game("kuhn_poker")
TREE = build_tree(KUHN)


@pytest.fixture
def table(tmp_path):
    """The file of a random policy, and its probabilities."""
    rows = np.random.default_rng(1).dirichlet([1, 1], size=len(TREE.infosets))
    write_table(tmp_path / "mine.json", KUHN, TREE, rows.reshape(-1))
    return tmp_path / "mine.json", rows


def test_a_table_is_read_as_it_was_written(table):
    file, rows = table
    policy = read_table(file, KUHN)
    assert policy_probabilities(TREE, [policy, policy]) == pytest.approx(rows.reshape(-1))
    assert exploitability(KUHN, scripted_table(f"table:{file}", KUHN)) == pytest.approx(exploitability(KUHN, policy))


def test_it_plays_its_probabilities(table):
    import random

    file, rows = table
    player = scripted_policy(f"table:{file}", KUHN)
    assert player.name == f"table:{file}"
    rng, infoset = random.Random(0), TREE.infosets[0]
    played = [player.choose(infoset.state, infoset.player, rng) for _ in range(2000)]
    assert played.count(infoset.actions[0]) / 2000 == pytest.approx(rows[0][0], abs=0.04)


def test_commands_take_a_table(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    policy = equilibrium(KUHN)
    write_table(tmp_path / "nash.json", KUHN, TREE, policy_probabilities(TREE, [policy, policy]))
    found = spiral("exploitability", "table:nash.json", "--game", "kuhn_poker", "--json").json
    assert found["exploitability"] < 1e-3
    assert found["method"] == "exact"
    played = spiral(
        "evaluate", "random", "--opponent", "table:mine.json", "--game", "kuhn_poker", "--episodes", "20", "--json"
    )
    assert played.status == 0, played.err
    assert "table:mine.json" in json.dumps(played.json)


def test_results_of_a_changed_table_are_not_taken_for_its_own(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ask = ("exploitability", "table:mine.json", "--game", "kuhn_poker", "--json")
    first = spiral(*ask).json
    write_table(table[0], KUHN, TREE, np.full(len(TREE.infoset_A), 0.5))
    second = spiral(*ask).json
    assert second["exploitability"] == pytest.approx(11 / 24)
    assert first["exploitability"] != second["exploitability"]
    assert first["files"] != second["files"]


def change(file, edit):
    found = json.loads(file.read_text())
    edit(found)
    file.write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda found: found.pop("game"), "expected an object with 'game' and the list 'states'"),
        (lambda found: found["states"][0]["probabilities"].update(check="0.5", bet="0.5"),
         "is '0.5'; expected a number"),
        (lambda found: found["states"][0].update(probabilities={"check": True}), "is True; expected a number"),
        (lambda found: found["states"][0].update(probabilities={"check": float("nan"), "bet": 1.0}),
         "expected finite probabilities of at least zero"),
        (lambda found: found["states"][0].update(probabilities={"check": 1.5, "bet": -0.5}),
         "expected finite probabilities of at least zero"),
        (lambda found: found["states"].append({**found["states"][0], "information_state": "A-:"}),
         "kuhn_poker has no information state (0, 'A-:') (player, state), so that its entry would have no effect"),
        (lambda found: found.update(states={}), "expected an object with 'game' and the list 'states'"),
        (lambda found: found.update(game="leduc_poker"), "is a policy for leduc_poker; expected one for kuhn_poker"),
        (lambda found: found["states"].pop(), "the policy has no row for"),
        (lambda found: found["states"][0].pop("player"), "is damaged: KeyError 'player'"),
        (lambda found: found["states"].append(3), "is damaged: TypeError"),
        (lambda found: found["states"].append(found["states"][0]), "13 entries for 12 information states"),
        (lambda found: found["states"][0]["probabilities"].update(raise_=0.2), "illegal actions"),
        (lambda found: found["states"][0]["probabilities"].update(bet=5), "expected a sum of 1"),
    ],
)  # fmt: skip
def test_wrong_tables_are_refused(table, edit, words):
    file, _ = table
    change(file, edit)
    line = refused("evaluate", "random", "--opponent", f"table:{file}", "--game", "kuhn_poker", "--episodes", "4")
    assert words in line
    assert str(file) in line


def test_a_file_that_cannot_be_a_table_is_refused(tmp_path):
    for text in ("[]", "3", "null"):
        (tmp_path / "mine.json").write_text(text)
        with pytest.raises(ValueError, match=r"cannot read table:.*: expected an object with 'game' and the list"):
            read_table(tmp_path / "mine.json", KUHN)
    with pytest.raises(ValueError, match=r"cannot read table:~no_such_user/mine\.json: "):
        scripted_policy("table:~no_such_user/mine.json", KUHN)


def test_a_damaged_opponent_is_not_left_out_in_silence(table):
    """A table of another game cannot play; a damaged one of this game ends the run."""
    file, _ = table
    name = f"table:{file}"
    assert able_opponents([name, "minimax", "random"], KUHN) == [name, "random"]
    assert able_opponents([name, "random"], load_game("leduc_poker")) == ["random"]
    can_play.cache_clear()
    change(file, lambda found: found["states"].pop())
    with pytest.raises(ValueError, match="the policy has no row for"):
        able_opponents([name, "random"], KUHN)


def test_what_no_table_is_for_is_refused(table, tmp_path):
    file, _ = table
    assert "cannot read table:" in refused(
        "evaluate", "random", "--opponent", f"table:{tmp_path}/none.json", "--game", "kuhn_poker"
    )
    change(file, lambda found: found.update(game="tictactoe"))
    line = refused("evaluate", "random", "--opponent", f"table:{file}", "--game", "tictactoe", "--episodes", "4")
    assert "hides nothing from its players; a table needs a game that does" in line
    settings = ("--set", "selfplay.opponents={mine=1}", "--set", f"opponent.mine.model=table:{file}")
    line = refused("train", "nano", "--dry-run", *settings, "--set", "opponent.mine.temperature=0.5")
    assert "takes no settings" in line
