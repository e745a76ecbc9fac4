"""Paged KV memory of one replica, exact to the block, without a list of blocks."""


class BlockPool:
    """Blocks free and held, and which share of the decoding sequences needs a new block at each step.

    A decoding sequence holds `base + step` tokens, where `step` counts the replica's decode steps. It needs a new block at the
    next step exactly when that sum is a multiple of the block size, so a histogram of `base mod size` says how many blocks any
    number of steps takes. `growth` and `need` ask; `reserve` takes all or nothing.
    """

    __slots__ = ("_per_sequence", "free", "phases", "size", "total")

    def __init__(self, total: int, size: int, per_sequence: int = 0) -> None:
        self.total = total
        self.free = total
        self.size = size
        self._per_sequence = per_sequence  # full windows and linear states: held whatever the length
        self.phases = [0] * size

    def blocks(self, tokens: int) -> int:
        """Blocks of one sequence that holds `tokens` tokens."""
        return -(-tokens // self.size) + self._per_sequence

    def reserve(self, blocks: int) -> None:
        if blocks > self.free:
            raise RuntimeError(f"KV memory: {blocks} blocks asked, {self.free} of {self.total} free")
        self.free -= blocks

    def release(self, blocks: int) -> None:
        self.free += blocks

    def join(self, base: int) -> None:
        """A sequence starts to decode: it will hold `base + step` tokens."""
        self.phases[base % self.size] += 1

    def leave(self, base: int, tokens: int) -> None:
        """It stops, and gives back the blocks of its `tokens` tokens."""
        self.phases[base % self.size] -= 1
        self.free += -(-tokens // self.size) + self._per_sequence

    def need(self, step: int) -> int:
        """Blocks that the decode step after `step` takes."""
        return self.phases[-step % self.size]

    def growth(self, step: int, steps: int, rows: int) -> int:
        """Blocks that `steps` decode steps of `rows` sequences after `step` take."""
        last = -step % self.size
        if steps == 1:
            return self.phases[last]
        cycles, rest = divmod(steps, self.size)
        first = last - rest + 1
        if first >= 0:
            return cycles * rows + sum(self.phases[first : last + 1])
        return cycles * rows + sum(self.phases[: last + 1]) + sum(self.phases[first:])

    def grow(self, step: int, steps: int, rows: int) -> int:
        """Take the blocks of these steps, which `steps_that_fit` has allowed; return how many."""
        blocks = self.growth(step, steps, rows)
        self.free -= blocks
        return blocks

    def steps_that_fit(self, step: int, steps: int, rows: int) -> int:
        """The most decode steps after `step`, at most `steps`, for which free blocks suffice."""
        if rows * (steps // self.size + 1) <= self.free or self.growth(step, steps, rows) <= self.free:
            return steps
        cycles, left = divmod(self.free, rows)
        fit = cycles * self.size
        while (need := self.phases[(-step - fit) % self.size]) <= left:
            left -= need
            fit += 1
        return fit

    def check(self, held: int) -> None:
        """Raise RuntimeError unless free + held == total, `held` counted from the sequences themselves."""
        if self.free + held != self.total or self.free < 0:
            raise RuntimeError(f"KV memory: free {self.free} + held {held} != total {self.total}")
