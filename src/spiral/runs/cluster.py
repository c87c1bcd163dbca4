"""Settings of a run's processes: their number, and what happens when one of them fails."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from spiral.core.plugins import names
from spiral.core.settings import Section

Schedule = Literal["sync", "overlap", "async"]
WEIGHT_TRANSPORTS = ("object_store", "broadcast", "ipc")
"""Built-in ways of publishing weights (`spiral.distributed.weights`)."""


class ClusterConfig(Section):
    """Rollout and learner workers as Ray actors; with no rollout workers everything runs in one process."""

    rollout_workers: int = Field(0, ge=0, le=4096, description="Processes that play games; 0: one process does it all.")
    learner_workers: int = Field(1, ge=1, le=4096, description="Processes that the learner is sharded over.")
    schedule: Schedule = Field(
        "sync",
        description="'sync' plays, then learns; 'overlap' plays the next step's games meanwhile; 'async' learns from"
        " the games that end first.",
    )
    max_staleness: int = Field(
        1, ge=0, description="Updates that a turn may be behind when it is learned from; older ones are dropped."
    )
    publish: str = Field(
        "auto",
        description="How weights travel: 'object_store', 'broadcast', 'ipc' (in the learner's memory), or 'auto'; or"
        " 'module:Class' for a transport of your own.",
    )
    publish_options: dict[str, object] = Field({}, description="Options of the weight transport.")
    address: str = Field(
        "local", description="'local' starts a Ray on this machine and ends it; 'auto' or 'host:port' joins one."
    )
    cpus_per_worker: float = Field(1.0, gt=0, description="CPUs of each worker, and its number of threads.")
    gpus_per_worker: float = Field(
        0.0,
        ge=0,
        description="GPUs of a rollout worker; below 1 it shares the GPU of the learner worker of its number.",
    )
    worker_seconds: float = Field(
        600.0, gt=0, description="A rollout worker that has games and returns none for this long is replaced."
    )
    learner_seconds: float = Field(
        1800.0, gt=0, description="Timeout for loading a model and for each call of the learner."
    )
    restarts: int = Field(20, ge=0, description="Maximum number of lost workers that are replaced.")
    object_store_gib: float = Field(
        0.0, ge=0, description="Shared memory for weights and games of a local Ray; 0: Ray's choice, 30% of the memory."
    )

    @field_validator("publish")
    @classmethod
    def _known_transport(cls, name: str) -> str:
        known = ("auto", *names("weight_transports", dict.fromkeys(WEIGHT_TRANSPORTS)))
        if name not in known and ":" not in name:
            raise ValueError(f"got {name!r}; expected one of {', '.join(known)}, or 'module:Class'")
        return name

    @model_validator(mode="after")
    def _builtin_transports_have_no_options(self) -> Self:
        if self.publish_options and self.publish in ("auto", *WEIGHT_TRANSPORTS):
            raise ValueError(
                f"cluster.publish_options has {', '.join(self.publish_options)}, but cluster.publish is"
                f" {self.publish!r}, which takes no options; remove them"
            )
        return self

    @model_validator(mode="after")
    def _ahead_of_the_learner(self) -> Self:
        if self.schedule != "sync" and self.max_staleness == 0:
            raise ValueError(
                f"cluster.schedule '{self.schedule}' learns from turns one update behind, and cluster.max_staleness is"
                " 0; set it to 1 or more"
            )
        return self

    @model_validator(mode="after")
    def _learners_have_rollout_workers(self) -> Self:
        if self.learner_workers > 1 and not self.rollout_workers:
            raise ValueError(
                f"cluster.learner_workers is {self.learner_workers} and cluster.rollout_workers is 0, which is a run in"
                " one process; set cluster.rollout_workers to 1 or more"
            )
        return self

    def check_gpus(self) -> None:
        """Checks, on a machine with GPUs, that the recipe says which of them rollout workers use.

        Ray hides no GPU from a process that asks for none, so all rollout workers would use the first one.

        Raises:
            ValueError: it does not say so.
        """
        if self.rollout_workers and not self.gpus_per_worker:
            raise ValueError(
                f"cluster.gpus_per_worker is 0, so all {self.rollout_workers} rollout workers would play on the first"
                " GPU, beside the learner; set it to 1 for a GPU each, to less than 1, such as 0.5, to share the"
                " learner's GPUs, or set model.device to 'cpu'"
            )

    @property
    def shares_gpus(self) -> bool:
        """Whether rollout workers use the GPUs of the learner workers, where there are GPUs."""
        return self.rollout_workers > 0 and 0 < self.gpus_per_worker < 1

    @property
    def steps_ahead(self) -> int:
        """Number of steps beyond the current one whose games are queued."""
        return {"sync": 0, "overlap": 1, "async": self.max_staleness}[self.schedule]
