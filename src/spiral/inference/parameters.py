"""The names of a model's parameters, against which new weights are checked, and the form in which files hold them.

transformers may hold a layer in another form than the files: the experts of a mixture are many matrices in the files
and one tensor in memory. vLLM takes new weights by the names in the files, and may put weights with other names in the
wrong tensor without an error. So every weight is given to it as `save_pretrained` would write it, one weight at a time,
and a model whose files have other names is refused.

Not supported: a weight in the files that takes several of those in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from spiral.models.files import read_config
from spiral.models.loading import context_limit

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


class ParameterNames:
    """Names and shapes of a model's parameters, and which of them are tied."""

    def __init__(self, model: Any) -> None:
        """Reads names and shapes; the model may be one without weights."""
        self.config = model.config
        context_limit(self.config, "the vLLM engine")
        self.count = sum(parameter.numel() for parameter in model.parameters())
        self._prefix = f"{model.base_model_prefix}."
        self._model = model
        self._shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        owners = {id(parameter): name for name, parameter in model.named_parameters()}
        self._tied = {
            name: owners[id(parameter)]
            for name, parameter in model.named_parameters(remove_duplicate=False)
            if name not in self._shapes
        }
        self._converted: set[str] = set()
        self._constants: dict[str, Tensor] = {}

    @classmethod
    def read(cls, directory: str) -> ParameterNames:
        """The names of the model in `directory`, from its configuration alone."""
        from transformers import AutoModelForCausalLM

        config = read_config(directory, directory)
        with torch.device("meta"):
            return cls(AutoModelForCausalLM.from_config(config, trust_remote_code=False))

    def checked(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Passes the weights through, each tied one once.

        Raises:
            ValueError: A name or shape is not the model's, or, at the end, weights are missing.
        """
        missing = set(self._shapes)
        for name, weight in weights:
            if name in self._tied:
                continue
            if weight.shape != self._shapes.get(name):
                expected = f"shape {tuple(self._shapes[name])}" if name in self._shapes else "no weight of that name"
                raise ValueError(f"got a weight {name!r} of shape {tuple(weight.shape)}; expected {expected}")
            missing.discard(name)
            yield name, weight
        if missing:
            raise ValueError(f"{len(missing)} weights are missing, for example {min(missing)!r}")

    def complete(self, weights: Iterable[tuple[str, Tensor]], dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
        """The weights in `dtype` as the files hold them, after `check_files`.

        Tied ones have all their names, because vLLM may keep a copy for each. Tensors of the files that training does
        not change come first, since vLLM may lose those that it is not given.

        Raises:
            ValueError: As `checked`.
        """
        yield from self._constants.items()
        for name, weight in self.checked(weights):
            given = weight.detach().to(dtype)
            yield from self._as_stored(name, given)
            for other, owner in self._tied.items():
                if owner == name:
                    yield other, given

    def _as_stored(self, name: str, weight: Tensor) -> Iterable[tuple[str, Tensor]]:
        """The names and tensors that `save_pretrained` writes for a weight."""
        if name not in self._converted:
            return [(name, weight)]
        converted: Mapping[str, Tensor] = revert_weight_conversion(self._model, {name: weight})
        return converted.items()

    def _names_as_stored(self, directory: str) -> set[str]:
        """The names that `save_pretrained` gives the weights. Raises `ValueError` where it needs several at once."""
        empty = {name: torch.empty(shape, device="meta") for name, shape in self._shapes.items()}
        whole = {name: tuple(weight.shape) for name, weight in revert_weight_conversion(self._model, empty).items()}
        self._converted = {name for name, shape in self._shapes.items() if whole.get(name) != tuple(shape)}
        found: dict[str, tuple[int, ...]] = {}
        try:
            for name, weight in empty.items():
                found |= {stored: tuple(part.shape) for stored, part in self._as_stored(name, weight)}
        except Exception:  # the conversions of a family may raise anything
            found = {}
        if found != whole:
            raise ValueError(
                f"transformers joins several weights of model {directory!r} when it saves them, such as"
                f" {min(whole.keys() ^ found.keys(), default='')!r}, and vLLM is given them one at a time; set"
                " engine.kind to 'transformers'"
            )
        return set(whole)

    def check_files(self, directory: str) -> None:
        """Raises `ValueError` when the files in `directory` name the weights differently from `save_pretrained`."""
        needed = self._names_as_stored(directory)
        constants = self._model.state_dict().keys() - self._shapes.keys() - self._tied.keys()
        try:
            files = _stored_files(directory)
            self._constants = _read(constants & files.keys(), files) if files else {}
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise ValueError(f"cannot read the names of the weights of model {directory!r}: {error}") from error
        if files is None:
            raise ValueError(
                f"vLLM needs the weight names in {WEIGHTS}, which model {directory!r} does not have; save the model"
                " with save_pretrained, or set engine.kind to 'transformers'"
            )
        # Files may leave out the prefix of the model without its head, and keep a tied weight under any of its names.
        stored = set(files)
        stored |= {self._prefix + name for name in stored}
        stored |= {self._tied[name] for name in stored & self._tied.keys()}
        unknown = sorted(needed - stored)
        if unknown:
            raise ValueError(
                f"vLLM takes new weights by the names in the model's files, and those in {directory!r} do not have"
                f" {len(unknown)} of the {len(needed)} names that transformers would write, such as {unknown[0]!r};"
                " save the model with save_pretrained, or set engine.kind to 'transformers'"
            )


def _stored_files(directory: str) -> dict[str, Path] | None:
    """The safetensors file of each weight of a model, by the weight's name; None without such files."""
    index = _file(directory, INDEX)
    if index is not None:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return {name: Path(directory) / file for name, file in names.items()}
    weights = _file(directory, WEIGHTS)
    if weights is None:
        return None
    with safe_open(weights, framework="pt") as stored:
        return dict.fromkeys(stored.keys(), weights)


def _read(names: Iterable[str], files: Mapping[str, Path]) -> dict[str, Tensor]:
    """Some tensors of a model's files."""
    found = {}
    for name in sorted(names):
        with safe_open(files[name], framework="pt") as stored:
            found[name] = stored.get_tensor(name)
    return found


def _file(directory: str, name: str) -> Path | None:
    file = Path(directory) / name
    return file if file.is_file() else None
