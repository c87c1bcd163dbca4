"""Fine-tuning: which turns are learned from, in which words and in which order, and the loss by hand."""

import copy
import dataclasses
import logging

import numpy as np
import pytest
import torch

from made_up import new_episode
from spiral.core.policy import SamplingConfig
from spiral.core.records import Generation, Seat, Turn
from spiral.core.storage import read_episodes, write_episodes
from spiral.games import load_game
from spiral.inference.transformers import TransformersPolicy
from spiral.policies import scripted_policy
from spiral.rollout.collection import Collection
from spiral.rollout.loop import Match, play
from spiral.text import ChatCodec, PromptConfig
from spiral.training.batch import make_batch, samples_from_episodes
from spiral.training.learner import Learner
from spiral.training.settings import LearnerConfig, LossConfig, SftConfig
from spiral.training.sft import ExpertGames, expert_turns, games_in, imitation, select, student_reply

pytestmark = pytest.mark.usefixtures("one_thread")

COMPACT = PromptConfig(observation="compact", thinking=False)
TICTACTOE = load_game("tictactoe")
X_WINS = ("0", "3", "1", "4", "2")
DRAW = ("0", "1", "2", "4", "3", "5", "7", "6", "8")


def game(actions=X_WINS, returns=(1.0, -1.0), replies=None, **changed):
    """An episode of tic-tac-toe by its actions; replies are the actions themselves, as a scripted player's."""
    replies = replies or {}
    turns = [
        Turn(player=i % 2, observation="o", reply=replies.get(i, action), action=action)
        for i, action in enumerate(actions)
    ]
    return dataclasses.replace(new_episode(returns, turns), actions=actions, **changed)


def data_of(path, *episodes):
    """A Parquet file of episodes, named as `sft.data` names it."""
    write_episodes(path / "games.parquet", episodes)
    return [str(path / "games.parquet")]


@pytest.fixture(scope="module")
def random_games(tmp_path_factory):
    """Sixty games of random play."""
    path = tmp_path_factory.mktemp("data")
    Collection(path, games=[TICTACTOE], episodes=60, policy="random").play(scripted_policy)
    return str(path)


@pytest.fixture
def expert(random_games, tokenizer):
    def read(**settings):
        config = SftConfig(data=[random_games], keep="not_losers", **settings)
        return ExpertGames.read(config, 7, ChatCodec(tokenizer, COMPACT), max_reply=8, context=512)

    return read


# Which turns


@pytest.mark.parametrize(
    ("keep", "won", "drawn"),
    [("winners", [0, 2, 4], []), ("not_losers", [0, 2, 4], [*range(9)]), ("all", [0, 1, 2, 3, 4], [*range(9)])],
)
def test_whose_turns_are_learned_from(keep, won, drawn, tmp_path):
    data = data_of(tmp_path, game(), game(DRAW, (0.0, 0.0)))
    turns = select(SftConfig(data=data, keep=keep), 0).turns
    assert [index for episode, index in turns if episode.returns[0] == 1.0] == won
    assert [index for episode, index in turns if episode.returns[0] == 0.0] == drawn


def test_what_is_never_learned_from(tmp_path):
    seats = (Seat(policy="teacher", trainable=True), Seat(policy="random", trainable=False))
    lost = game(X_WINS, (1.0, -1.0), seats=seats[::-1])
    illegal = game(("0", "3"), (0.5, -1.5), outcome="illegal_move")
    illegal = dataclasses.replace(
        illegal, actions=("0",), turns=(illegal.turns[0], dataclasses.replace(illegal.turns[1], action=None))
    )
    away = game(("0",), (0.0, 0.0), outcome="not_played", fault="no answer")
    data = data_of(tmp_path, game(seats=seats), lost, illegal, away, game(DRAW, (0.0, 0.0)))
    kept = select(SftConfig(data=data), 0)
    assert [index for _, index in kept.turns] == [0, 2, 4]
    assert kept.left_out == {"won by an opponent": 1, "not finished by their rules": 2, "without a winner": 1}
    unfinished = select(SftConfig(data=data, finished_only=False, keep="all"), 0)
    assert [(e.outcome, index) for e, index in unfinished.turns if e.outcome == "illegal_move"] == [("illegal_move", 0)]


