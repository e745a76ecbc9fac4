"""KV memory as a state machine: whatever sequences do, free + held is the total, and growth is counted block by block."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from simfleet.serving.kv import BlockPool


class Paging(RuleBasedStateMachine):
    """A pool beside a plain list of sequences' token counts."""

    @initialize(total=st.integers(1, 60), size=st.sampled_from([1, 2, 16]), per_sequence=st.integers(0, 2))
    def start(self, total: int, size: int, per_sequence: int) -> None:
        self.pool = BlockPool(total, size, per_sequence)
        self.size, self.per_sequence = size, per_sequence
        self.tokens: list[int] = []
        self.step = 0

    def blocks(self, tokens: int) -> int:
        return len(range(0, tokens, self.size)) + self.per_sequence

    @rule(tokens=st.integers(1, 100))
    def admit(self, tokens: int) -> None:
        blocks = self.pool.blocks(tokens)
        free = self.pool.free
        if blocks <= free:
            self.pool.reserve(blocks)
            self.pool.join(tokens - self.step)
            self.tokens.append(tokens)
        else:
            with pytest.raises(RuntimeError, match=f"{blocks} blocks asked, {free} of"):
                self.pool.reserve(blocks)
            assert self.pool.free == free

    @precondition(lambda self: self.tokens)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        tokens = self.tokens.pop(data.draw(st.integers(0, len(self.tokens) - 1)))
        self.pool.leave(tokens - self.step, tokens)

    @precondition(lambda self: self.tokens)
    @rule(steps=st.integers(1, 70))
    def decode(self, steps: int) -> None:
        fit = self.pool.steps_that_fit(self.step, steps, len(self.tokens))
        grown = [sum(self.blocks(t + k) - self.blocks(t) for t in self.tokens) for k in range(steps + 1)]
        assert fit == max(k for k in range(steps + 1) if grown[k] <= self.pool.free)
        assert [self.pool.growth(self.step, k, len(self.tokens)) for k in range(steps + 1)] == grown
        assert self.pool.need(self.step) == grown[1]
        assert self.pool.grow(self.step, fit, len(self.tokens)) == grown[fit]
        self.step += fit
        self.tokens = [t + fit for t in self.tokens]

    @invariant()
    def adds_up(self) -> None:
        if hasattr(self, "pool"):
            self.pool.check(sum(self.blocks(t) for t in self.tokens))


TestPaging = Paging.TestCase


@given(held=st.integers(0, 10))
def test_check_names_the_three_numbers(held: int) -> None:
    pool = BlockPool(10, 16)
    pool.reserve(4)
    if held == 4:
        pool.check(held)
    else:
        with pytest.raises(RuntimeError, match=rf"free 6 \+ held {held} != total 10"):
            pool.check(held)
