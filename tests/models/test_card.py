"""A checkpoint says how it is asked, wherever it is moved; one of an older run takes that from its run's folder."""

from __future__ import annotations

import json
import shutil

import pytest

from spiral.core.policy import SamplingConfig
from spiral.models.card import CARD, ModelCard, read_card, training_card, write_card
from spiral.models.loading import NANO_DIRECTORY
from spiral.policies.registry import PolicyOptions, load_language_policy, model_card, run_games
from spiral.text import PromptConfig

SECTIONS = {
    "prompt": PromptConfig(observation="compact", thinking=True).model_dump(),
    "sampling": {"temperature": 0.7, "top_p": 1.0, "max_new_tokens": 9},
    "engine": {"kind": "transformers", "context": 300},
    "selfplay": {"games": {"tictactoe": 1.0, "kuhn_poker(hands=3)": 2.0}, "opponents": {"minimax": 1.0}},
    "evaluation": {"temperature": 0.0, "games": ["tictactoe"]},
    "loss": {"kind": "ppo"},
}


def settings(name):
    """How a model is asked, without the name of its run."""
    policy = load_language_policy(str(name), PolicyOptions())
    return model_card(str(name)), run_games(str(name)), policy.codec.config, policy.sampling


@pytest.fixture
def run(tmp_path):
    """A run directory of today: all that its checkpoint needs is in the checkpoint."""
    path = tmp_path / "run"
    checkpoint = path / "checkpoints" / "step-000007"
    shutil.copytree(NANO_DIRECTORY, checkpoint)
    card = training_card(SECTIONS).model_copy(update={"run": "run", "step": 7})
    write_card(checkpoint, card)
    (path / "checkpoints" / "latest").symlink_to("step-000007")
    (path / "config.toml").write_text("[sampling]\ntemperature = 0.1\n")
    return path


def test_a_moved_checkpoint_is_asked_as_before(run, tmp_path):
    before = settings(run)
    assert before[1] == ["tictactoe", "kuhn_poker(hands=3)"]
    assert before[2] == PromptConfig(observation="compact", thinking=True)
    assert before[3] == SamplingConfig(temperature=0.0, max_new_tokens=9)
    assert (before[0].engine["context"], bool(before[0].run)) == (300, True)
    moved = tmp_path / "elsewhere"
    shutil.move(run / "checkpoints" / "step-000007", moved)
    shutil.rmtree(run)
    assert settings(moved) == before
    assert (read_card(moved).run, read_card(moved).step) == ("run", 7)


def test_an_older_checkpoint_takes_the_rest_from_the_folder_of_its_run(run, tmp_path):
    checkpoint = run / "checkpoints" / "step-000007"
    write_card(checkpoint, ModelCard(prompt=PromptConfig(observation="compact")))
    assert json.loads((checkpoint / CARD).read_text()).keys() == {"prompt"}
    own = model_card(str(run))
    assert own.run
    assert own.evaluation_sampling.temperature == 0.1
    assert own.prompt == PromptConfig(observation="compact")
    moved = tmp_path / "elsewhere"
    shutil.copytree(checkpoint, moved)
    assert not model_card(str(moved)).run


def test_a_damaged_card_is_named(run):
    file = run / "checkpoints" / "step-000007" / CARD
    for text in ("{}", "{", '{"prompt": {"template": 3}}', "[]"):
        file.write_text(text)
        with pytest.raises(ValueError, match=r"spiral\.json is damaged"):
            read_card(file.parent)


def test_keys_of_a_later_version_are_skipped(run):
    file = run / "checkpoints" / "step-000007" / CARD
    card = read_card(file.parent)
    file.write_text(json.dumps({**json.loads(file.read_text()), "colour": "red"}))
    assert read_card(file.parent) == card
