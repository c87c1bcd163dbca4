"""vLLM as an engine (Kwon et al., 2023, arXiv 2309.06180): continuous batching with paged keys and values and a cache
of shared prefixes, inside this process.

Token ids go in and come out; vLLM sees no tokenizer and has no sampling default of its own. New weights are copied into
the running engine. An engine that fails, makes no progress or hangs ends the run with what it was doing.

Asleep, a vLLM on a GPU holds neither keys and values nor weights: those wait in the memory of the CPU (level 1 of its
sleep). Level 2 would drop them, since newer ones are about to come; but then an engine that is asked for something else
first would answer with no weights at all.

Left out: an engine in a process of its own, several devices for one model, quantised weights. A reply has its own seed,
but unlike with the `transformers` engine the rounding of a batch can change it.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from spiral.policies.base import TurnReply
from spiral.policies.engines import EngineConfig
from spiral.policies.head import HeadPrecision, stated_precision
from spiral.policies.language import LanguagePolicy, OpenTurn, stop_token_ids
from spiral.policies.sampling import SamplingConfig
from spiral.policies.vllm_engine import Watchdog, quiet, start_engine, stop_engine
from spiral.text import ChatCodec

LEAST_TEMPERATURE = 0.01
"""Below it, vLLM samples at this temperature."""

SLEEP_LEVEL = 1
"""Weights wait in the memory of the CPU; keys and values are dropped."""

SPARE_STEPS = 100
"""Steps that may compute nothing before an engine counts as stuck."""


class VllmPolicy(LanguagePolicy):
    """Plays with a causal language model run by vLLM; holds at most `config.max_rows` replies in flight."""

    def __init__(
        self,
        directory: str,
        codec: ChatCodec,
        sampling: SamplingConfig,
        *,
        config: EngineConfig,
        compute: str,
        head: HeadPrecision = "compute",
        name: str = "policy",
    ) -> None:
        """Loads the model in `directory`, or of that Hugging Face name, in the precision `compute`, with such a head.

        Raises `ValueError` when vLLM is not installed, cannot run the model here, or cannot sample as asked.
        """
        _check_temperature(sampling)
        self._parameters = ParameterNames(directory)
        limit = self._parameters.context
        super().__init__(codec, sampling, name=name, context=min(config.context or limit, limit))
        self._stop_ids = stop_token_ids(codec.tokenizer)
        self.precision = stated_precision(compute, head)
        self._dtype: torch.dtype = getattr(torch, compute)
        self._pending: dict[str, OpenTurn] = {}
        self._asked = 0
        self._engine = start_engine(directory, self.context, config, compute, head, self._parameters.count)
        self._can_sleep = config.sleep
        self._watchdog = Watchdog(config.stall_seconds)
        self._stop = weakref.finalize(self, _stop, self._engine, self._watchdog)

    def _generate(self, turns: Sequence[OpenTurn]) -> None:
        """Gives turns to the engine, which queues those that it has no room for."""
        from vllm.inputs import tokens_input

        _check_temperature(self.sampling)
        self.wake()
        with self._reported(f"taking on {len(turns)} prompts"):
            for turn in turns:
                request, self._asked = str(self._asked), self._asked + 1
                prompt = tokens_input(turn.prompt_ids.tolist())
                self._engine.add_request(request, prompt, self._sampling_parameters(turn))
                self._pending[request] = turn

    def poll(self) -> list[TurnReply]:
        """Steps the engine until a reply is done; returns all that are."""
        # Every step computes a token of some reply, but for a few in which a batch only begins or ends.
        steps = SPARE_STEPS + sum(len(turn.prompt_ids) + turn.budget for turn in self._pending.values())
        while self._pending and not self._done:
            doing = f"generating {len(self._pending)} replies with weights of version {self.version}"
            with self._reported(doing):
                if steps == 0:
                    raise RuntimeError("it has made more steps than there are tokens to compute, and finished no reply")
                for output in self._engine.step():
                    self._take(output)
            steps -= 1
        return self._take_done()

    def cancel(self) -> None:
        """Forgets every pending turn, those in flight too."""
        pending = list(self._pending)
        self._pending.clear()
        self._done.clear()
        # Called on the way out of errors too; what is wrong with the engine shows again at its next step.
        with contextlib.suppress(Exception):
            self._engine.abort_request(pending)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Copies new weights into the running engine, by Hugging Face parameter name and from any precision.

        Missing, unknown and misshapen weights are errors. Nothing computed with the old weights is used again.
        """
        assert not self._pending, "weights can only change between turns"
        self.wake()
        complete = self._parameters.complete(weights, self._dtype)
        with self._reported(f"taking weights of version {version}"), torch.no_grad(), quiet():
            self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": complete})
            self._drop_prefixes()
        self.version = version

    def sleep(self) -> None:
        """Frees the engine's memory on the device. Raises `ValueError` when it was not started with `engine.sleep`."""
        assert not self._pending, "an engine can only sleep between turns"
        if not self._can_sleep:
            raise ValueError("this vLLM was started with engine.sleep false; expected true for an engine that sleeps")
        if self.asleep:
            return
        with self._reported("falling asleep"), quiet():
            self._drop_prefixes()
            self._engine.sleep(level=SLEEP_LEVEL)
        self.asleep = True

    def wake(self) -> None:
        """Takes the memory again, and puts the weights back that the engine had."""
        if not self.asleep:
            return
        with self._reported("waking up"), quiet():
            self._engine.wake_up()
        self.asleep = False

    def close(self) -> None:
        """Stops the engine and gives its memory back."""
        self._stop()

    def _drop_prefixes(self) -> None:
        """Empties the cache of shared prefixes; a batch still in flight may have to end first."""
        for _ in range(3):
            if self._engine.reset_prefix_cache():
                return
            self._engine.step()
        raise RuntimeError("it would not drop the keys and values of shared prefixes")

    def _sampling_parameters(self, turn: OpenTurn) -> Any:
        """What the recipe says; everything else that changes the distribution is named and off."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            top_k=0,
            min_p=0.0,
            presence_penalty=0.0,
            frequency_penalty=0.0,
            repetition_penalty=1.0,
            seed=turn.seed,
            max_tokens=turn.budget,
            min_tokens=0,
            stop_token_ids=sorted(self._stop_ids),
            ignore_eos=True,  # the tokens above are the only ones that stop
            logprobs=0 if self.sampling.temperature > 0 else None,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            skip_clone=True,  # made for this request alone
        )

    def _take(self, output: Any) -> None:
        """Keeps a finished reply, unless it was given up."""
        turn = self._pending.get(output.request_id)
        if turn is None:
            return
        (reply,) = output.outputs
        token_ids = list(reply.token_ids)
        stopped = bool(token_ids) and token_ids[-1] in self._stop_ids
        if not stopped and len(token_ids) != turn.budget:
            raise RuntimeError(
                f"it ended a reply after {len(token_ids)} tokens for the reason {reply.finish_reason!r};"
                f" expected a stop token or all {turn.budget} tokens"
            )
        # The most likely token of a distribution that is all on it; vLLM would tell its share at temperature 1.
        certain = self.sampling.temperature == 0
        logprobs = [0.0] * len(token_ids) if certain else reply.logprobs.logprobs
        del self._pending[output.request_id]
        self._finish(turn, token_ids, logprobs, "stop" if stopped else "length")

    @contextlib.contextmanager
    def _reported(self, doing: str) -> Iterator[None]:
        """Watches one call of the engine; whatever goes wrong in it is told with what it was doing."""
        try:
            with self._watchdog.watching(doing):
                yield
        except Exception as error:
            self._pending.clear()  # the engine is in no state to be asked to give them up
            raise RuntimeError(f"vLLM failed while {doing}: {type(error).__name__}: {error}") from error


class ParameterNames:
    """The parameters that a model must be given, by their Hugging Face names, and which of them are tied."""

    def __init__(self, directory: str) -> None:
        """Reads the model's configuration only."""
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.from_pretrained(directory)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        self.context = int(config.max_position_embeddings)
        self.count = sum(parameter.numel() for parameter in model.parameters())
        self._shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        owners = {id(parameter): name for name, parameter in model.named_parameters()}
        self._tied = {
            name: owners[id(parameter)]
            for name, parameter in model.named_parameters(remove_duplicate=False)
            if name not in self._shapes
        }

    def complete(self, weights: Iterable[tuple[str, Tensor]], dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
        """The weights in `dtype`, each tied one also under its other names, in which vLLM keeps copies of its own.

        Raises `ValueError` when they are not exactly the model's.
        """
        missing = set(self._shapes)
        for name, weight in weights:
            if name in self._tied:
                continue
            if weight.shape != self._shapes.get(name):
                expected = f"shape {tuple(self._shapes[name])}" if name in self._shapes else "no weight of that name"
                raise ValueError(f"got a weight {name!r} of shape {tuple(weight.shape)}; expected {expected}")
            missing.discard(name)
            given = weight.detach().to(dtype)
            yield name, given
            for other, owner in self._tied.items():
                if owner == name:
                    yield other, given
        if missing:
            raise ValueError(f"{len(missing)} weights are missing, for example {min(missing)!r}")


def _stop(engine: Any, watchdog: Watchdog) -> None:
    watchdog.stop()
    stop_engine(engine)


def _check_temperature(sampling: SamplingConfig) -> None:
    """Raises `ValueError` for a temperature at which vLLM would sample otherwise."""
    if 0 < sampling.temperature < LEAST_TEMPERATURE:
        raise ValueError(
            f"the temperature is {sampling.temperature:g}, which vLLM takes for {LEAST_TEMPERATURE:g};"
            f" expected 0, or at least {LEAST_TEMPERATURE:g}, or engine.kind 'transformers'"
        )