def test_games_and_their_number_are_limited(tmp_path):
    kuhn = play([Match(game=load_game("kuhn_poker"), seed=1, policies=(scripted_policy("random", TICTACTOE),) * 2)])
    data = data_of(tmp_path, *[game(seed=seed) for seed in range(20)], *kuhn)
    assert games_in(SftConfig(data=data)) == {"kuhn_poker": 1.0, "tictactoe": 20.0}
    assert games_in(SftConfig(data=data, games=["kuhn_poker(hands=1)"])) == {"kuhn_poker": 1.0}
    assert {e.game for e, _ in select(SftConfig(data=data, games=["tictactoe"]), 0).turns} == {"tictactoe"}
    drawn = [{e.seed for e, _ in select(SftConfig(data=data, max_episodes=5), seed).turns} for seed in (1, 1, 2)]
    assert len(drawn[0]) == 5
    assert drawn[0] == drawn[1] != drawn[2]
    assert select(SftConfig(data=data, max_turns=4, keep="all"), 0).left_out == {"longer than sft.max_turns": 20}


def test_a_game_of_one_player_without_a_return_above_zero_has_no_winner_to_learn_from(tmp_path):
    alone = dataclasses.replace(game(), seats=game().seats[:1], returns=(0.0,), rewards=(0.0,))
    for keep in ("winners", "not_losers"):
        with pytest.raises(ValueError, match=r"none has a turn to learn from: 1 without a return above 0$"):
            select(SftConfig(data=data_of(tmp_path, alone), keep=keep), 0)


def test_data_without_anything_to_learn_say_why(tmp_path):
    with pytest.raises(ValueError, match=r"no expert games to learn from; name them with --data DIR"):
        select(SftConfig(), 0)
    with pytest.raises(ValueError, match="there is no nowhere; `spiral collect` makes such a directory"):
        select(SftConfig(data=["nowhere"]), 0)
    with pytest.raises(ValueError, match="holds no Parquet files of episodes"):
        select(SftConfig(data=[str(tmp_path)]), 0)
    data = data_of(tmp_path, game(DRAW, (0.0, 0.0)))
    with pytest.raises(
        ValueError, match=r"of 1 games none has a turn to learn from: 1 without a winner; set sft\.keep"
    ):
        select(SftConfig(data=data), 0)
    with pytest.raises(ValueError, match=r"sft\.games is leduc_poker, and the data have tictactoe"):
        games_in(SftConfig(data=data, games=["leduc_poker"]))
    file = tmp_path / "games.parquet"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"cannot read episodes from .*games\.parquet"):
        games_in(SftConfig(data=data))
    write_episodes(file, [game(game="no_such_game")])
    with pytest.raises(ValueError, match=r"the data have games of no_such_game: .*or leave it out with sft.games"):
        games_in(SftConfig(data=data))


# In the student's words


