"""Random numbers from names instead of state.

Every random draw of a run is a pure function of the run's seed and of what is drawn: step, episode, turn, token. So no
generator's position has to be saved, games can be played in any order on any machine, and a resumed run draws the same
numbers as an uninterrupted one.

`derive_seed` hashes names with BLAKE2b. `token_uniforms` is the SplitMix64 finaliser (Steele et al., 2014,
"Fast splittable pseudorandom number generators") used as a counter-based generator.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def derive_seed(*names: int | str) -> int:
    """Return a 63-bit seed for these names, for example `derive_seed(run_seed, "episode", step, index)`."""
    text = "\x1f".join(str(name) for name in names)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def token_uniforms(seeds: NDArray[np.uint64], counters: NDArray[np.uint64]) -> NDArray[np.float64]:
    """[N] uniform numbers in [0, 1): number `counters[i]` of the stream named by `seeds[i]`."""
    with np.errstate(over="ignore"):
        z = seeds + (counters + np.uint64(1)) * _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * _MIX_1
        z = (z ^ (z >> np.uint64(27))) * _MIX_2
        z = z ^ (z >> np.uint64(31))
    return np.asarray(z >> np.uint64(11), dtype=np.float64) * 2.0**-53
