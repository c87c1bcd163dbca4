"""Models as opponents: their settings, and one engine for each of them.

    [selfplay]
    opponents = { mirror = 0.5, mistral = 0.5 }

    [opponent.mistral]
    model = "mistralai/Mistral-Small-3"
    max_new_tokens = 8192

What a table leaves out is as the model's card says, which a model has that was trained here. A model without one plays
as the policy does: prompted and sampled like it, by the same kind of engine, in the same precision. With the engine
"shared" it takes no memory: the policy's own engine plays with its weights in turn, which must be of the same shape.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from spiral.core.policy import Policy, SamplingConfig
from spiral.core.settings import Section
from spiral.games import Game
from spiral.inference.base import LanguagePolicy
from spiral.inference.room import check_room
from spiral.models.store import BUILT_IN, FETCHABLE
from spiral.policies.endpoint.config import ENDPOINT, load_endpoint
from spiral.policies.endpoint.policy import EndpointPolicy
from spiral.policies.registry import (
    DEFAULTS,
    PROMPT_OPTIONS,
    SAMPLING_OPTIONS,
    PolicyOptions,
    effective_sampling,
    load_policy,
    model_card,
)
from spiral.policies.scripted import check_scripted, is_scripted, scripted_policy
from spiral.policies.tables import TABLE

HERE_ONLY = ("engine", "context", "memory_share", "device", "compute")
"""Settings of an opponent that runs on this machine."""
SHARED: Final = "shared"
"""The engine of an opponent that plays with the policy's own."""