@pytest.mark.parametrize("history", [{}, {"history": "chat", "history_thoughts": "keep"}], ids=str)
def test_the_student_learns_what_it_would_have_been_given_and_have_sampled(history, nano, tmp_path, tokenizer):
    """Of its own games, and of those that another observation style has recorded."""
    prompt = nano.prompt.model_copy(update=history)
    policy = TransformersPolicy(nano.model, ChatCodec(tokenizer, prompt), SamplingConfig(max_new_tokens=8))
    matches = [Match(game=load_game(spec), seed=seed, policies=(policy, policy), opening_plies=3)
               for spec in ("tictactoe", "kuhn_poker", "connect_four") for seed in range(4)]  # fmt: skip
    played = play(matches)
    others = [
        dataclasses.replace(e, turns=tuple(dataclasses.replace(t, observation="?", prompt_ids=None) for t in e.turns))
        for e in played
    ]
    selection = select(SftConfig(data=data_of(tmp_path, *others), keep="all", finished_only=False), 0)
    made = expert_turns(selection, policy.codec, max_reply=8, max_tokens=512)
    own = [turn for episode in played for turn in episode.turns if turn.action is not None]
    assert len(made) == len(own) > 20
    assert any(turn.history_turns for turn in own) == bool(history)
    for expert, turn in zip(made, own, strict=True):
        assert expert.turn.observation == turn.observation
        assert expert.turn.history_turns == turn.history_turns
        assert expert.prompt_ids.tolist() == turn.prompt_ids.tolist()
        assert expert.reply_ids.tolist() == turn.generation.token_ids.tolist()


@pytest.mark.parametrize(
    ("template", "thinking", "reply", "expected"),
    [
        ("qwen3", True, "4", r"\boxed{4}"),
        ("qwen3", True, "The centre.\n\\boxed{4}", "The centre.\n\\boxed{4}"),
        ("qwen3", True, "<think>\nA fork.\n</think>\n\n\\boxed{4}", "<think>\nA fork.\n</think>\n\n\\boxed{4}"),
        ("qwen3", True, "A fork.\n</think>\n\\boxed{4}", "<think>A fork.\n</think>\n\\boxed{4}"),
        ("qwen3", True, "[THINK]A fork.[/THINK]\\boxed{4}", "<think>A fork.</think>\\boxed{4}"),
        ("qwen3", False, "<think>\nA fork.\n</think>\n\n\\boxed{4}", r"\boxed{4}"),
        ("qwen3", False, "The centre.\n\\boxed{4}", r"\boxed{4}"),
        ("r1", True, "<think>\nA fork.\n</think>\n\n\\boxed{4}", "A fork.\n</think>\n\n\\boxed{4}"),
        ("r1", True, "A fork.</think>\\boxed{4}", "A fork.</think>\\boxed{4}"),
        ("r1", True, "The centre.\n\\boxed{4}", "The centre.\n</think>\n\n\\boxed{4}"),
        ("r1", True, "4", "</think>\n\n\\boxed{4}"),
    ],
)
def test_a_reply_takes_the_students_form(template, thinking, reply, expected, tokenizer):
    codec = ChatCodec(tokenizer, PromptConfig(template=template, thinking=thinking, observation="compact"))
    text = student_reply(Turn(player=0, observation="o", reply=reply, action="4"), codec)
    assert text == expected


def test_a_turn_ends_as_the_template_ends_it(tokenizer):
    codec = ChatCodec(tokenizer, COMPACT)
    ids = codec.encode_turn("\\boxed{4}<|reply|>")
    assert ids[-1] == codec.end_id == tokenizer.eos_token_id
    assert codec.decode(ids) == "\\boxed{4} "
    other = copy.deepcopy(tokenizer)
    other.add_special_tokens({"additional_special_tokens": ["<|im_end|>", "<|eot_id|>"]})
    ends = {
        name: ChatCodec(other, PromptConfig(template=name, observation="compact")).end_id
        for name in ("qwen3", "llama", "r1", "chat")
    }
    assert {name: other.convert_ids_to_tokens(id_) for name, id_ in ends.items()} == {
        "qwen3": "<|im_end|>",
        "llama": "<|eot_id|>",
        "r1": "<|end|>",
        "chat": "<|end|>",
    }


