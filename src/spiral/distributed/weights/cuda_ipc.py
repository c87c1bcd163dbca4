"""CUDA IPC: buckets on a GPU that other processes on the same GPU can open. It has never run: no GPU was at hand."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler

import torch
from torch import Tensor


def share_on_gpu(buckets: tuple[Tensor, ...]) -> Callable[[], tuple[Tensor, ...]]:
    """Returns a picklable function that opens the buckets in another process.

    Made once for the same buckets: torch keeps a record of every handle, with a file of some kilobytes in /dev/shm.
    """
    return functools.partial(pickle.loads, bytes(ForkingPickler.dumps(buckets)))


def finish_writing(buckets: tuple[Tensor, ...]) -> None:
    """Waits until what was written into the buckets can be read by other processes."""
    if buckets and buckets[0].is_cuda:
        torch.cuda.synchronize(buckets[0].device)


def finish_reading() -> None:
    """Waits until everything that was read from a GPU has been copied."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