class OpponentConfig(Section):
    """How one opponent plays; what is left out is as its model's card says, or else as the policy plays."""

    model: str | None = Field(
        None, description="A MODEL as for `spiral evaluate`, or endpoint:NAME; left out, NAME itself is."
    )
    template: Literal["chat", "qwen3", "r1", "llama"] | None = Field(
        None, description="As prompt.template: 'chat', 'qwen3', 'r1' or 'llama'."
    )
    thinking: bool | None = Field(None, description="As prompt.thinking.")
    example: bool | None = Field(None, description="As prompt.example.")
    system: str | None = Field(None, description="As prompt.system.")
    temperature: float | None = Field(None, ge=0, description="As sampling.temperature.")
    top_p: float | None = Field(None, gt=0, le=1, description="As sampling.top_p.")
    max_new_tokens: int | None = Field(
        None, ge=1, description="As sampling.max_new_tokens; left out, at least that and at least 256."
    )
    engine: Literal["transformers", "vllm", "auto", "shared"] | None = Field(
        None,
        description="As engine.kind: 'transformers', 'vllm' or 'auto'; 'shared' is the policy's own, with this model's"
        " weights in turn.",
    )
    context: int | None = Field(None, ge=1, description="As engine.context.")
    memory_share: float | None = Field(None, gt=0, lt=1, description="As engine.memory_share, for its own vLLM.")
    device: str | None = Field(None, description="As model.device.")
    compute: Literal["float32", "bfloat16"] | None = Field(
        None, description="As model.compute: 'float32' or 'bfloat16'."
    )

    @model_serializer(mode="wrap")
    def _only_given(self, serialise: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leaves out what is None: TOML has no null."""
        values: dict[str, object] = serialise(self)
        return {key: value for key, value in values.items() if value is not None}

    def check(self, name: str) -> None:
        """Check that the table `name` is for a model or an endpoint, and has no setting without effect.

        Raises:
            ValueError: It is not, or it has one; the message says how to fix it.
        """
        model = self.model or name
        if is_scripted(name) or (name in (*BUILT_IN, *FETCHABLE) and model != name) or not name.strip():
            raise ValueError(f"{name!r} is a policy already; give the table another name and use that as the opponent")
        if model.startswith(TABLE):
            check_scripted(model)
        if is_scripted(model) and (not model.startswith(TABLE) or self.model_dump().keys() != {"model"}):
            raise ValueError(f"model is {model!r}, which takes no settings; name it as the opponent, without a table")
        if self.engine == SHARED:
            more = [field for field in self.model_dump() if field not in ("model", "engine")]
            if more:
                raise ValueError(
                    f"engine is {SHARED!r}, so that the model plays as the policy does, and {more[0]} is set; leave it"
                    " out, or give it another engine"
                )
        if model.startswith(ENDPOINT):
            load_endpoint(model.removeprefix(ENDPOINT))
            for field in HERE_ONLY:
                if getattr(self, field) is not None:
                    raise ValueError(f"{field} is set, but {model} does not run on this machine; leave it out")
            if self.template not in (None, "chat"):
                raise ValueError(f"template is {self.template!r}, but a server uses its own; leave it out")


class Opponents:
    """Loads opponents by name; a model or an endpoint is loaded once for all games, players and evaluations."""

    def __init__(
        self,
        options: PolicyOptions = DEFAULTS,
        tables: Mapping[str, OpponentConfig] | None = None,
        planned: Collection[str] | None = None,
    ) -> None:
        """Load nothing yet.

        Args:
            options: How models are loaded, and the policy that they play against.
            tables: The settings of opponents that have some, by name.
            planned: Names whose memory is planned for, which may have an engine that reserves memory; models beyond
                them, as an opponent sampler may name any time, are generated with `transformers`. None means all.
        """
        self._options = options
        self._tables = dict(tables or {})
        self._planned = planned
        self._known: dict[str, Policy] = {}

    def __call__(self, name: str, game: Game) -> Policy:
        """Return the policy called `name` for `game`.

        Raises:
            ValueError: There is none, or its context has no room for the first prompt of the game.
        """
        model = self.model(name)
        if is_scripted(model):
            policy = scripted_policy(model, game)
            policy.name = name
            return policy
        if name not in self._known:
            self._known[name] = load_policy(model, game, self.options(name))
        check_room(self._known[name], game, first=True)
        return self._known[name]

    def model(self, name: str) -> str:
        """Return the MODEL behind an opponent's name."""
        return opponent_model(name, self._tables)

    def options(self, name: str) -> PolicyOptions:
        """Return how the opponent `name` is loaded, prompted and sampled."""
        options = self._options
        if self._planned is not None and name not in self._planned:
            options = dataclasses.replace(options, engine="transformers")
        return opponent_options(name, self._tables.get(name), options)

    @contextmanager
    def sampled_beside(self, sampling: SamplingConfig) -> Iterator[None]:
        """Play against a policy that is sampled so within a `with` block, at whose ends no turn may be pending.

        It changes the sampling of opponents that have none of their own.
        """
        before = self._options
        if before.beside is not None:
            self._use(dataclasses.replace(before, beside=dataclasses.replace(before.beside, sampling=sampling)))
        try:
            yield
        finally:
            self._use(before)

    def sleep(self) -> None:
        """Free the memory that only generating needs; any request wakes an engine. No turn may be pending."""
        for policy in self._known.values():
            if isinstance(policy, LanguagePolicy):
                policy.sleep()

    def close(self) -> None:
        """Stop the engines and give their memory back."""
        known, self._known = self._known, {}
        for policy in known.values():
            if isinstance(policy, LanguagePolicy | EndpointPolicy):
                policy.close()

    def _use(self, options: PolicyOptions) -> None:
        self._options = options
        for name, policy in self._known.items():
            if isinstance(policy, LanguagePolicy):
                policy.sampling = effective_sampling(model_card(self.model(name)), self.options(name))


def opponent_model(name: str, tables: Mapping[str, OpponentConfig]) -> str:
    """Return the MODEL behind an opponent's name: that of its table, or the name itself."""
    table = tables.get(name)
    return name if table is None or table.model is None else table.model


def opponent_options(name: str, table: OpponentConfig | None, options: PolicyOptions) -> PolicyOptions:
    """Return the options of an opponent, from its table and the options that opponents have without one."""
    fields = (*PROMPT_OPTIONS, *SAMPLING_OPTIONS, *HERE_ONLY)
    given = {} if table is None else {field: getattr(table, field, None) for field in fields}
    changed = {field: value for field, value in given.items() if value is not None}
    return dataclasses.replace(options, name=name, setting=options.setting.replace("NAME", name), **changed)
