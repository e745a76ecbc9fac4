"""Copies of a scenario with values replaced, in SI units and unchecked: what is in the files stays as it is."""

import dataclasses
from collections.abc import Iterable
from math import log
from typing import Any

from simfleet.scenario import Scenario
from simfleet.signals import Signal
from simfleet.spec import Spec
from simfleet.workload.arrivals import AnyEnvelope, ClosedLoop, Open, Stages
from simfleet.workload.lengths import AnyLength, Constant, Empirical, LogNormal, Mixture, Uniform
from simfleet.workload.streams import Stream
from simfleet.workload.traces import RateScale, Trace

Path = tuple[str | int, ...]
Edit = tuple[Path, Any]
"""Names of fields, keys and numbers that lead to a value, and the new value: (("pools", "chat", "replicas"), 8)."""


def edited(scenario: Scenario, edits: Iterable[Edit]) -> Scenario:
    """A copy with these values replaced. Raises AttributeError or KeyError for a path that leads nowhere."""
    for path, value in edits:
        scenario = _replaced(scenario, path, value)
    return scenario


def _replaced(node: Any, path: Path, value: Any) -> Any:
    if not path:
        return value
    key, rest = path[0], path[1:]
    if isinstance(node, Spec):
        name = str(key)
        return node.model_copy(update={name: _replaced(getattr(node, name), rest, value)})
    if isinstance(node, tuple):
        return tuple(_replaced(part, rest, value) if i == key else part for i, part in enumerate(node))
    return {**node, key: _replaced(node[key], rest, value)}


def stretched(length: AnyLength, factor: float) -> AnyLength:
    """A distribution whose draws are `factor` times as long, limits too; whole parameters stay whole, and at least 1."""

    def whole(tokens: int) -> int:
        return max(1, round(tokens * factor))

    update: dict[str, Any] = {"min": whole(length.min), "max": None if length.max is None else whole(length.max)}
    match length:
        case Constant():
            update |= {"value": whole(length.value)}
        case Uniform():
            update |= {"low": whole(length.low), "high": whole(length.high)}
        case LogNormal():
            scales = {name: getattr(length, name) for name in ("arithmetic_mean", "std", "median", "p50", "p95")}
            update |= {name: value * factor for name, value in scales.items() if value is not None}
            update |= {} if length.mu is None else {"mu": length.mu + log(factor)}
        case Empirical():
            update |= {"quantiles": {share: value * factor for share, value in length.quantiles.items()}}
        case Mixture():
            update |= {"parts": tuple(stretched(part, factor) for part in length.parts)}
    return length.model_copy(update=update)


def longer(stream: Stream, factor: float) -> Edit:
    """An edit, within a stream, for answers `factor` times as long, in whole tokens."""
    if stream.tokens is not None:
        return ("tokens", "output"), stretched(stream.tokens.output, factor)
    assert stream.trace is not None  # a stream has one or the other
    return ("trace",), _longer(stream.trace, factor)


def _longer(trace: Trace, factor: float) -> Trace:
    rows = trace._rows
    output = (rows.output_tokens * factor).round().clip(1).astype(rows.output_tokens.dtype)
    copy = trace.model_copy()
    copy._rows = dataclasses.replace(rows, output_tokens=output)
    return copy


def faster(stream: Stream, factor: float) -> Edit | None:
    """An edit, within a stream, for `factor` times the requests per second, or users; None where that cannot be said."""
    arrival, trace = stream.arrival, stream.trace
    if isinstance(arrival, ClosedLoop):
        return ("arrival", "users"), max(1, round(arrival.users * factor))
    if isinstance(arrival, Open) and arrival.rate is not None:
        return ("arrival", "rate"), arrival.rate * factor
    if isinstance(arrival, Open):
        return ("arrival", "envelope"), tuple(_busier(envelope, factor) for envelope in arrival.envelope)
    if trace is not None and (trace.rate_scale is None or trace.rate_scale.method == "compress"):
        before = 1.0 if trace.rate_scale is None else trace.rate_scale.factor
        return ("trace", "rate_scale"), RateScale(factor=before * factor, method="compress")
    return None


def _busier(envelope: AnyEnvelope, factor: float) -> AnyEnvelope:
    """Stages that give rates, with other rates; any other envelope as it is."""
    if not isinstance(envelope, Stages):
        return envelope
    stages = [s if s.rate is None else s.model_copy(update={"rate": s.rate * factor}) for s in envelope.stages]
    return envelope.model_copy(update={"stages": tuple(stages)})


def multiplied(signal: Signal, factor: float) -> Signal:
    """A signal with all values times a factor."""
    found = Signal(signal.times_s, signal.left * factor, signal.right * factor, signal.period_s)
    found.known_until_s = signal.known_until_s
    return found
