"""The probe of thinking: what it learns from, what it counts, and that a started one goes on."""

import json
from pathlib import Path

import pytest

from file_modules import module_of
from spiral.models.nano.tokenizer import build_tokenizer
from spiral.models.nano_think.thought import thought, winning_actions, words

FOLDER = Path(__file__).parents[2] / "experiments/nano_think_probe"


@pytest.fixture(scope="module")
def probe():
    return module_of(FOLDER / "probe.py")


def test_no_position_is_both_learned_and_held_out(probe):
    seen, held = probe.positions(3, 7, seed=0)
    assert (len(seen), len(held)) == (358, 90)
    assert not set(seen) & set(held)
    assert all(winning_actions(sizes) for sizes in [*seen, *held])


class Writes:
    """A model that writes what it is given."""

    def __init__(self, tokenizer, replies):
        self.tokenizer, self.replies = tokenizer, replies

    def generate(self, asked, **options):
        import torch

        ids = self.tokenizer(self.replies, add_special_tokens=False, padding=True, return_tensors="pt")["input_ids"]
        return torch.cat([asked, ids], 1)


def test_what_counts_as_a_winning_move_and_a_true_thought(probe):
    tokenizer = build_tokenizer(words())
    tested = [(3, 5, 7), (1, 2, 5), (1, 2, 5), (0, 0, 4)]
    replies = [
        f"{thought((3, 5, 7))}\\boxed{{2:1}}", f"{thought((1, 2, 5))}\\boxed{{1:1}}", "\\boxed{3:2}",
        f"{thought((0, 0, 3))}\\boxed{{3:4}}",
    ]  # fmt: skip
    found = probe.score(Writes(tokenizer, replies), tokenizer, tested, True)
    assert found == {"winning": 0.75, "true_thoughts": 0.5}


def test_what_is_done_is_not_run_again(probe, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(probe, "STEPS", 8)
    monkeypatch.setattr(probe, "SIZES", {"nim(heaps=2,size=3)": (2, 3)})
    monkeypatch.setattr("sys.argv", ["probe.py", "--seeds", "1", "--arm", "thought", "--out", str(tmp_path)])
    probe.main()
    (row,) = json.loads((tmp_path / "results.json").read_text())
    assert (row["arm"], row["seed"], row["parameters"]) == ("thought", 0, 129_728)
    assert 0 <= row["winning_held_out"] <= 1
    monkeypatch.setattr(probe, "learn", None)
    probe.main()
    assert json.loads((tmp_path / "results.json").read_text()) == [row]
    assert "| `nim(heaps=2,size=3)` | thought | 1 |" in capsys.readouterr().out


def test_the_results_are_those_of_its_arms_and_sizes(probe):
    rows = json.loads((FOLDER / "results.json").read_text())
    assert {row["arm"] for row in rows} <= set(probe.ARMS)
    assert {row["game"] for row in rows} <= set(probe.SIZES)
    assert (FOLDER / "results.md").read_text() == probe.table(rows)
