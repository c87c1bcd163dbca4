"""The table of docs/models.md: each family plays, trains, is killed and resumed, and is a plain model afterwards.

    SPIRAL_UPDATE_DOCS=1 pytest -m slow tests/test_families.py

measures the families and writes their rows. The column of vLLM is written by `inference/test_vllm_families.py`.
"""

from __future__ import annotations

import copy
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from families import LISTED, family_model
from killed_runs import KILLED, contents, go_on, metrics_rows, run
from spiral.agreement import Check, begin_check
from spiral.core.storage import read_episodes
from spiral.inference.texts import CachedTexts, make_texts
from spiral.inference.transformers import TransformersPolicy
from spiral.policies import SamplingConfig
from spiral.text import ChatCodec, PromptConfig
from spiral.training.learner import Learner, LearnerConfig
from spiral.training.lora import LoraConfig
from spiral.training.loss import LossConfig

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
HEADING = "## Families"
"""What is below it is written by the slow tests."""
SAMPLING = SamplingConfig(max_new_tokens=8)
SETTINGS = (
    "run.steps=4", "run.checkpoint_every=2", "run.snapshots=[]", "run.episodes_every=1", "run.trackers=[]",
    "sampling.max_new_tokens=8", "selfplay.episodes_per_step=6", "loss.reference_refresh_steps=0",
    "learner.minibatches=1", "learner.warmup_steps=0", "learner.layout=auto", "learner.gradient_checkpointing=true",
    "evaluation.games=[]", "evaluation.opponents=[]",
)  # fmt: skip


def policy_of(model, tokenizer):
    codec = ChatCodec(tokenizer, PromptConfig(template="llama", observation="compact"))
    return TransformersPolicy(copy.deepcopy(model), codec, SAMPLING)


def learner_of(model, lora=0):
    return Learner(
        copy.deepcopy(model),
        config=LearnerConfig(layout="auto", gradient_checkpointing=True, tokens_per_microbatch=400),
        loss_config=LossConfig(),
        sampling=SAMPLING,
        total_steps=2,
        seed=0,
        lora=LoraConfig(rank=lora) if lora else None,
    )


def agreement(model, tokenizer) -> tuple[Check, Learner, Learner]:
    """Raises `DisagreementError` where engine, learner (with low-rank layers too) and plain forward pass differ."""
    policy = policy_of(model, tokenizer)
    check = begin_check(policy, model, "float32")
    check.engine()
    learner, low_rank = learner_of(model), learner_of(model, lora=4)
    check.learner(learner, {"learner.layout": "auto"})
    check.learner(low_rank, {"lora.rank": 4})
    for trained in (learner, low_rank):
        assert trained.update(check.trial())["learner/grad_norm"] > 0
        policy.load_weights(trained.weights(), trained.version)
        check.updated(trained, {})
    return check, learner, low_rank


def sampled_and_reloaded(path: Path, step: int) -> float:
    """The largest gap between what the engine reported in a step and a checkpoint that plain transformers reads."""
    model = AutoModelForCausalLM.from_pretrained(path / "checkpoints" / f"step-{step - 1:06d}").eval()
    turns = [
        turn for episode in read_episodes(path / "episodes" / f"step-{step:06d}.parquet") for turn in episode.turns
    ]
    gaps = []
    for turn in turns:
        ids = torch.from_numpy(np.concatenate([turn.prompt_ids, turn.generation.token_ids]).astype(np.int64))
        count = len(turn.generation.token_ids)
        with torch.no_grad():
            logits = model(input_ids=ids[None, :-1], use_cache=False).logits[0, -count:]
        found = logits.log_softmax(-1).gather(-1, ids[-count:, None]).squeeze(-1).numpy()
        gaps.append(float(np.abs(found - turn.generation.logprobs).max()))
    assert len(gaps) >= 6
    return max(gaps)


def measured(name, tokenizer, directory: Path) -> list[str]:
    """The cells of a family's row but the last."""
    model = family_model(name, len(tokenizer) + 8)  # some families' tokenizers add tokens of their own
    check, learner, _ = agreement(model, tokenizer)
    model.save_pretrained(directory / "model")
    tokenizer.save_pretrained(directory / "model")
    settings = (*SETTINGS, f"model.path={directory / 'model'}")
    whole, killed = directory / "whole", directory / "killed"
    assert run(whole, settings=settings) == 0
    assert run(killed, "after step 3", settings) == KILLED
    assert go_on(killed) == 0
    assert metrics_rows(whole) == metrics_rows(killed)
    ours, theirs = contents(whole), contents(killed)
    assert [file for file in ours if ours[file] != theirs[file]] == []
    reloaded = sampled_and_reloaded(whole, 3)
    assert reloaded < 1e-4
    engine, trained = (
        max(found.max for found in check.differences if found.pair.startswith(who))
        for who in ("transformers", "learner")
    )
    assert max(engine, trained) < 2e-5
    cached = isinstance(make_texts(check.policy.model), CachedTexts)
    return [
        LISTED[name],
        f"`{type(model).__name__}`",
        "yes" if cached else "yes, without a cache",
        learner.layout,
        "to the bit",
        *(f"{gap:.0e}" if gap else "0" for gap in (engine, trained, reloaded)),
    ]


def written(page: str, cells: list[str]) -> str:
    """The page with a family's row in its place; what vLLM's column says stays."""
    rows = {row.split(" | ")[0].removeprefix("| "): row for row in re.findall(r"^\| (?!family|-).*\|$", page, re.M)}
    last = rows[cells[0]].rsplit(" | ", 1)[1].removesuffix(" |") if cells[0] in rows else "not measured"
    rows[cells[0]] = f"| {' | '.join([*cells, last])} |"
    head = page.partition(HEADING)[0]
    titles = ["family", "class", "plays", "trains", "resumes", "engine", "learner", "reloaded", "vLLM parity"]
    known = [rows[title] for title in LISTED.values() if title in rows]
    table = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}", *known]
    versions = (
        f"Measured with transformers {transformers.__version__} and PyTorch {torch.__version__.partition('+')[0]}."
    )
    return "\n".join([f"{head}{HEADING}", "", *table, "", versions, ""])


@pytest.mark.slow
@pytest.mark.parametrize("name", LISTED)
def test_a_family_plays_trains_resumes_and_reloads(name, tokenizer, tmp_path):
    cells = measured(name, tokenizer, tmp_path)
    if os.environ.get("SPIRAL_UPDATE_DOCS"):
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), cells), encoding="utf-8")
    (row,) = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(f"| {LISTED[name]} |")]
    assert row.split(" | ")[:5] == f"| {' | '.join(cells)}".split(" | ")[:5]


def test_the_page_has_every_family():
    page = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?!family|-).*\|$", page, re.M)
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == list(LISTED.values())
    assert {len(row.split(" | ")) for row in rows} == {9}


def test_a_row_is_replaced_and_the_last_column_kept():
    page = f"Above.\n\n{HEADING}\n\n| Qwen3 | old | 1 | 2 | 3 | 4 | 5 | 6 | 0.01 nats |\n"
    changed = written(page, ["Qwen3", "new", *"abcdef"])
    assert "| Qwen3 | new | a | b | c | d | e | f | 0.01 nats |" in changed
    changed = written(changed, ["Llama", "new", *"abcdef"])
    assert changed.index("| Llama | new") < changed.index("| Qwen3 | new")
    assert changed.count("| Qwen3 |") == 1
    assert changed.startswith(f"Above.\n\n{HEADING}\n\n| family | class")
