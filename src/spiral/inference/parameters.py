"""The names of a model's parameters, against which new weights are checked.

transformers may store a layer in another form than the files: the experts of a mixture are many matrices in the files
and one tensor in memory. vLLM takes new weights by the names in the files, and may put weights with other names in the
wrong tensor without an error. Such a model is therefore refused.

Not supported: mapping the names in memory back to those of the files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

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
        self._shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        owners = {id(parameter): name for name, parameter in model.named_parameters()}
        self._tied = {
            name: owners[id(parameter)]
            for name, parameter in model.named_parameters(remove_duplicate=False)
            if name not in self._shapes
        }

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
        """The weights in `dtype`, tied ones under all their names, because vLLM may keep a copy for each.

        Raises:
            ValueError: As `checked`.
        """
        for name, weight in self.checked(weights):
            given = weight.detach().to(dtype)
            yield name, given
            for other, owner in self._tied.items():
                if owner == name:
                    yield other, given

    def check_files(self, directory: str) -> None:
        """Raises `ValueError` when the files in `directory` name the weights differently from transformers."""
        try:
            stored = _stored_names(directory)
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise ValueError(f"cannot read the names of the weights of model {directory!r}: {error}") from error
        if stored is None:
            raise ValueError(
                f"vLLM needs the weight names in {WEIGHTS}, which model {directory!r} does not have; save the model"
                " with save_pretrained, or set engine.kind to 'transformers'"
            )
        # Files may leave out the prefix of the model without its head, and keep a tied weight under any of its names.
        stored |= {self._prefix + name for name in stored}
        stored |= {self._tied[name] for name in stored & self._tied.keys()}
        unknown = sorted(self._shapes.keys() - stored)
        if unknown:
            raise ValueError(
                f"vLLM takes new weights by the names in the model's files, and {directory!r} has"
                f" {len(unknown)} weights that transformers holds in another form, such as {unknown[0]!r}, as it holds"
                " the experts of a mixture; expected equal names; set engine.kind to 'transformers'"
            )


def _stored_names(directory: str) -> set[str] | None:
    """The names of the weights in a model's safetensors files; None without such files."""
    index = _file(directory, INDEX)
    if index is not None:
        return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    weights = _file(directory, WEIGHTS)
    if weights is None:
        return None
    with safe_open(weights, framework="pt") as stored:
        return set(stored.keys())


def _file(directory: str, name: str) -> Path | None:
    file = Path(directory) / name
    return file if file.is_file() else None
