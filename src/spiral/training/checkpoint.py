"""Checkpoints: a directory that Hugging Face loads as it is, plus the state that training resumes from exactly.

    step-000100/   config.json, model.safetensors, tokenizer files, spiral.json    load with from_pretrained
                   training/optimizer.safetensors, reference/, state.json          the rest of the training state
                   training/adapter.safetensors                                    with LoRA: its layers
                   training/values.safetensors                                     with a value head: it, its optimizer
                   manifest.json                                                   the hash of every file
    latest         a symbolic link to the last complete one; where there are no links, a text file with its name

A snapshot is the model alone, in the precision in which replies are generated: the first line above and the manifest.

There is no generator state to save: every random draw is a function of the seed and the step (`spiral.core.seeds`).
A checkpoint appears under its name only when it is whole.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spiral.core.files import point_to, remove, set_mode, sha256, write_directory_atomically
from spiral.core.steps import LATEST, MANIFEST, PAST_SELVES, SNAPSHOTS, checkpoints_in, step_name
from spiral.core.versions import versions
from spiral.models.card import CARD, ModelCard, write_card
from spiral.models.files import read_weights

if TYPE_CHECKING:
    from torch import Tensor

    from spiral.training.advantages.base import ValueLearner
    from spiral.training.learner import Learner

STATE = "state.json"
OPTIMIZER = "training/optimizer.safetensors"
ADAPTER = "training/adapter.safetensors"
"""In a separate directory, since vLLM loads every safetensors file beside the model's as a part of it."""
VALUES = "training/values.safetensors"
REFERENCE = "reference"
MODEL_ENTRIES = ("config.json", "model*.safetensors")
"""Patterns of files that the manifest of every snapshot lists."""
ENTRIES = (*MODEL_ENTRIES, OPTIMIZER, STATE)
"""Patterns of files that the manifest of every checkpoint lists."""


def save_checkpoint(
    root: Path,
    *,
    learner: Learner,
    tokenizer: Any,
    card: ModelCard,
    state: Mapping[str, Any],
    value_head: ValueLearner | None = None,
    keep: int = 0,
    check: Callable[[], None] = lambda: None,
) -> Path:
    """Write the checkpoint of the learner's version under `root` and point `latest` to it.

    With several ranks all call this; rank 0 writes, and the others return when it has.

    Args:
        root: The run's directory of checkpoints.
        learner: Whose weights, optimizer and reference are saved.
        tokenizer: That of the model.
        card: How the model is prompted and was trained. Run, step and versions are added here.
        state: Any JSON-ready state (baselines, counters, the recipe).
        value_head: Saved too where there is one.
        keep: If above 0, only the newest `keep` checkpoints stay, and that of step 0.
        check: Raises when this process may no longer write.
    """
    from safetensors.torch import save_file

    path = root / step_name(learner.version)

    def write(directory: Path) -> None:
        _write_model(directory, learner, weights, tokenizer, card, root)
        (directory / OPTIMIZER).parent.mkdir()
        save_file(optimizer, directory / OPTIMIZER)
        if adapter:
            save_file(adapter, directory / ADAPTER)
        if value_head is not None:
            save_file(value_head.tensors(), directory / VALUES)
        if learner.reference is not None:
            learner.reference.save_pretrained(directory / REFERENCE)
        (directory / STATE).write_text(json.dumps({"version": learner.version, **state}, indent=2), encoding="utf-8")
        _write_manifest(directory)

    def put_in_place() -> None:
        check()
        root.mkdir(parents=True, exist_ok=True)
        write_directory_atomically(path, write, check)
        point_to(root / LATEST, path.name)
        if keep:
            _remove_old(root, learner.version, keep)

    with learner.ranks.at(f"writing checkpoint {path.name}"):
        weights, optimizer, adapter = _whole_weights(learner), learner.optimizer_tensors(), learner.adapter_tensors()
        learner.ranks.lead(put_in_place)
    return path


