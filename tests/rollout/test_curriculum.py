"""Curricula: what they weigh, that games enter, and that their state is enough to go on."""

from __future__ import annotations

import json

import pytest

from made_up import new_episode
from spiral.games.failures import UserCodeError
from spiral.launch import execute, resume, start
from spiral.policies.scripted import RandomPolicy
from spiral.rollout.curriculum.base import Curriculum, shared_out
from spiral.rollout.curriculum.learning_progress import LearningProgress
from spiral.rollout.curriculum.loading import CurriculumConfig
from spiral.rollout.curriculum.regret import Regret
from spiral.rollout.loop import play
from spiral.rollout.matchmaking import Matchmaker, SelfPlayConfig
from spiral.runs.directory import read_metrics
from spiral.runs.recipe import load_recipe

HERE = "tests.rollout.test_curriculum"
GAMES = {"tictactoe": 1.0, "kuhn_poker": 1.0}


class Nothing(Curriculum):
    def __init__(self, games, *, weight=0.0):
        self.weight = weight

    def weights(self, step, games):
        return dict.fromkeys(games, self.weight)


def quietly(step, metrics):
    pass


def paid(game, *rewards):
    return [new_episode(reward, game=game) for reward in rewards]


def counts(matchmaker, step):
    planned = [pairing.game for pairing in matchmaker.pairings(step)]
    return {game: planned.count(game) for game in GAMES}


def test_progress_is_the_distance_of_two_averages():
    """Kuhn poker moves from 0 to 1 for player 0 and to -1 for player 1; tic-tac-toe stays at 0."""
    curriculum = LearningProgress(GAMES, rate=0.5, floor=0.2)
    assert curriculum.weights(1, GAMES) == {"tictactoe": 0.5, "kuhn_poker": 0.5}
    curriculum.observe(1, paid("tictactoe", (0.0, 0.0)) + paid("kuhn_poker", (0.0, 0.0)))
    curriculum.observe(2, paid("tictactoe", (0.0, 0.0)) + paid("kuhn_poker", (1.0, -1.0)))
    assert curriculum.progress() == pytest.approx({"tictactoe": 0.0, "kuhn_poker": 0.5 - 0.1})
    assert curriculum.weights(3, GAMES) == pytest.approx({"tictactoe": 0.1, "kuhn_poker": 0.9})


def test_positive_value_loss_is_what_came_out_better_than_expected():
    """Of rewards 1 and -1 with an expectation of 0, half of the players' results are better, by 1."""
    curriculum = Regret(GAMES, rate=0.5)
    curriculum.observe(1, paid("tictactoe", (1.0, -1.0), (-1.0, 1.0)) + paid("kuhn_poker", (0.5, -0.5), (0.5, -0.5)))
    assert curriculum.regret() == {"tictactoe": 0.5, "kuhn_poker": 0.0}
    curriculum.observe(2, paid("kuhn_poker", (1.0, -1.0)))
    assert curriculum.regret() == {"tictactoe": 0.5, "kuhn_poker": 0.5 * 0.25}


def test_the_gap_to_the_best_is_what_was_lost():
    curriculum = Regret(GAMES, measure="gap_to_best", rate=1.0, floor=0.5)
    for step, reward in enumerate([(0.0, 0.0), (1.0, 1.0), (0.25, 1.0)]):
        curriculum.observe(step, paid("kuhn_poker", reward) + paid("tictactoe", (0.0, 0.0)))
    assert curriculum.regret() == {"tictactoe": 0.0, "kuhn_poker": 0.375}
    assert curriculum.weights(4, GAMES) == {"tictactoe": 0.25, "kuhn_poker": 0.75}


def test_a_game_that_enters_is_tried_like_the_best_of_the_others():
    assert shared_out({"a": 1.0, "b": 1.0, "new": 2.0}, {"a": 3.0, "b": 1.0}, 0.0) == {"a": 0.3, "b": 0.1, "new": 0.6}


@pytest.mark.parametrize("made", [LearningProgress, Regret])
def test_the_state_is_enough_to_go_on(made):
    first, second = made(GAMES), made(GAMES)
    first.observe(1, paid("tictactoe", (1.0, -1.0)) + paid("kuhn_poker", (0.1, 0.3), (0.7, -1.5)))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for curriculum in (first, second):
        curriculum.observe(2, paid("kuhn_poker", (0.3, 0.1)))
    assert first.weights(3, GAMES) == second.weights(3, GAMES) != made(GAMES).weights(3, GAMES)


