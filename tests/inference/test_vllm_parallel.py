"""A vLLM engine over two devices, here two processes on a CPU: it computes and takes new weights as one over one."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from families import family_model, wide_family_model
from spiral.inference import vllm_parallel
from spiral.launch import execute, start
from spiral.runs.directory import read_metrics
from spiral.runs.recipe import load_recipe
from tests.inference.test_vllm_families import RUN
from turns import random_states, replies_of, requests_for
from vllm_models import measured, new_engine, save, with_vllm

pytestmark = with_vllm


def two_key_heads(tokenizer, name="qwen3"):
    """A model whose four heads, two of keys and values and odd vocabulary are shared out."""
    heads = {"head_dim": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
    changes = heads | {"intermediate_size": 128}  # vLLM's experts on a CPU take a multiple of 32 on each device
    return family_model(name, len(tokenizer) + 9, changes=changes)


def model_of(name, tokenizer):
    """Of Mixtral one whose only head of keys and values is on both devices."""
    if name == "mixtral":
        return wide_family_model(name, len(tokenizer) + 8)
    return two_key_heads(tokenizer, name)


@pytest.mark.parametrize("name", ["qwen3", "mixtral", "gpt-oss"])
def test_log_probabilities_are_the_plain_models_as_started_and_after_two_reloads(
    name, tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setattr(vllm_parallel, "CHUNK_BYTES", 20_000)  # less than all of a layer
    before = multiprocessing.active_children()
    gaps = measured(model_of(name, tokenizer), tokenizer, tmp_path, tensor_parallel=2)
    assert max(gaps) < 1e-4
    assert multiprocessing.active_children() == before  # the end of an engine ends its processes


def test_a_run_compares_trains_and_ends_as_with_one_device(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("SPIRAL_HOME", str(tmp_path / "home"))  # where nothing has been compared
    path = save(two_key_heads(tokenizer), tokenizer, tmp_path / "model")
    settings = [*RUN, "run.steps=2", "engine.tensor_parallel=2", f"model.path={path}"]
    started = start(load_recipe("nano", settings), tmp_path / "run")
    assert len(multiprocessing.active_children()) == 2
    execute(started, lambda *_: None).close()
    assert multiprocessing.active_children() == []
    rows = read_metrics(tmp_path / "run")
    assert [row["step"] for row in rows] == [1, 2]
    assert max(row["sampler/gap_mean"] for row in rows) < 1e-5
    assert all(row["learner/grad_norm"] > 0 for row in rows)


def test_a_process_that_dies_ends_the_engine(tokenizer, tmp_path):
    engine = new_engine(
        save(two_key_heads(tokenizer), tokenizer, tmp_path), tokenizer, context=256, budget=200, tensor_parallel=2
    )
    requests = requests_for(random_states(12))
    with contextlib.closing(engine):
        assert len(replies_of(engine, requests[:2])) == 2
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        with pytest.raises(RuntimeError, match=r"vLLM failed while generating \d+ replies with weights of version 0: "):
            replies_of(engine, requests)
    assert multiprocessing.active_children() == []


HANGING = """
import sys, time
from transformers import AutoTokenizer
from turns import random_states, replies_of, requests_for
from vllm_models import new_engine

if __name__ == "__main__":
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    policy = new_engine(sys.argv[1], tokenizer, context=256, tensor_parallel=2, stall_seconds=100.0)
    print(len(replies_of(policy, requests_for(random_states(7)))), "replies", flush=True)
    policy._watchdog._seconds = 2.0
    policy._engine.step = lambda: policy._engine.collective_rpc(lambda worker: time.sleep(1000))
    policy.submit(requests_for(random_states(2)))
    policy.poll()
"""


def test_where_a_process_hangs_all_are_ended(tokenizer, tmp_path):
    """A caller that reads the program's output until its end would wait for the processes too."""
    script = tmp_path / "hanging.py"
    script.write_text(HANGING)
    ended = subprocess.run(
        [sys.executable, str(script), save(two_key_heads(tokenizer), tokenizer, tmp_path / "model")],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (ended.returncode, ended.stdout) == (1, "7 replies\n"), ended.stderr
    assert "vLLM has stalled while generating 2 replies with weights of version 0" in ended.stderr
    assert "WARNING" not in ended.stderr