def test_turns_that_cannot_be_learned_are_counted(tmp_path, tokenizer, caplog):
    cut = Generation(
        token_ids=np.array([1]), logprobs=np.array([0.0], np.float32), stop_reason="length", policy_version=0
    )
    replies = {0: "\\boxed{0}" + " so" * 30, 2: "<think>\\boxed{8}", 4: "\\boxed{2}"}
    first = game(replies=replies)
    second = game(DRAW, (0.0, 0.0))
    second = dataclasses.replace(
        second, turns=(dataclasses.replace(second.turns[0], generation=cut), *second.turns[1:])
    )
    selection = select(SftConfig(data=data_of(tmp_path, first, second), keep="not_losers"), 0)
    thinking = PromptConfig(observation="compact")
    with caplog.at_level(logging.WARNING, "spiral"):
        made = expert_turns(selection, ChatCodec(tokenizer, thinking), max_reply=20, max_tokens=30)
    assert len(made) == 9
    warning, unthinking = [record.getMessage() for record in caplog.records]
    assert warning.startswith("3 of 12 expert turns are left out: ")
    for reason in ("1 were cut off", "1 have replies of more than 20 tokens", "1 do not give the expert's action"):
        assert reason in warning
    assert unthinking.startswith("9 of 9 expert turns have no thought, but prompt.thinking is true")
    with pytest.raises(ValueError, match=r"none of the 12 turns can be learned from: .* more than 5 tokens with"):
        expert_turns(selection, ChatCodec(tokenizer, thinking), max_reply=20, max_tokens=5)


@pytest.mark.parametrize(
    "actions", [("0", "0", "1", "4", "2"), ("0", "3", "1"), ("0", "3", "1", "4", "2", "5"), ("9",)]
)
def test_a_game_that_does_not_replay_is_refused(actions, tmp_path, tokenizer):
    selection = select(SftConfig(data=data_of(tmp_path, dataclasses.replace(game(), actions=actions))), 0)
    with pytest.raises(ValueError, match=r"a game of tictactoe \(seed 0\) does not replay"):
        expert_turns(selection, ChatCodec(tokenizer, COMPACT), max_reply=8, max_tokens=512)


# The order, and resuming


def test_every_turn_is_learned_as_often_as_there_are_passes(expert):
    games = expert(samples_per_step=32, epochs=3)
    steps = [games.collect(step) for step in range(1, games.steps + 1)]
    sizes = [len(step) for step in steps]
    total = 3 * len(games)
    assert sizes[:-1] == [32] * (len(sizes) - 1)
    assert sum(sizes) == total
    assert 0 < sizes[-1] <= 32
    seen = [(e.seed, e.turns[0].observation, e.turns[0].reply) for step in steps for e in step]
    first, second = seen[: len(games)], seen[len(games) : 2 * len(games)]
    assert first != second
    assert sorted(first) == sorted(second)
    again = expert(samples_per_step=32, epochs=3)
    for step in (games.steps, 2, games.steps + 3):
        assert [e.turns[0].prompt_ids.tolist() for e in again.collect(step)] == [
            e.turns[0].prompt_ids.tolist() for e in games.collect(step)
        ]


def test_a_resumed_run_needs_the_same_turns(expert):
    games = expert()
    games.load_state_dict(games.state_dict(), "step-000005")
    games.load_state_dict({})
    with pytest.raises(ValueError, match="expert games are not those of step-000005, which has learned from"):
        expert(max_episodes=20).load_state_dict(games.state_dict(), "step-000005")


def test_metrics_describe_the_turns_of_a_step(expert):
    games = expert(samples_per_step=16)
    metrics = games.describe(games.collect(1), {"time/update_s": 2.0})
    assert metrics["sft/tictactoe/samples"] == 16
    assert metrics["sft/tokens"] == 32  # a word and the end of the turn
    assert (metrics["sft/reply_length"], metrics["sft/reply_length_max"]) == (2, 2)
    assert metrics["sft/prompt_length"] > 4
    assert (metrics["time/turns_per_s"], metrics["time/tokens_per_s"]) == (8, 16)


# The loss


