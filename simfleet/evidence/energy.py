"""Watts and joules of measured serving runs: with the measured pace imposed, which tests the power model alone, and predicted."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simfleet.evidence.rows import SPREAD, Pace
from simfleet.hardware.profile import PowerConstants
from simfleet.hardware.step import StepCost, attended, attended_limited, keys_limited
from simfleet.pool import Pool
from simfleet.result import Result

Floats = NDArray[np.float64]

COUNTED = ("per_byte", "per_flop", "per_activation")
"""Constants of the energy equation that are paid per thing done, joules each."""


class Watts(NamedTuple):
    """The energy equation's constants for one device: gap, busy and limit [W], joules of each of COUNTED."""

    gap: float
    busy: float
    per_byte: float
    per_flop: float
    per_activation: float
    limit: float

    @classmethod
    def of(cls, power: PowerConstants) -> "Watts":
        """A profile's, its one-point calibration worked in."""
        facts = {name: getattr(power, name).value for name in cls._fields}
        return cls(**facts).scaled(power.scale.value if power.scale is not None else 1.0)

    def scaled(self, scale: float) -> "Watts":
        """All but the gap and the limit multiplied: a one-point calibration."""
        paid = {name: scale * getattr(self, name) for name in ("busy", *COUNTED)}
        return self._replace(**paid)


class Kind(NamedTuple):
    """Steps of one kind: their share of all steps, seconds and those of them that the device is busy, and what one device does."""

    share: float
    seconds: float
    busy_s: float
    bytes: float
    flops: float
    activations: float


def kinds(pool: Pool, pace: Pace) -> list[Kind]:
    """Steps without and with prompts of a steady batch, all from `StepCost`: each answer that ends makes room for a prompt.

    With B sequences and answers of L tokens, B / L prompts come per step: one in so many of the steps, or several in each.
    """
    rows = max(round(pace.batch), 1)
    prompts = rows / pace.output
    own = pool.step_cost()
    bare = [_counting(pool, name) for name in COUNTED]
    found = []
    for share, new in ((1.0 - min(prompts, 1.0), 0.0), (min(prompts, 1.0), max(prompts, 1.0))):
        whole_s = _step(own, rows, new, pace)[0]
        steps = [_step(cost, rows, new, pace) for cost in bare]
        found.append(Kind(share, whole_s, steps[0][0], *(joules / own.devices for _, joules in steps)))
    return found


def _counting(pool: Pool, name: str) -> StepCost:
    """Costs without host, in which all is free but one of COUNTED, at a joule each."""
    power = pool.profile.power
    prices = {key: 1.0 if key == name else 0.0 for key in ("gap", "busy", *COUNTED)}
    facts = {key: getattr(power, key).model_copy(update={"value": price}) for key, price in prices.items()}
    free = power.model_copy(update={**facts, "scale": None, "measured": ()})
    graphs = {"host": 0.0, "per_sequence": 0.0, "eager_layer": 0.0, "eager_collective": 0.0, "eager_narrow": 0.0}
    engine, profile = pool.engine.model_copy(update=graphs), pool.profile.model_copy(update={"power": free})
    return pool.model_copy(update={"engine": engine, "profile": profile}).step_cost()


def _step(cost: StepCost, rows: int, new: float, pace: Pace) -> tuple[float, float]:
    """Seconds and joules of a step that brings each of `rows` sequences a token, `new` of them the first one."""
    prompt, output = pace.prompt, pace.output
    limit = cost.limit or 1 << 40
    context = prompt + output * (1.0 + SPREAD**2) / 2.0
    old = max(rows - round(new), 0)
    if not new:
        t0, t_ctx, t_lim, e0, e_ctx, e_lim = cost.decode(rows)
        seen, limited = rows * context, rows * min(context, limit)
        return t0 + t_ctx * seen + t_lim * limited, e0 + e_ctx * seen + e_lim * limited
    few = [int(new * count) for count in (
        attended(0, prompt), prompt, attended_limited(0, prompt, limit), keys_limited(0, prompt, limit),
    )]  # fmt: skip
    return cost.mixed(
        old + few[1], rows, old, int(old * context), int(old * min(context, limit)),
        few[0], few[1], prompt, few[2], few[3], min(prompt, keys_limited(0, prompt, limit)),
    )  # fmt: skip


def uses(steps: Sequence[Kind], step_s: float) -> tuple[Floats, Floats]:
    """Shares of time [kinds], and what one device does per second [kinds x 5], where a mean step takes `step_s` whatever ours would.

    The columns are what the first five of Watts stand before: share waiting, share busy, bytes, flops and activations per second.
    Steps of every kind stretch alike; what they take beyond their busy time is waiting.
    """
    stretch = step_s / sum(kind.share * kind.seconds for kind in steps)
    rows = []
    for kind in steps:
        seconds = stretch * kind.seconds
        busy = min(kind.busy_s / seconds, 1.0)
        rows.append([1.0 - busy, busy, kind.bytes / seconds, kind.flops / seconds, kind.activations / seconds])
    return np.array([stretch * kind.share * kind.seconds / step_s for kind in steps]), np.array(rows)


def imposed_w(steps: Sequence[Kind], watts: Watts, step_s: float) -> float:
    """Mean board power of one device [W] at a given pace: each kind of step draws what it uses, at most the limit."""
    shares, used = uses(steps, step_s)
    return float(shares @ np.minimum(used @ np.array(watts[:-1]), watts.limit))


def metrics(result: Result, pace: Pace) -> dict[str, float]:
    """Of a closed loop while it stands still, between the first answers and the last question: output tokens per second, joules
    per output token and watts of one device; the median gap between tokens [s]; and the watts at the measured pace."""
    pool = result.run.scenario.pools["measured"]
    found = {"power_imposed": imposed_w(kinds(pool, pace), Watts.of(pool.profile.power), pace.step_s)}
    found["itl_p50_s"] = result.run.records.itl.quantile(0.5)
    timeline, requests = result.run.records.timeline.array(), result.run.requests
    seconds = np.diff(timeline["time_s"], prepend=0.0)
    since_s, until_s = float(np.nanmean(requests["e2e_s"])), float(requests["arrival_s"].max())
    steady = (timeline["time_s"] - seconds >= since_s) & (timeline["time_s"] <= until_s)
    if steady.any():
        lasted_s = float(seconds[steady].sum())
        joules, tokens = (float((timeline[name] * seconds)[steady].sum()) for name in ("accelerator_w", "output_tok_s"))
        found |= {"joules_per_token": joules / tokens, "output_tok_per_s": tokens / lasted_s}
        found["power_predicted"] = joules / lasted_s / pool.devices
    return found
