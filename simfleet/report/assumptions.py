"""What a report rests on: every number behind it that is an estimate, and every row that was left out."""

from pathlib import PurePath

from simfleet.hardware.profile import estimates
from simfleet.run import Run
from simfleet.scenario import Pool


def assumptions(run: Run) -> list[str]:
    """One sentence each, none twice."""
    found: dict[str, None] = {}
    for name, pool in run.scenario.pools.items():
        device, site = pool.profile.name, run.scenario.sites[pool.site]
        found |= {f"{device}: {line}": None for line in estimates(pool.profile) if _used(line, pool)}
        found |= {f"{device}: {line}": None for line in pool.cost.estimates(pool.profile)}
        found |= {f"{pool.site}: {line}": None for line in site.estimates()}
        if pool.network.note is not None:
            found[f"{pool.network.name}: {pool.network.note}"] = None
        found[f"pool {name}: reserve, host, launch and front-end constants of its engine (docs/physics.md)"] = None
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
                f"stream {stream.name}: {beyond:,} requests are longer than the {longest}, and were served all the same"
            ] = None
        trace = stream.trace
        if trace is not None and trace.dropped:
            found[
                f"stream {stream.name}: {len(trace.dropped)} bad rows of {PurePath(trace.file).name} were left out"
            ] = None
    return list(found)


def _used(line: str, pool: Pool) -> bool:
    """Whether an estimate of a profile plays a part in a pool: not those of other formats, or of parts that it has no use for."""
    sixteen_bits = [name for name in ("bf16", "fp16") if name in pool.profile.flops]
    formats = {*pool.precision, *sixteen_bits[:1]}  # parts that stay in 16 bits take the first
    unused = [f"step.gemm.{name}:" for name in pool.profile.step.gemm if name not in formats]
    unused += ["flops:", "scale_out", "memory: sram", "memory: second_tier"]
    unused += ["own"] if pool.cost.kind == "rent" else []
    unused += ["step.all_reduce", "scale_up"] if pool.tensor_parallel == 1 else []
    return not line.startswith(tuple(unused))