def save_snapshot(
    root: Path,
    *,
    learner: Learner,
    tokenizer: Any,
    card: ModelCard,
    compute: str,
    check: Callable[[], None] = lambda: None,
) -> Path:
    """Write the learner's model alone under `root`, in the precision `compute`: "float32" or "bfloat16".

    `latest` and the checkpoints are not touched. With several ranks all call this, as `save_checkpoint`.
    """
    path = root / step_name(learner.version)

    def write(directory: Path) -> None:
        _write_model(directory, learner, weights, tokenizer, card, root)
        _set_precision(directory / "config.json", compute)
        _write_manifest(directory)

    def put_in_place() -> None:
        check()
        root.mkdir(parents=True, exist_ok=True)
        write_directory_atomically(path, write, check)

    with learner.ranks.at(f"writing snapshot {path.name}"):
        weights = _whole_weights(learner, compute)
        learner.ranks.lead(put_in_place)
    return path


def _write_model(
    directory: Path, learner: Learner, weights: dict[str, Tensor], tokenizer: Any, card: ModelCard, root: Path
) -> None:
    """Write what Hugging Face loads, and the card."""
    learner.model.save_pretrained(directory, state_dict={**weights, **_kept_buffers(learner.model)})
    tokenizer.save_pretrained(directory)
    written = {"run": root.absolute().parent.name, "step": learner.version, "versions": versions()}
    write_card(directory, card.model_copy(update=written))


def _write_manifest(directory: Path) -> None:
    """Write the hash of every file. Gives all files one mode: safetensors makes some that only their owner can read."""
    files = [file for file in sorted(directory.rglob("*")) if file.is_file()]
    for file in files:
        set_mode(file, (directory / CARD).stat().st_mode)
    manifest = {str(file.relative_to(directory)): sha256(file) for file in files}
    (directory / MANIFEST).write_text(_manifest_text(manifest), encoding="utf-8")


def _set_precision(config: Path, compute: str) -> None:
    """Name the precision of the weights in a model's configuration, as engines of others read it."""
    values = json.loads(config.read_text(encoding="utf-8"))
    values["dtype"] = compute
    config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _kept_buffers(model: Any) -> dict[str, Tensor]:
    """Return the numbers that belong to a model's files and are not trained: Gemma 4's scale of each layer, for one."""
    return {
        f"{name}.{own}" if name else own: buffer
        for name, module in model.named_modules()
        for own, buffer in module.named_buffers(recurse=False)
        if own not in module._non_persistent_buffers_set
    }


def _whole_weights(learner: Learner, compute: str = "float32") -> dict[str, Tensor]:
    """Return the plain model's weights on rank 0, on the CPU where there are several ranks; {} on the others."""
    import torch

    dtype = getattr(torch, compute)
    if learner.ranks.size == 1 and dtype == torch.float32:
        return dict(learner.weights())
    kept = {}
    for name, weight in learner.weights():  # gathered one by one, on all ranks
        if learner.ranks.rank == 0:
            kept[name] = weight.to("cpu", dtype)
    return kept


