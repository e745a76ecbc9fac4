"""One seed, many independent random streams, each known by its name."""

from hashlib import sha256

import numpy as np


class Streams:
    """`Streams(seed)("arrivals", "chat")` is a generator of its own: adding another stream never shifts it.

    The names are hashed with SHA-256 into the seed sequence, so the same names give the same numbers in any process.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __call__(self, *names: str) -> np.random.Generator:
        digest = sha256("\x1f".join(names).encode()).digest()
        key = [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4)]
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(self._seed, spawn_key=tuple(key))))
