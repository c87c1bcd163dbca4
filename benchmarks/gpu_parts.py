"""The parts of the benchmark of a GPU: what each measures, row by row.

A part gets a `Plan`, a directory for its files and a `Sheet`, on which it writes its settings and then row after row,
each as soon as it is measured. It runs in a process of its own (`gpu.py`), so that a part that runs out of memory or
time, or breaks the device's context, costs no other part anything.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks.common import (
    GIB,
    Row,
    attempt,
    clock,
    free_memory,
    matmul_rate,
    peak_memory,
    published_peak,
    resident,
)
from benchmarks.gpu_inputs import (
    HOT,
    LARGE,
    SMALL,
    MadeUpCodec,
    Plan,
    ends_for,
    long_batch,
    mixed_batch,
    model_on_disk,
    random_model,
    shape_config,
    shape_of,
)
from benchmarks.learner import about, flop, layout_rows, memory_rows
from benchmarks.rollout import offline_transformers, offline_vllm, row_cells, timed_rows
from benchmarks.scaling_checks import prime_rl_mfu
from benchmarks.spiral_step import StepClock
from spiral.inference.base import LanguagePolicy
from spiral.inference.engines import Weights, make_policy
from spiral.inference.settings import EngineConfig, vllm_installed
from spiral.inference.texts import MIN_ROWS
from spiral.inference.transformers import TransformersPolicy
from spiral.launch import resume
from spiral.launch.local import LocalRun
from spiral.models.loading import LanguageModel, cast_parameters
from spiral.models.nano.tokenizer import build_tokenizer
from spiral.models.settings import ModelConfig
from spiral.policies import SamplingConfig
from spiral.runs.recipe import Recipe, load_recipe
from spiral.text import PromptConfig
from spiral.training.learner import Learner
from spiral.training.loop import Hooks, train
from spiral.training.settings import LearnerConfig, LossConfig

RECIPE = "qwen3-0.6b-1gpu"
NO_TIME = "no time left"
NO_VLLM = "vLLM is not installed"
UPDATES = (
    (SMALL, 0, True, False), (SMALL, 1, True, False), (LARGE, 0, True, False), (LARGE, 1, True, False),
    (SMALL, 0, True, True), (LARGE, 0, True, True), (SMALL, 1, False, False),
)  # fmt: skip
"""Model, which of the plan's lengths, whether activations are computed twice, and whether blocks are compiled; the slow
compiler last."""
PUBLISHED: tuple[Row, ...] = tuple(
    {
        "update": f"prime-rl, {model}, {kind}, 16,384 tokens, recomputed, compiled, FlashAttention {attention}",
        "device": f"{gpus} x {card}", "s/step": seconds, "tokens/s": rate * 1000 / gpus, "MFU": "-",
        "MFU, prime-rl's count": f"{mfu}%", "utilisation": "-", "peak GiB": memory,
    }
    for model, kind, attention, gpus, card, seconds, rate, mfu, memory in (
        ("Qwen3-0.6B", "RL", 3, 1, "H100", 2 * 1.38, 11.90, 11.1, 12.5),
        ("Qwen3-0.6B", "supervised", 3, 1, "H100", 2 * 0.64, 25.49, 23.7, 52.8),
        ("Qwen3-4B", "RL", 3, 8, "H200", 2 * 4.78, 27.44, 14.7, 17.1),
        ("Qwen3-4B", "supervised", 2, 8, "H200", 2 * 2.47, 53.14, 28.4, 54.6),
    )
)  # fmt: skip
"""The rows of prime-rl's benchmarks/results/BENCHMARKS.md of 2026-02-07 for full fine-tuning of these shapes. A step is
two micro-batches of 16,384 tokens on every GPU; tokens/s and memory are here those of one GPU. It has none at 4,096."""


class Sheet:
    """Where a part writes what it has measured: lines of JSON, so that nothing is lost when it is killed."""

    def __init__(self, file: Path, deadline: float) -> None:
        """`deadline` is a time of `time.monotonic`, after which no row is begun."""
        self._file = file
        self._deadline = deadline
        self._columns: list[str] = []

    def time_over(self) -> bool:
        """Whether to begin nothing more."""
        return time.monotonic() > self._deadline

    def settings(self, **settings: object) -> None:
        """What is said of the rows beside them."""
        self._write({"settings": {key.replace("_", " "): value for key, value in settings.items()}})

    def columns(self, *names: str) -> None:
        """The columns of the table; the first one says what a row is."""
        self._columns = list(names)
        self._write({"columns": self._columns})

    def row(self, label: str, work: Callable[[], Row]) -> bool:
        """One row, whether its work succeeds or not; returns whether it did."""
        return self.rows(label, lambda: iter([{self._columns[0]: label, **work()}]))

    def rows(self, label: str, work: Callable[[], Iterator[Row]]) -> bool:
        """Rows as they are measured; one that fails ends them with a row that says so."""
        if self.time_over():
            self._write({"row": self._blank(label, NO_TIME)})
            return False
        self._write({"begin": label})

        def write_all() -> None:
            for row in work():
                self._write({"row": {name: row.get(name, "-") for name in self._columns}})

        failed = attempt(write_all)
        if isinstance(failed, str):
            self._write({"row": self._blank(label, failed)})
        return failed is None

    def skip(self, label: str, why: str) -> None:
        """A row that is not measured."""
        self._write({"row": self._blank(label, why)})

    def _blank(self, label: str, why: str) -> Row:
        return blank(self._columns, label, why)

    def _write(self, line: Row) -> None:
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), file=sys.stderr, flush=True)


def blank(columns: Sequence[str], label: str, why: str) -> Row:
    """A row with a reason in place of what it would hold."""
    first, *others = columns
    return {first: label, **dict.fromkeys(others, why)}


def updates(plan: Plan, _directory: Path, sheet: Sheet) -> None:
    """Whole updates (forward, backward, AdamW) in the shapes and settings of prime-rl's published table."""
    rate = matrix_rate(plan)
    peak = published_peak(plan.device)
    sheet.settings(
        a_step=f"two micro-batches of {plan.lengths[0]} tokens, one optimizer step, mean of {plan.updates} after one",
        weights="random, float32", compute="bfloat16", layout="packed", matrix_rate=f"{rate / 1e12:.1f} TFLOP/s",
        published_peak="unknown" if peak is None else f"{peak / 1e12:.0f} TFLOP/s",
    )  # fmt: skip
    sheet.columns(
        "update", "device", "s/step", "tokens/s", "MFU", "MFU, prime-rl's count", "utilisation", "peak GiB"
    )  # fmt: skip
    for row in PUBLISHED:
        sheet.row(str(row["update"]), partial(dict, row))
    for name, which, recomputed, compiled in UPDATES:
        length = plan.lengths[which]
        label = (
            f"SPIRAL, {name.partition('/')[2].removesuffix('-Base')}, {length:,} tokens,"
            f" {'recomputed' if recomputed else 'activations kept'}{', compiled' if compiled else ''}"
        )
        sheet.row(label, partial(update_cells, plan, name, length, recomputed, compiled, rate, peak))
        if compiled:
            torch.compiler.reset()  # what was compiled holds on to the model