def _remove_old(root: Path, version: int, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints up to `version`, that of step 0, and those that are links."""
    own = [path for step, path in checkpoints_in(root) if 0 < step <= version and not path.is_symlink()]
    for old in own[:-keep]:
        remove(old)


def verify_checkpoint(path: Path) -> None:
    """Raise `ValueError` when a file of the checkpoint is missing or changed; the message names the last good one."""
    fault = _fault(path)
    if fault is None:
        return
    good = next((p.name for _, p in reversed(checkpoints_in(path.parent)) if p != path and _fault(p) is None), None)
    last = f"the last good checkpoint is {good}; " if good else "no other checkpoint is whole; "
    advice = f"remove {path.name} and point 'latest' to {good} to resume" if good else "start a new run"
    if path.parent.name in (SNAPSHOTS, PAST_SELVES):
        last, advice = "", "remove it, or copy it again from where it came"
    raise ValueError(f"checkpoint {path} is damaged: {fault}; {last}{advice}")


def checkpoint_state(path: Path) -> dict[str, Any]:
    """Return the state in a checkpoint: `version`, the number of updates, and what `save_checkpoint` was given.

    Raises `ValueError` when damaged.
    """
    verify_checkpoint(path)
    state: dict[str, Any] = json.loads((path / STATE).read_text(encoding="utf-8"))
    return state


def load_checkpoint(path: Path, learner: Learner, value_head: ValueLearner | None = None) -> dict[str, Any]:
    """Load optimizer, reference and version into `learner`, the value head where there is one, and return the state.

    The learner's model was loaded from `path`, or with LoRA from where the run began; the layers added are put back.
    With several ranks all read it; there may be more or fewer than when it was written. Raises `ValueError` when the
    checkpoint is not whole.
    """
    with learner.ranks.at(f"loading checkpoint {path.name}"):
        return _load(path, learner, value_head)


def _load(path: Path, learner: Learner, value_head: ValueLearner | None) -> dict[str, Any]:
    """Load a checkpoint on this rank."""
    from safetensors.torch import load_file

    state = checkpoint_state(path)
    if (path / ADAPTER).is_file():
        learner.load_adapter_tensors(load_file(path / ADAPTER))
        _check_base(path, learner)
    learner.load_optimizer_tensors(load_file(path / OPTIMIZER))
    if learner.reference is not None:
        if not (path / REFERENCE).is_dir():
            raise ValueError(
                f"checkpoint {path} has no reference model, but loss.kl_coefficient is not 0;"
                " resume with the settings that the run was started with"
            )
        reference = read_weights(type(learner.reference), path / REFERENCE, str(path / REFERENCE))
        learner.load_reference(reference.named_parameters())
    if value_head is not None:
        if not (path / VALUES).is_file():
            raise ValueError(
                f"checkpoint {path} has no value head, which credit.estimator needs; resume with the settings that the"
                " run was started with"
            )
        value_head.load_tensors(load_file(path / VALUES))
    learner.version = int(state["version"])
    return state


def roll_back(path: Path, learner: Learner, value_head: ValueLearner | None = None) -> dict[str, Any]:
    """Put weights, optimizer and reference of a checkpoint back into a learner, and return the state.

    The learner's version stays, since its updates go on. Raises `ValueError` when the checkpoint is not whole.
    """
    version = learner.version
    verify_checkpoint(path)
    if not (path / ADAPTER).is_file():
        learner.load_parameters(dict(read_weights(type(learner.model), path, str(path)).named_parameters()))
    learner.optimizer.state.clear()
    state = load_checkpoint(path, learner, value_head)
    learner.version = version
    return state


def _check_base(path: Path, learner: Learner) -> None:
    """Check that with LoRA the base model and the additions together give the checkpoint's weights."""
    import torch
    from safetensors.torch import load_file

    saved: dict[str, Tensor] = {}
    for file in path.glob("model*.safetensors"):
        saved.update(load_file(file))
    for name, weight in learner.weights():
        if name in saved and not torch.equal(weight.cpu(), saved[name]):
            raise ValueError(
                f"the model that this LoRA run began with has changed: {name!r} is not as in checkpoint {path};"
                " expected the model of model.path as it was"
            )


def _fault(path: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None."""
    try:
        text = (path / MANIFEST).read_bytes().decode("utf-8")
        manifest = json.loads(text)
        entries = ENTRIES if STATE in manifest or OPTIMIZER in manifest else MODEL_ENTRIES
        missing = [entry for entry in entries if not fnmatch.filter(manifest, entry)]
        if missing:
            return f"{MANIFEST} lists no {missing[0]}"
        if text != _manifest_text(manifest):
            return f"{MANIFEST} is not as it was written"
        for name, digest in manifest.items():
            if sha256(path / name) != digest:
                return f"{name} does not match its recorded hash"
    except OSError as error:
        return f"{Path(error.filename or MANIFEST).name} cannot be read"
    except (ValueError, TypeError, AttributeError, RecursionError):
        return f"{MANIFEST} is not readable"
    return None


def _manifest_text(manifest: Mapping[str, str]) -> str:
    """Return the text of a manifest. It has no hash itself, so any other form of it counts as damage."""
    return json.dumps(manifest, indent=2)
