"""One seed, many random streams by name: adding a component never shifts the numbers of another."""

import hashlib
import json

import numpy as np


class Streams:
    """`Streams(seed)("arrivals", "chat")` is a new generator that depends on the seed and the names alone.

    Two scenarios under one seed draw the same numbers for streams of the same names (common random numbers).
    Raises ValueError for a negative seed.
    """

    def __init__(self, seed: int) -> None:
        if seed < 0:
            raise ValueError(f"expected a seed of at least 0, got {seed}")
        self.seed = seed

    def __call__(self, *names: str) -> np.random.Generator:
        """A generator at its beginning. The key is the SHA-256 of the names, so it is the same in every process."""
        digest = hashlib.sha256(json.dumps(names).encode()).digest()
        key = tuple(int.from_bytes(digest[i : i + 4], "little") for i in range(0, len(digest), 4))
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(self.seed, spawn_key=key)))
