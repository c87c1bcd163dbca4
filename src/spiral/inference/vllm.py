"""vLLM as an engine (Kwon et al., 2023, arXiv 2309.06180): continuous batching with paged keys and values and a cache
of shared prefixes, inside this process.

vLLM is given token ids and returns token ids. It gets no tokenizer, and every sampling setting is passed explicitly.
New weights are copied into the running engine. An engine that fails, makes no progress or hangs ends the run with a
message that says what it was doing.

A sleeping vLLM holds no keys and values on the GPU, and its weights wait in the memory of the CPU (sleep level 1).
Where new weights are certain to come next, it drops them instead (level 2), and refuses requests until they have come.
vLLM sleeps on GPUs only, so on a CPU no test runs its part of this.

An engine over several devices computes in processes of its own (`vllm_parallel.py`); its scheduler is in this one.

Not supported: a scheduler in a separate process, quantised weights. A reply has its own seed, but unlike with the
`transformers` engine the rounding of a batch can change it.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from spiral.core.policy import SamplingConfig, TurnReply
from spiral.inference.base import LanguagePolicy, OpenTurn
from spiral.inference.parameters import ParameterNames
from spiral.inference.settings import EngineConfig
from spiral.inference.vllm_engine import quiet, start_engine, stop_engine
from spiral.inference.vllm_reload import reload
from spiral.inference.vllm_watchdog import Watchdog
from spiral.models.head import stated_precision
from spiral.models.hub import local_copy
from spiral.models.loading import usable_context
from spiral.models.settings import HeadPrecision
from spiral.text import ChatCodec

MIN_TEMPERATURE = 0.01
"""Below it, vLLM samples at this temperature."""

SLEEP_LEVEL = 1
"""Weights move to the memory of the CPU; keys and values are dropped."""

DROP_LEVEL = 2
"""Weights are dropped too."""

SPARE_STEPS = 100
"""Number of steps without a result after which an engine counts as stuck."""


class VllmPolicy(LanguagePolicy):
    """Plays with a causal language model run by vLLM; holds at most `config.max_rows` replies in flight."""

    reserves_memory = True

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
        trained: bool = True,
    ) -> None:
        """Starts vLLM.

        Args:
            directory: The model's directory or Hugging Face name.
            codec: Encodes prompts and parses replies.
            sampling: How tokens are sampled.
            config: Settings of the engine.
            compute: Precision, "float32" or "bfloat16".
            head: Precision of the output head.
            name: The policy's name in records.
            trained: Whether new weights will be loaded.

        Raises:
            ValueError: vLLM is not installed, cannot run the model on this machine, cannot load new weights of it, or
                cannot sample with these settings.
        """
        _check_temperature(sampling)
        directory = local_copy(directory)  # before the watchdog starts: a download may take long
        self._directory = directory
        self._parameters = ParameterNames.read(directory)
        if trained:
            self._parameters.check_files(directory)
        self._names_checked = trained
        usable = usable_context(self._parameters.config, config.context, "the vLLM engine")
        super().__init__(codec, sampling, name=name, context=usable)
        self.precision = stated_precision(compute, head)
        self._dtype: torch.dtype = getattr(torch, compute)
        self._pending: dict[str, OpenTurn] = {}
        self._asked = 0
        self._can_sleep = config.sleep
        self._dropped = False
        self._processes = config.tensor_parallel
        self._watchdog = Watchdog(config.stall_seconds)
        try:
            self._engine = start_engine(
                directory,
                self.context,
                config,
                compute,
                head,
                self._parameters.count,
                self._watchdog,
                self._parameters.config,
            )
        except BaseException:
            self._watchdog.stop()
            raise
        self._stop = weakref.finalize(self, _stop, self._engine, self._watchdog)

    def _generate(self, turns: Sequence[OpenTurn]) -> None:
        """Adds turns to the engine, which queues those that do not fit yet."""
        from vllm.inputs import tokens_input

        for sampling in (self.sampling, *(turn.sampling for turn in turns if turn.sampling is not None)):
            _check_temperature(sampling)
        self.wake()
        with self._reported(f"adding {len(turns)} prompts"):
            for turn in turns:
                request, self._asked = str(self._asked), self._asked + 1
                prompt = tokens_input(turn.prompt_ids.tolist())
                self._engine.add_request(request, prompt, self._sampling_parameters(turn))
                self._pending[request] = turn

    def poll(self) -> list[TurnReply]:
        """Steps the engine until a reply is finished; returns all finished ones."""
        # Every step computes a token of some reply, except a few in which a batch only begins or ends.
        steps = SPARE_STEPS + sum(len(turn.prompt_ids) + turn.budget for turn in self._pending.values())
        while self._pending and not self._done:
            doing = f"generating {len(self._pending)} replies with weights of version {self.version}"
            with self._reported(doing):
                if steps == 0:
                    raise RuntimeError("it has made more steps than there are tokens to compute, and finished no reply")
                outputs = self._engine.step()
            for output in outputs:  # outside `_reported`: an error here is not the engine's
                self._take(output)
            steps -= 1
        return self._take_done()

    def cancel(self) -> None:
        """Drops every pending turn, including those in flight."""
        pending = list(self._pending)
        self._pending.clear()
        self._done.clear()
        # Also called while an error is handled. A fault of the engine shows again at its next step.
        with contextlib.suppress(Exception), self._watchdog.watching(f"cancelling {len(pending)} replies"):
            self._engine.abort_request(pending)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Copies new weights of any precision into the running engine, by Hugging Face parameter name.

        Keys and values of shared prefixes that the old weights computed are dropped.

        Raises:
            ValueError: The names in the model's files are not those that transformers would write.
            RuntimeError: Weights are missing, unknown or of another shape, or vLLM has not taken all of them.
        """
        assert not self._pending, "weights can only change between turns"
        if not self._names_checked:
            self._parameters.check_files(self._directory)
            self._names_checked = True
        self._allocate()
        complete = self._parameters.complete(weights, self._dtype)
        with self._reported(f"loading weights of version {version}"), torch.no_grad(), quiet():
            reload(self._engine, complete, str(self._parameters.config.model_type), self._processes)
            self._drop_prefixes()
        self._dropped = False
        self.version = version

    def sleep(self, *, until_weights: bool = False) -> None:
        """Frees the engine's memory on the device; with `until_weights` it drops its weights.

        Raises:
            ValueError: It was not started with `engine.sleep`.
        """
        assert not self._pending, "an engine can only sleep between turns"
        if not self._can_sleep:
            raise ValueError("this vLLM was started with engine.sleep false; expected true for an engine that sleeps")
        if self.asleep:
            return
        with self._reported("falling asleep"), quiet():
            self._drop_prefixes()
            self._engine.sleep(level=DROP_LEVEL if until_weights else SLEEP_LEVEL)
        self.asleep, self._dropped = True, until_weights

    def wake(self) -> None:
        """Allocates the memory again and restores the weights.

        Raises:
            RuntimeError: It has dropped them, and new ones have not come.
        """
        if self._dropped:
            raise RuntimeError(
                f"vLLM has dropped its weights of version {self.version}, since new ones were to come next; expected"
                " load_weights before any request"
            )
        self._allocate()

    def _allocate(self) -> None:
        """Wakes the engine, with whatever weights."""
        if not self.asleep:
            return
        with self._reported("waking up"), quiet():
            self._engine.wake_up()
        self.asleep = False

    def close(self) -> None:
        """Stops the engine and frees its memory."""
        self._stop()

    def _drop_prefixes(self) -> None:
        """Empties the cache of shared prefixes. A batch in flight may have to finish first."""
        for _ in range(3):
            if self._engine.reset_prefix_cache():
                return
            self._engine.step()
        raise RuntimeError("it would not drop the keys and values of shared prefixes")

    def _sampling_parameters(self, turn: OpenTurn) -> Any:
        """The recipe's sampling; every other setting that changes the distribution is turned off explicitly."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = turn.sampling or self.sampling
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=0,
            min_p=0.0,
            presence_penalty=0.0,
            frequency_penalty=0.0,
            repetition_penalty=1.0,
            seed=turn.seed,
            max_tokens=turn.budget,
            min_tokens=0,
            stop_token_ids=sorted(self.stop_ids),
            ignore_eos=True,  # the tokens above are the only ones that stop
            logprobs=0,  # also at temperature 0, to notice a broken model
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            skip_clone=True,  # made for this request alone
        )

    def _take(self, output: Any) -> None:
        """Keeps a finished reply, unless it was cancelled."""
        turn = self._pending.get(output.request_id)
        if turn is None:
            return
        (reply,) = output.outputs
        token_ids = list(reply.token_ids)
        stopped = bool(token_ids) and token_ids[-1] in self.stop_ids
        if not stopped and len(token_ids) != turn.budget:
            raise RuntimeError(
                f"vLLM ended a reply after {len(token_ids)} tokens for the reason {reply.finish_reason!r};"
                f" expected a stop token or all {turn.budget} tokens"
            )
        logprobs = list(reply.logprobs.logprobs)
        if (turn.sampling or self.sampling).temperature == 0:
            # All probability is on the most likely token; vLLM reports its probability at temperature 1.
            logprobs = [0.0 if math.isfinite(logprob) else logprob for logprob in logprobs]
        del self._pending[output.request_id]
        self._finish(turn, token_ids, logprobs, "stop" if stopped else "length")

    @contextlib.contextmanager
    def _reported(self, doing: str) -> Iterator[None]:
        """Context manager around a call of the engine: watched for stalls, and errors say what it was `doing`."""
        try:
            with self._watchdog.watching(doing):
                yield
        except Exception as error:
            self._pending.clear()  # a failed engine cannot cancel them
            raise RuntimeError(f"vLLM failed while {doing}: {type(error).__name__}: {error}") from error


def _stop(engine: Any, watchdog: Watchdog) -> None:
    watchdog.stop()
    stop_engine(engine)


def _check_temperature(sampling: SamplingConfig) -> None:
    """Raises `ValueError` for a temperature that vLLM would replace by another."""
    if 0 < sampling.temperature < MIN_TEMPERATURE:
        raise ValueError(
            f"the temperature is {sampling.temperature:g}, which vLLM takes for {MIN_TEMPERATURE:g};"
            f" expected 0, or at least {MIN_TEMPERATURE:g}, or engine.kind 'transformers'"
        )
