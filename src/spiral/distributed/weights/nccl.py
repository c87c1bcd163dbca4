"""NCCL as the backend of broadcasts between GPUs. It has never run: no machine with two GPUs was at hand."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from torch.distributed import distributed_c10d as c10d


def nccl_group(store: Any, rank: int, size: int, limit: timedelta) -> Any:
    """Joins a process group of GPUs; `leave_nccl_group` ends it. The first contact has only NCCL's timeout."""
    options = c10d.ProcessGroupNCCL.Options()
    options._timeout = limit
    with _errors_raised():
        return c10d.ProcessGroupNCCL(store, rank, size, options)


def leave_nccl_group(group: Any) -> None:
    """Closes the connections, so that no other process waits for this one."""
    with contextlib.suppress(RuntimeError):  # it may be broken already
        group.abort()


@contextlib.contextmanager
def _errors_raised() -> Iterator[None]:
    """Groups made inside the block raise an error at a timeout; others end their process."""
    name = "TORCH_NCCL_BLOCKING_WAIT"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
