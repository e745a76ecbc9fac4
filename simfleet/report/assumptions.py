"""What a report rests on: what was asked for, every number behind it that is an estimate, and every row that was left out."""

import json
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from simfleet.hardware.operators import PARTS, SIXTEEN_BITS
from simfleet.hardware.profile import estimates
from simfleet.pool import Pool
from simfleet.run import Run
from simfleet.scenario import Scenario
from simfleet.spec import Spec
from simfleet.terminal import counted

APART = ("name", "description", "targets")
"""Keys of a scenario that change no result, or that a report tells by themselves."""


def inputs(scenario: Scenario) -> list[list[str]]:
    """[dotted path, value] of all that the scenario says, as it was written, with what was laid over it: ["pools.chat.cost.kind", "own"].

    Items of lists go by their names, as with `--set`. What is left to defaults, presets and profiles is not in it.
    """
    written = {key: value for key, value in scenario.document.data.items() if key not in APART}
    return [[path, value] for path, value in _leaves("", written)]


def _leaves(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Spec):
        value = value.model_dump(mode="json", by_alias=True)
    if isinstance(value, list | tuple) and value and all(isinstance(item, dict) and "name" in item for item in value):
        value = {item["name"]: {key: one for key, one in item.items() if key != "name"} for item in value}
    if isinstance(value, dict) and value:
        for key, one in value.items():
            yield from _leaves(f"{path}.{key}" if path else str(key), one)
    else:
        yield path, value if isinstance(value, str) else json.dumps(value, default=str)


def assumptions(run: Run) -> list[str]:
    """One sentence each, none twice."""
    found: dict[str, None] = {}
    for name, pool in run.scenario.pools.items():
        device, site = pool.profile.name, run.scenario.sites[pool.site]
        found |= {f"{device}: {line}": None for line in estimates(pool.profile, without=_unused(pool))}
        found |= {f"{device}: {line}": None for line in pool.cost.estimates(pool.profile)}
        found |= {f"{pool.site}: {line}": None for line in site.estimates()}
        if pool.network.note is not None:
            found[f"{pool.network.name}: {pool.network.note}"] = None
        found |= {f"pool {name}: {line}": None for line in pool.engine.estimates()}
        if pool.profile.embodied is not None:
            found["making the devices: emissions spread over five years in service"] = None
        given, room = pool.kv_blocks(), pool.memory_blocks()
        if given > room:
            found[f"pool {name}: {given:,} KV blocks as given, though memory leaves room for {room:,}"] = None
    for number, stream in enumerate(run.scenario.workload.streams):
        beyond = sum(account.too_long for account in run.records.accounts if account.stream == number)
        if beyond:
            longest = f"{stream.model.max_context:,} tokens that {stream.model.name} was made for"
            found[
                f"stream {stream.name}: {counted(beyond, 'request')} longer than the {longest}, served all the same"
            ] = None
        trace = stream.trace
        if trace is not None and trace.dropped:
            found[
                f"stream {stream.name}: {counted(len(trace.dropped), 'bad row')} of {PurePath(trace.file).name} left out"
            ] = None
    return list(found)


def _unused(pool: Pool) -> tuple[str, ...]:
    """Paths of a profile that play no part in a pool: other formats, collectives that it does not need, parts that it has no use for."""
    step, precision, parallel = pool.profile.step, pool.precision, pool.parallel
    stored = {pool.network.part_precision(part, precision.weights) for part in PARTS}
    sixteen_bits = [name for name in SIXTEEN_BITS if name in pool.profile.flops]
    formats = {*stored, precision.activations, *sixteen_bits[:1]}  # parts that stay in 16 bits take the first
    routed = any(group.experts for group in pool.network.groups)
    paths = [f"step.gemm.{name}" for name in step.gemm if name not in formats]
    paths += [f"step.experts.{name}" for name in step.experts if name not in formats or not routed]
    paths += [f"step.decode_attention.{name}" for name in step.decode_attention if name != precision.kv]
    paths += [f"step.prefill_attention.{name}" for name in step.prefill_attention if name != precision.kv]
    paths += ["step.all_to_all", "flops", "memory.second_tier"]
    paths += [] if routed else ["memory.sram"]
    paths += ["step.all_reduce", "step.one_kernel"] if parallel.tensor == 1 else []
    paths += ["step.all_gather", "step.reduce_scatter"] if parallel.attention_dp == 1 else []
    paths += ["step.send_receive"] if parallel.pipeline == 1 else []
    paths += ["scale_up"] if parallel.devices == 1 else []
    paths += ["scale_out"] if pool.profile.scale_up is None or parallel.devices <= pool.profile.scale_up.domain else []
    paths += ["own"] if pool.cost.kind == "rent" else []
    return tuple(f"{path}." for path in paths)