def test_a_game_enters_at_its_step_and_the_others_are_as_they_were():
    config = SelfPlayConfig(games=GAMES, starts={"kuhn_poker": 3}, episodes_per_step=8)
    matchmaker = Matchmaker(RandomPolicy(), config, 0)
    assert [counts(matchmaker, step) for step in (1, 2, 3)] == [
        {"tictactoe": 8, "kuhn_poker": 0},
        {"tictactoe": 8, "kuhn_poker": 0},
        {"tictactoe": 4, "kuhn_poker": 4},
    ]
    plain = Matchmaker(RandomPolicy(), SelfPlayConfig(games=GAMES, episodes_per_step=8), 0)
    assert plain.pairings(3) == matchmaker.pairings(3)
    assert "curriculum" not in plain.state_dict()


def test_the_games_of_a_step_follow_from_the_state():
    config = SelfPlayConfig(games=GAMES, reward="sign", episodes_per_step=40)
    going, resumed, new = (
        Matchmaker(RandomPolicy(), config, 0, curriculum=CurriculumConfig(kind="regret")) for _ in range(3)
    )
    for step in (1, 2):
        going.observe(step, play(going.matches(step)))
    resumed.load_state_dict(json.loads(json.dumps(going.state_dict())))
    assert resumed.pairings(3) == going.pairings(3)
    assert counts(going, 3) != counts(new, 3)


@pytest.mark.parametrize("weight", [0.0, -1.0])
def test_weights_that_share_out_nothing_are_refused(weight):
    curriculum = CurriculumConfig(kind=f"{HERE}:Nothing", options={"weight": weight})
    with pytest.raises(UserCodeError, match=f"'{HERE}:Nothing' failed at step 1.*expected finite weights"):
        Matchmaker(RandomPolicy(), SelfPlayConfig(), 0, curriculum=curriculum).pairings(1)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("curriculum.kind=progress", "there is no 'progress' among the curricula"),
        ("curriculum.options={rate=2}", "'fixed' has no option 'rate'; it has none"),
        ("selfplay.starts={kuhn_poker=2}", r"selfplay.starts got kuhn_poker = 2; expected games of selfplay.games"),
        ("selfplay.starts={tictactoe=2}", "so that no game is played in step 1"),
        ("selfplay.starts={tictactoe=0}", "numbers of at least 1"),
    ],
)
def test_wrong_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        load_recipe("nano", ["selfplay.games={tictactoe=1}", "selfplay.opening_plies={}", setting])


def test_options_and_schedules_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="got rate=0; expected a share above 0 and up to 1"):
        load_recipe("nano", ["curriculum.kind=regret", "curriculum.options={rate=0}"])
    ahead = ["curriculum.kind=regret", "cluster.rollout_workers=2", "cluster.schedule=overlap"]
    with pytest.raises(ValueError, match="before those of the step before are over"):
        load_recipe("nano", ahead)
    load_recipe("nano", [*ahead[:2], "cluster.schedule=sync"])


def test_a_run_with_a_curriculum_resumes_bit_for_bit(tmp_path):
    """With a game that enters in step 2; stopped after step 2 and resumed for two more."""
    settings = [
        "selfplay.games={tictactoe=1, kuhn_poker=1}", "selfplay.starts={kuhn_poker=2}", "curriculum.kind=regret",
        "selfplay.opening_plies={}", "selfplay.episodes_per_step=12", "evaluation.games=[]",
        "evaluation.exploitability=[]", "run.steps=4", "run.checkpoint_every=2", "learner.warmup_steps=0",
        "learner.final_learning_rate_share=1.0",
    ]  # fmt: skip
    recipe = load_recipe("nano", settings)
    execute(start(recipe, tmp_path / "whole"), quietly).close()
    short = recipe.model_copy(update={"run": recipe.run.model_copy(update={"steps": 2})})
    execute(start(short, tmp_path / "parts"), quietly).close()
    execute(resume(tmp_path / "parts", steps=4), quietly).close()
    rows = [
        [{key: value for key, value in row.items() if not key.startswith("time/")} for row in read_metrics(path)]
        for path in (tmp_path / "whole", tmp_path / "parts")
    ]
    assert rows[0] == rows[1]
    games = [row.get("selfplay/kuhn_poker/games") for row in rows[0]]
    assert games[0] is None
    assert games[1] == 6.0
    assert 0 < games[3] < 12