def learner(model, *, loss=None, **config):
    settings = {"learning_rate": 1e-3, "epochs": 1, "tokens_per_microbatch": 60, "max_grad_norm": 1e9, **config}
    return Learner(
        copy.deepcopy(model),
        config=LearnerConfig(**settings),
        loss_config=LossConfig(kind="nll", **(loss or {})),
        sampling=SamplingConfig(max_new_tokens=32),
        total_steps=10,
        seed=0,
    )


def batch_of(expert, step=1, **settings):
    episodes = expert(**settings).collect(step)
    samples, dropped = samples_from_episodes(episodes, imitation()(episodes), drop_zero_advantage=True)
    assert dropped == 0
    return samples


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_the_loss_is_the_mean_negative_log_likelihood_of_a_token(layout, expert, random_model):
    samples = batch_of(expert, samples_per_step=12)
    samples[0] = dataclasses.replace(
        samples[0],
        action_ids=np.array([5, 6, 7, 8, 9, 1]),
        behaviour_logprobs=np.zeros(6, np.float32),
        advantages=np.ones(6, np.float32),
    )
    model = copy.deepcopy(random_model)
    total, count, right = torch.zeros(()), 0, 0
    for sample in samples:  # one at a time, from the plain model's logits
        ids = torch.tensor([[*sample.prompt_ids, *sample.action_ids]])
        logits = model(ids).logits[0, len(sample.prompt_ids) - 1 : -1]
        targets = torch.tensor(sample.action_ids)
        total = total + torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
        right += int((logits.argmax(-1) == targets).sum())
        count += len(targets)
    (total / count).backward()
    norm = torch.sqrt(sum((p.grad**2).sum() for p in model.parameters() if p.grad is not None))
    metrics = learner(random_model, layout=layout).update(make_batch(samples))
    assert count == 12 * 2 + 4
    assert metrics["loss/nll"] == pytest.approx(total.item() / count, rel=1e-5)
    assert metrics["loss/accuracy"] == pytest.approx(right / count)
    assert metrics["learner/grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
    assert not {"loss/policy", "loss/kl_old", "loss/clip_fraction", "sampler/gap_mean"} & metrics.keys()


def test_the_denominator_is_that_of_the_minibatch_whatever_else_is_set(expert, random_model):
    """Neither the response budget nor log-probabilities of the data nor the old policy play a part."""
    samples = batch_of(expert, samples_per_step=12)
    other = [dataclasses.replace(s, behaviour_logprobs=np.full(len(s.action_ids), -3.0, np.float32)) for s in samples]
    results = []
    for given, loss in ((samples, {}), (other, {"old_logprobs": "behaviour", "importance_cap": 0.5})):
        one = learner(random_model, loss=loss, minibatches=3)
        metrics = one.update(make_batch(given))
        results.append((metrics["loss/nll"], [p.detach().clone() for p in one.model.parameters()]))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))


@pytest.mark.slow
def test_a_kl_to_the_start_holds_the_student_back(expert, random_model):
    samples = make_batch(batch_of(expert, samples_per_step=16))
    moved = []
    for coefficient in (0.0, 5.0):
        one = learner(random_model, loss={"kl_coefficient": coefficient} if coefficient else {})
        metrics = [one.update(samples) for _ in range(10)]
        moved.append(metrics[0]["loss/nll"] - metrics[-1]["loss/nll"])
        assert (metrics[-1]["loss/kl_reference"] > 0) == bool(coefficient)
    assert moved[0] > moved[1] > 0


def test_episodes_of_a_step_say_what_was_learned(expert, tmp_path):
    episodes = expert(samples_per_step=4).collect(1)
    write_episodes(tmp_path / "step.parquet", episodes)
    back = read_episodes(tmp_path / "step.parquet")
    assert [e.turns[0].reply for e in back] == [e.turns[0].reply for e in episodes]
    assert all(e.turns[0].reply == f"\\boxed{{{e.turns[0].action}}}" for e in back)
    assert {seat.policy for e in back for seat in e.seats} == {"student", "random"}