def matrix_rate(plan: Plan) -> float:
    """FLOP/s of a matrix product in bfloat16; a rehearsal's is small, since some CPUs are very slow in bfloat16."""
    shapes = ((64, 64, 64),) if plan.tiny else None
    return matmul_rate(torch.bfloat16, torch.get_num_threads(), plan.device, shapes=shapes)


def update_cells(
    plan: Plan, name: str, length: int, recomputed: bool, compiled: bool, rate: float, peak: float | None
) -> Row:
    """Updates after a first one, which compiles and takes memory."""
    micro_batch = plan.lengths[0] if recomputed else plan.lengths[-1]
    model = random_model(name, plan)
    batch = long_batch(model.config.vocab_size, 2 * plan.lengths[0] // length, length)
    work, tokens = flop(model, batch), int(batch.lengths_S.sum())
    shape = shape_of(model.config)
    learner = Learner(
        model,
        config=LearnerConfig(
            epochs=1, layout="packed", tokens_per_microbatch=micro_batch, gradient_checkpointing=recomputed
        ),
        loss_config=LossConfig(),
        sampling=SamplingConfig(max_new_tokens=length),
        total_steps=10,
        seed=0,
        compute="bfloat16",
        compiled=compiled,
    )
    learner.update(batch)
    with peak_memory(plan.device) as memory, clock() as timing:
        for _ in range(plan.updates):
            learner.update(batch)
    seconds = timing.seconds / plan.updates
    theirs = prime_rl_mfu(shape, length, tokens / seconds, 1, peak) if peak else None
    return {
        "device": torch.cuda.get_device_name(plan.device) if plan.device.startswith("cuda") else plan.device,
        "s/step": seconds,
        "tokens/s": tokens / seconds,
        "MFU": "-" if peak is None else f"{work / seconds / peak:.1%}",
        "MFU, prime-rl's count": "-" if theirs is None else f"{theirs:.1%}",
        "utilisation": f"{work / seconds / rate:.1%}",
        "peak GiB": memory.peak / GIB,
    }


def rollout(plan: Plan, directory: Path, sheet: Sheet) -> None:
    """Self-play with the engines, by replies in flight, against lock-step and the engine's own offline rate."""
    vocabulary = shape_config(SMALL, plan).vocab_size
    sheet.settings(
        model=SMALL, dtype="bfloat16", prompt_tokens=plan.prompt, response_budget=plan.budget,
        rows_of_a_batch=f"at least {MIN_ROWS}",
        replies="transformers: end by chance, after half of the budget on average; vLLM: have the whole budget",
    )  # fmt: skip
    sheet.columns("games", "played", "seconds", "games/s", "tokens/s", "against one game")

    def rows(engine: str, start: Callable[[], LanguagePolicy], offline: Any) -> Iterator[Row]:
        first = None
        for timing in timed_rows(start(), plan.in_flight, lambda: None, offline):
            first = first or timing
            yield {**row_cells(timing, first), "games": f"{engine}, {timing.label}"}

    def transformers() -> LanguagePolicy:
        model = random_model(SMALL, plan)
        cast_parameters(model, torch.bfloat16)
        policy = TransformersPolicy(
            model, MadeUpCodec(vocabulary, plan.prompt), sampling(plan), context=plan.prompt + plan.budget
        )
        policy.stop_ids = frozenset(range(ends_for(vocabulary, plan.budget)))
        return policy

    sheet.rows("transformers", lambda: rows("transformers", transformers, offline_transformers))
    with_vllm(plan, directory, sheet, lambda policy: rows("vLLM", lambda: policy, offline_vllm))


def with_vllm(
    plan: Plan, directory: Path, sheet: Sheet, rows: Callable[[LanguagePolicy], Iterator[Row]], *, sleep: bool = False
) -> None:
    """The rows of vLLM with the small model, where it is installed."""
    if not vllm_installed():
        sheet.skip("vLLM", NO_VLLM)
        return

    def started() -> Iterator[Row]:
        from spiral.inference.vllm import VllmPolicy

        policy = VllmPolicy(
            str(model_on_disk(directory, plan)),
            MadeUpCodec(shape_config(SMALL, plan).vocab_size, plan.prompt),
            sampling(plan),
            config=EngineConfig(kind="vllm", context=plan.prompt + plan.budget, memory_share=0.3, sleep=sleep),
            compute="bfloat16",
        )
        policy.stop_ids = frozenset()
        try:
            yield from rows(policy)
        finally:
            policy.close()

    sheet.rows("vLLM", started)


def sampling(plan: Plan) -> SamplingConfig:
    """Every token as likely as any other."""
    return SamplingConfig(max_new_tokens=plan.budget, temperature=HOT)


def publishing(plan: Plan, directory: Path, sheet: Sheet) -> None:
    """New weights from the learner to the engine in its process, and through a file."""
    sheet.settings(
        precision="float32 to bfloat16", processes="one",
        repetitions=f"{plan.publishings} in place and 1 by a file, after one that does not count",
    )  # fmt: skip
    sheet.columns("way", "seconds, fastest", "seconds, median", "GB/s", "arrived")
    for name in (SMALL, LARGE):
        short = name.partition("/")[2].removesuffix("-Base")
        pair: list[tuple[Learner, LanguagePolicy]] = []
        for way in (in_place, by_file):
            label = f"{short}, {'in place' if way is in_place else 'by a file, written and read'}"
            repeats = plan.publishings if way is in_place else 1  # a file of 4B takes long
            sheet.row(label, partial(publishing_cells, plan, name, pair, partial(way, directory), repeats))
        pair.clear()
        free_memory()

    def vllm_rows(policy: LanguagePolicy) -> Iterator[Row]:
        learner = plain_learner(random_model(SMALL, plan), plan)
        yield {
            "way": "Qwen3-0.6B, in place, vLLM",
            **publishing_times(plan.publishings, learner, policy, in_place_of),
            "arrived": "-",
        }

    with_vllm(plan, directory, sheet, vllm_rows)


def plain_learner(model: Any, plan: Plan) -> Learner:
    """A learner in bfloat16 around a model."""
    return Learner(
        model, config=LearnerConfig(), loss_config=LossConfig(), sampling=sampling(plan), total_steps=10, seed=0,
        compute="bfloat16",
    )  # fmt: skip


def engine_of(name: str, plan: Plan, model: Any) -> LanguagePolicy:
    """The transformers engine beside a learner: a copy in bfloat16."""
    loaded = LanguageModel(model=model, tokenizer=build_tokenizer(), prompt=None)
    return make_policy(
        EngineConfig(), ModelConfig(path=name, device=plan.device, compute="bfloat16"), loaded,
        PromptConfig(template="qwen3"), sampling(plan), weights=Weights.SHARED,
    )  # fmt: skip


Way = Callable[[Learner, LanguagePolicy], None]


def in_place_of(learner: Learner, policy: LanguagePolicy) -> None:
    """Copies the weights into the engine's parameters."""
    policy.load_weights(learner.weights(), policy.version + 1)


def in_place(_directory: Path, learner: Learner, policy: LanguagePolicy) -> None:
    """As a run does in one process."""
    in_place_of(learner, policy)


def by_file(directory: Path, learner: Learner, policy: LanguagePolicy) -> None:
    """As a system does that reloads its engine from a checkpoint."""
    file = directory / "published.safetensors"
    save_file({name: weight.to(torch.bfloat16).contiguous() for name, weight in learner.weights()}, file)
    policy.load_weights(load_file(file).items(), policy.version + 1)
    file.unlink()


def publishing_cells(plan: Plan, name: str, pair: list[tuple[Learner, LanguagePolicy]], way: Way, repeats: int) -> Row:
    """Publishes, and checks what has arrived; the learner and the engine are kept in `pair` for the next way."""
    if not pair:
        model = random_model(name, plan)
        policy = engine_of(name, plan, model)
        pair.append((plain_learner(model, plan), policy))
    ((learner, engine),) = pair
    assert isinstance(engine, TransformersPolicy)
    parameters = dict(engine.model.named_parameters())
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.zero_()
    cells = publishing_times(repeats, learner, engine, way)
    arrived = all(torch.equal(parameters[key], weight.to(torch.bfloat16)) for key, weight in learner.weights())
    return {**cells, "arrived": "all equal" if arrived else "NOT EQUAL"}


def publishing_times(repeats: int, learner: Learner, policy: LanguagePolicy, way: Way) -> Row:
    """Seconds of some repetitions, after one that does not count."""
    size = sum(2 * weight.numel() for _, weight in learner.weights())
    seconds = []
    for _ in range(1 + repeats):
        with clock() as timing:
            way(learner, policy)
        seconds.append(timing.seconds)
    best = min(seconds[1:])
    return {"seconds, fastest": best, "seconds, median": median(seconds[1:]), "GB/s": size / best / 1e9}


def sleeping(plan: Plan, directory: Path, sheet: Sheet) -> None:
    """The engine gives its memory to the learner and takes it back."""
    sheet.settings(
        repetitions="fastest of 2, after one that does not count", memory="held by this process on the device"
    )
    sheet.columns("engine", "falls asleep, s", "wakes up, s", "awake GiB", "asleep GiB", "awake again GiB")

    def transformers(name: str) -> Row:
        model = random_model(name, plan)
        cast_parameters(model, torch.bfloat16)
        codec = MadeUpCodec(model.config.vocab_size, plan.prompt)
        return sleep_cells(plan, TransformersPolicy(model, codec, sampling(plan), context=plan.prompt + plan.budget))

    for name in (SMALL, LARGE):
        sheet.row(f"transformers, {name.partition('/')[2].removesuffix('-Base')}", partial(transformers, name))

    def vllm_rows(policy: LanguagePolicy) -> Iterator[Row]:
        yield {"engine": "vLLM, Qwen3-0.6B", **sleep_cells(plan, policy)}

    with_vllm(plan, directory, sheet, vllm_rows, sleep=True)


def sleep_cells(plan: Plan, policy: LanguagePolicy) -> Row:
    """Lets the engine sleep and wake."""
    falling, waking, held = [], [], (0, 0, 0)
    for _ in range(3):
        before = held_bytes(plan.device)
        with clock() as down:
            policy.sleep()
        asleep = held_bytes(plan.device)
        with clock() as up:
            policy.wake()
        falling.append(down.seconds)
        waking.append(up.seconds)
        held = (before, asleep, held_bytes(plan.device))
    names = ("awake GiB", "asleep GiB", "awake again GiB")
    return {
        "falls asleep, s": min(falling[1:]),
        "wakes up, s": min(waking[1:]),
        **{name: size / GIB for name, size in zip(names, held, strict=True)},
    }


def held_bytes(device: str) -> int:
    """Memory in use on the device, by all processes; on the CPU what this process holds."""
    if not device.startswith("cuda"):
        return resident()
    free, total = torch.cuda.mem_get_info(device)
    return total - free


def resuming(plan: Plan, directory: Path, sheet: Sheet) -> None:
    """A run of the recipe is saved after a step, and taken up again."""
    path, started = directory / "run", time.perf_counter()
    recipe = random_recipe(plan, directory, steps=1)
    sheet.settings(recipe=RECIPE, **changed(recipe))
    sheet.columns("what", "seconds", "GB")
    kept: list[LocalRun] = []

    def begin() -> Row:
        run = new_run(recipe, path)
        run.directory.start(run.recipe.model_dump())
        kept.append(run)
        do_steps(run, StepClock())
        return {"seconds": time.perf_counter() - started}

    def save() -> Row:
        (run,) = kept
        with clock() as timing:
            run.save(1)
        files = [file for file in (path / "checkpoints" / "step-000001").rglob("*") if file.is_file()]
        return {"seconds": timing.seconds, "GB": sum(file.stat().st_size for file in files) / 1e9}

    def take_up() -> Row:
        (run,) = kept
        before = {name: weight.to("cpu", copy=True) for name, weight in run.learner.weights()}
        run.close()
        kept.clear()
        del run
        free_memory()
        with clock() as timing:
            again = resume(path, 2)
        assert isinstance(again, LocalRun)
        kept.append(again)
        if not all(torch.equal(before[name], weight.cpu()) for name, weight in again.learner.weights()):
            raise RuntimeError("the resumed run has other weights than were saved")
        return {"seconds": timing.seconds}

    def step() -> Row:
        (run,) = kept
        with clock() as timing:
            do_steps(run, StepClock())
        return {"seconds": timing.seconds}

    whole = (
        sheet.row("start, and a first step", begin)
        and sheet.row("the checkpoint is written", save)
        and sheet.row("resumed, all weights equal", take_up)
    )
    if whole:
        sheet.row("the next step", step)
    for run in kept:
        run.close()


def recipe_steps(plan: Plan, directory: Path, sheet: Sheet) -> None:
    """Steps of a built-in recipe at random weights: games, an update, new weights for the engine."""
    recipe = random_recipe(plan, directory, steps=plan.steps)
    sheet.settings(recipe=RECIPE, engine=recipe.engine.kind, **changed(recipe))
    sheet.columns(
        "run", "steps", "first s", "s/step", "playing s", "learning s", "steps/s", "games/s", "sampled tokens/s",
        "learned tokens/s", "peak GiB",
    )  # fmt: skip

    def cells() -> Row:
        run = new_run(recipe, directory / "steps")
        times = StepClock()
        try:
            with peak_memory(plan.device) as memory:
                do_steps(run, times, stop=sheet.time_over)
        finally:
            run.close()
        first, *others = times.steps
        counted = others or [first]
        seconds, played = (mean(getattr(step, name) for step in counted) for name in ("seconds", "generate_seconds"))
        sampled = mean(step.response_tokens for step in counted)
        learned = sampled + mean(step.prompt_tokens for step in counted)
        return {
            "steps": f"{len(times.steps)} of {plan.steps}",
            "first s": first.seconds,
            "s/step": seconds,
            "playing s": played,
            "learning s": seconds - played,
            "steps/s": 1 / seconds,
            "games/s": counted[0].games / seconds,
            "sampled tokens/s": sampled / played,
            "learned tokens/s": recipe.learner.epochs * learned / max(1e-9, seconds - played),
            "peak GiB": memory.peak / GIB,
        }

    sheet.row("random weights", cells)


def random_recipe(plan: Plan, directory: Path, steps: int) -> Recipe:
    """The recipe with a model of random weights, and as many turns a step as its games have."""
    settings = {
        "model.path": model_on_disk(directory, plan), "model.device": plan.device, "run.steps": steps,
        "run.trackers": "[]", "engine.kind": "vllm" if vllm_installed() else "transformers",
        "sampling.max_new_tokens": plan.budget, "sampling.temperature": HOT, "selfplay.episodes_per_step": plan.games,
    }  # fmt: skip
    return load_recipe(RECIPE, [f"{key}={value}" for key, value in settings.items()])


def changed(recipe: Recipe) -> dict[str, object]:
    """What is said of that recipe."""
    return {
        "games_a_step": f"{recipe.selfplay.episodes_per_step} of one turn (the recipe: 33, of about 127 turns)",
        "response_budget": f"{recipe.sampling.max_new_tokens} (the recipe: 1,024)",
        "left_out": "checks of prompts and memory, evaluation, files of the run",
    }


def new_run(recipe: Recipe, path: Path) -> LocalRun:
    """A run in this process."""
    free_memory()
    return LocalRun.from_recipe(recipe, path)


def do_steps(run: LocalRun, times: StepClock, stop: Callable[[], bool] = lambda: False) -> None:
    """Trains to the recipe's last step, or until it is time to stop."""
    hooks = Hooks(prepare=run.prepare, stop_requested=stop)
    train(run.recipe.run, run.recipe.credit, run.estimator, run.collector, run.learner, run.publish, times, hooks)


def layouts(plan: Plan, _directory: Path, sheet: Sheet) -> None:
    """The learner's layouts on samples of two made-up games, whose prompts begin alike."""
    rate = matrix_rate(plan)
    batch = mixed_batch(shape_config(SMALL, plan).vocab_size, plan.mixed, plan)
    described = about(batch, plan.kept_tokens, rate)
    sheet.settings(model=SMALL, **{key.replace(" ", "_"): value for key, value in described.items()})
    sheet.columns("layout", "seconds", "tokens/s", "against one padded block", "utilisation")
    sheet.rows("layouts", lambda: iter(layout_rows(lambda: random_model(SMALL, plan), batch, plan.kept_tokens, rate)))


def logprob_memory(plan: Plan, _directory: Path, sheet: Sheet) -> None:
    """The memory of the log-probabilities, with all logits at once and in chunks."""
    sheet.settings(model=SMALL, vocabulary=shape_config(SMALL, plan).vocab_size)
    sheet.columns("log-probabilities", "added memory", "share of all at once", "seconds")
    sheet.rows("log-probabilities", lambda: iter(memory_rows(random_model(SMALL, plan), plan.scored)))


@dataclasses.dataclass(frozen=True)
class Part:
    """One part, and its share of the time in seconds of ten minutes."""

    work: Callable[[Plan, Path, Sheet], None]
    seconds: float
    title: str


PARTS = {
    "mfu": Part(updates, 200, "Whole updates, against prime-rl's published ones"),
    "rollout": Part(rollout, 85, "Self-play"),
    "publish": Part(publishing, 40, "New weights for the engine"),
    "sleep": Part(sleeping, 25, "An engine that sleeps and wakes"),
    "resume": Part(resuming, 50, "A run that is saved and resumed"),
    "recipe": Part(recipe_steps, 120, "Steps of a recipe"),
    "layouts": Part(layouts, 30, "Layouts of a batch"),
    "memory": Part(logprob_memory, 20, "Memory of the log-probabilities"),
}
