"""Measured serving runs: rows of CSV files as the loads, devices and engines that they were measured with."""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from simfleet.hardware.profile import Profile
from simfleet.library import Library
from simfleet.workload.models import BYTES_PER_ELEMENT, Model

Cells = Mapping[str, str]

STATISTICS = ("mean", "p50", "p90", "p95", "p99")
METRICS = (
    *(f"{what}_{which}_s" for what in ("ttft", "tpot", "e2e") for which in STATISTICS), "output_tok_per_s", "total_tok_per_s",
    "itl_p50_s", "joules_per_token", "power_imposed", "power_predicted",
)  # fmt: skip
"""Columns that hold what was measured; all others say what was asked for."""

SPREADS = (
    (r"gap-analysis|^aws-neuron|LLM-Inference-Bench|TensorRT-LLM", (1.0, 1.0)),
    (r"inferencex-profiling", (8 / 9, 10 / 9)),
    (r"source_file|db-dump|fixtures", (0.8, 1.0)),
)
"""Where a row comes from -> shares of the stated lengths between which they were drawn, evenly.

InferenceX's client draws 0.8 to 1.0 of the nominal lengths (mean 0.897 in its own rows); inferencex-profiling states the means of the same.
"""

ENGINES = (
    (r"dynamo|deepspeed|llama\.cpp|neuronx|sambaflow|jetpack|^atom", ""),
    (r"vllm-mlenergy", "vllm-mlenergy"),
    (r"vllm", "vllm"),
    (r"sglang", "sglang"),
    (r"trt|tensorrt", "tensorrt-llm"),
)
"""Words in an exported engine name -> preset; the first that is found counts, "" is an engine that is not simulated."""

MLPERF_INPUT = {"llama-2-70b": 294.0}
"""Mean prompt [tokens] where a log names a data set and no length: OpenOrca (estimate: from memory, unverified)."""

MLPERF_FORMAT = "fp8"
"""What its large models were submitted in on devices that have it, where a log does not say (estimate)."""

PER_REQUEST = ("request_id", "request_idx")
"""Columns of files with a row per request, which are replayed as one run."""

EIGHT_BITS_KV = ("tensorrt-llm",)
"""Engines whose 8-bit and 4-bit checkpoints come with an 8-bit KV cache; on devices with 4-bit arithmetic (Blackwell) vLLM's recipes set it too."""


ENERGY = {
    "hardware": "gpu_model", "model": "model_id", "precision": "weight_precision", "tp": "num_gpus", "num_devices": "num_gpus",
    "ep": "expert_parallel", "concurrency": "max_num_seqs", "osl": "avg_output_len", "batch": "avg_batch_size", "itl_p50_ms": "median_itl_ms",
    "output_tok_per_s": "output_throughput_tokens_per_sec", "joules_per_token": "energy_per_token_joules",
    "power_imposed": "power_per_gpu_watts", "power_predicted": "power_per_gpu_watts",
}  # fmt: skip
"""What a column is called here -> in the files of the ML.ENERGY benchmark, which serves on vLLM and gives board watts of one device.

Its layers of experts are dealt out over all devices, and the rest is split over them, whatever its `tensor_parallel` says.
"""
ENERGY_ENGINE = "vllm-mlenergy"
PROMPTS = {"lm-arena-chat": 90, "gpqa": 250, "sourcegraph-fim": 700, "image-chat": 800, "video-chat": 1000}
"""Tokens of its prompts by task (estimates: the files do not give them). Those of images and videos are what leaves the imposed watts of
these rows without bias: both devices agree on them."""
SPREAD = 0.55
"""Standard deviation of its answers' lengths over their mean (estimate)."""
TURNS = 6
"""Requests of each user of its closed loops."""

NO_NUMBER = ("", "None", "True", "False")
"""Cells that say nothing in a column of numbers, such as whether experts are dealt out at all."""


class Skipped(Exception):  # noqa: N818 - not an error: a row that asks for what the simulator does not do
    """Why a row is not simulated."""


class Pace(NamedTuple):
    """How fast a batch was served: sequences in it, mean prompt and mean answer [tokens], and seconds of a step."""

    batch: float
    prompt: int
    output: float
    step_s: float


@dataclass(frozen=True, slots=True)
class Row:
    """One measured run: `scenario` is its load as plain data for `simfleet.load`, `measured` metric -> value [s, tokens/s]."""

    file: str
    line: int
    device: str
    model: str
    engine: str
    tags: Mapping[str, str]
    scenario: dict[str, Any]
    measured: Mapping[str, float]
    requests: tuple[tuple[float, int, int], ...] = ()  # of a replay: arrival [s], input and output tokens
    latencies: tuple[tuple[float, float], ...] = ()  # and what was measured of each: TTFT and E2E [s]
    pace: Pace | None = None  # of runs whose watts were measured


def read(path: Path, library: Library) -> Iterator[Row | Skipped]:
    """Every run of a CSV file, or why it is skipped; a file with a row per request holds a run for each device, model and load.

    Raises ValueError for a file that lacks the columns, OSError where it cannot be read.
    """
    with path.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        columns = reader.fieldnames or ()
        if set(ENERGY.values()) <= set(columns):
            yield from _each(reader, lambda cells: _energy_row(path, reader.line_num, cells, library))
            return
        missing = [name for name in ("hardware", "model", "engine") if name not in columns]
        if missing:
            raise ValueError(f"{path}:1: missing columns {', '.join(missing)}; the file has: {', '.join(columns)}")
        if any(name in columns for name in PER_REQUEST):
            yield from _replays(path, list(reader), library)
            return
        yield from _each(reader, lambda cells: _row(path, reader.line_num, cells, library))


def _each(reader: Iterable[Cells], read_row: Callable[[Cells], Row]) -> Iterator[Row | Skipped]:
    for cells in reader:
        try:
            yield read_row(cells)
        except Skipped as reason:
            yield reason


def _row(path: Path, line: int, cells: Cells, library: Library) -> Row:
    _refuse(cells)
    model, pool, tags = _served(cells, library)
    measured = {name: value for name in METRICS if (value := _number(cells, name))}
    if not measured:
        raise Skipped("nothing measured in the columns ttft_*, tpot_*, e2e_*, *_tok_per_s")
    stream, together = _stream(cells, model)
    if _offline_run(cells):  # how long a request waits for its turn depends on how many were asked at once
        measured = {name: value for name, value in measured.items() if name.endswith("tok_per_s")}
    if "e2e_mean_s" not in measured and {"ttft_mean_s", "tpot_mean_s"} <= measured.keys():
        measured["e2e_mean_s"] = measured["ttft_mean_s"] + measured["tpot_mean_s"] * (
            _mean(stream["tokens"]["output"]) - 1
        )
    if together and "max_sequences" not in pool["engine"]:
        pool["engine"]["max_sequences"] = together
    scenario = {"name": f"{path.name}:{line}", "workload": {"streams": [stream]}, "pools": {"measured": pool}}
    if pool.get("replicas", 1) > 1:
        scenario["routing"] = {"kind": "least_loaded"}
    return Row(path.name, line, tags["hardware"], model.name, tags["engine"], tags, scenario, measured)


def _energy_row(path: Path, line: int, cells: Cells, library: Library) -> Row:
    """A run whose watts were measured: as many users as sequences fit, in a closed loop that stands still."""
    task, users = cells.get("task", ""), _number(cells, ENERGY["concurrency"]) or 0.0
    if task not in PROMPTS:
        raise Skipped(f"unknown task `{task}`")
    named = {name: cells[column] for name, column in ENERGY.items()}
    named["ep"] = named["tp"] if (_number(named, "ep") or 0.0) > 1 else ""
    named |= {
        "engine": ENERGY_ENGINE, "max_num_seqs": named["concurrency"], "isl": str(PROMPTS[task]), "osl_spread": str(SPREAD),
        "precision": f"{named['precision']}, kv cache = bf16", "num_requests": str(TURNS * users),
        "itl_p50_s": str(1e-3 * (_number(named, "itl_p50_ms") or 0.0)),
    }  # fmt: skip
    row, rate, batch = _row(path, line, named, library), _number(named, "output_tok_per_s"), _number(named, "batch")
    if not rate or not batch:
        raise Skipped("no tokens per second, or no sequences in the batch")
    pace = Pace(batch, PROMPTS[task], float(named["osl"]), batch / rate)
    return replace(row, tags={**row.tags, "task": task, "served": cells[ENERGY["model"]]}, pace=pace)


def _served(cells: Cells, library: Library) -> tuple[Model, dict[str, Any], dict[str, str]]:
    """The model, the pool as plain data, and the names that a row is filed under."""
    profile = library.profile(_named(library, "hardware_profiles", "device", cells["hardware"]))
    model = library.model(_named(library, "models", "model", cells["model"]))
    engine = next((preset for words, preset in ENGINES if re.search(words, cells["engine"].lower())), "")
    if not engine:
        raise Skipped(f"engine `{cells['engine'].strip()}` is not simulated")
    formats = _formats(cells, engine, model, profile)
    pool = {
        "device": profile.name, "model": model.name, "engine": {"preset": engine, **_limits(cells)}, "precision": formats,
        **_parallel(cells, model, profile, formats["weights"]),
    }  # fmt: skip
    return model, pool, {"hardware": profile.name, "engine": engine, "model": model.name}


def _replays(path: Path, rows: list[dict[str, str]], library: Library) -> Iterator[Row | Skipped]:
    """Runs of a file with a row per request: its exact arrivals, or Poisson ones of its rate (fixed draw), and its exact lengths."""
    runs: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for cells in rows:
        key = tuple(
            cells.get(name, "") for name in ("hardware", "model", "engine", "tp", "request_rate", "concurrency")
        )
        runs.setdefault(key, []).append(cells)
    for run in runs.values():
        try:
            yield _replay(path, run, library)
        except Skipped as reason:
            yield Skipped(f"{reason} ({len(run)} requests)")


def _replay(path: Path, rows: list[dict[str, str]], library: Library) -> Row:
    first = rows[0]
    _, pool, tags = _served(first, library)
    rate = _number(first, "request_rate")
    if "arrival_s" not in first and not rate:
        raise Skipped("a closed loop of single requests: its summary rows are simulated instead")
    gaps = np.random.default_rng(0).exponential(1 / rate, len(rows)).cumsum().tolist() if rate else []
    requests, latencies = [], []
    for number, cells in enumerate(rows):
        numbers = [_number(cells, name) for name in ("isl", "osl", "ttft_s", "e2e_s")]
        arrival_s = _number(cells, "arrival_s") if "arrival_s" in cells else gaps[number]
        if None in numbers or arrival_s is None or cells.get("error"):
            continue
        inputs, outputs, first_s, whole_s = (float(number or 0) for number in numbers)
        requests.append((arrival_s, max(int(inputs), 1), max(int(outputs), 1)))
        latencies.append((first_s, whole_s))
    ttft_s, e2e_s = np.array(latencies).T
    tokens = np.array([request[2] for request in requests])
    tpot_s = (e2e_s - ttft_s)[tokens > 1] / (tokens[tokens > 1] - 1)
    measured = {}
    for what, values in (("ttft", ttft_s), ("tpot", tpot_s), ("e2e", e2e_s)):
        measured[f"{what}_mean_s"] = float(values.mean())
        measured |= {f"{what}_{name}_s": float(np.percentile(values, int(name[1:]))) for name in STATISTICS[1:]}
    stream = {"name": "requests", "model": pool["model"], "trace": {"file": "", "format": "csv", "sort": True}}
    scenario = {"name": path.name, "workload": {"streams": [stream]}, "pools": {"measured": pool}}
    return Row(
        path.name, 2, tags["hardware"], tags["model"], tags["engine"], tags, scenario, measured, tuple(sorted(requests)),
        tuple(pair for _, pair in sorted(zip(requests, latencies, strict=True))),
    )  # fmt: skip


def _refuse(cells: Cells) -> None:
    """Raise Skipped for what the simulator does not do."""
    if cells.get("disagg") == "True" or cells.get("mode", "agg") not in ("", "agg"):
        raise Skipped("prefill and decode on separate devices are not simulated")
    if cells.get("spec_decode", "none") not in ("", "none"):
        raise Skipped("speculative decoding is not simulated")
    if cells.get("suspect") == "True":
        raise Skipped("marked suspect in the file: violates Little's law")
    if cells.get("stage", "") not in ("", "-1", "-1.0") and not _number(cells, "stage_duration_s"):
        raise Skipped("a stage without duration")


def _named(library: Library, kind: str, what: str, name: str) -> str:
    try:
        return library.path(kind, name).stem
    except LookupError:
        raise Skipped(f"unknown {what} `{name}`") from None


def _number(cells: Cells, name: str) -> float | None:
    """The number in a column, None where there is none. Raises Skipped for a text, or a number below 0."""
    text = cells.get(name) or ""
    if text in NO_NUMBER:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if value < 0:
        raise Skipped(f"column `{name}`: expected a number of at least 0, got `{text}`")
    return value if isfinite(value) else None


# -- what was asked for ---------------------------------------------------------------------------------------------------


def _stream(cells: Cells, model: Model) -> tuple[dict[str, Any], int | None]:
    """The stream of a row, and how many requests may be together at most."""
    tokens = _tokens(cells, model)
    stream: dict[str, Any] = {"name": "requests", "model": model.name, "tokens": tokens}
    users, rate, batch = (_number(cells, name) for name in ("concurrency", "request_rate", "batch_size"))
    requests = _number(cells, "num_requests")
    if users:
        stream |= {"arrival": {"kind": "closed_loop", "users": int(users)}, "count": int(requests or 10 * users)}
        return stream, None
    if rate:
        micro = (
            "poisson"
            if "MLPerf" in cells.get("workload", "") or "dstack" in cells.get("source", "")
            else "deterministic"
        )
        count = requests or rate * (_number(cells, "stage_duration_s") or 180.0)
        stream |= {"arrival": {"rate": f"{rate} /s", "micro": {"kind": micro}}, "count": max(int(count), 1)}
        return stream, None
    if batch:
        return stream | {"arrival": {"kind": "burst"}, "count": int(batch)}, int(batch)
    if _offline_run(cells):
        return stream | {"arrival": {"kind": "burst"}, "count": _offline(tokens)}, None
    raise Skipped("no load: none of concurrency, request_rate, batch_size, and not an offline benchmark")


def _offline_run(cells: Cells) -> bool:
    return "throughput" in cells["engine"] or cells.get("scenario") == "Offline"


def _tokens(cells: Cells, model: Model) -> dict[str, Any]:
    """Lengths of prompts and answers, and how much of each prompt is the same for many."""
    inputs, outputs = _number(cells, "isl") or MLPERF_INPUT.get(model.name), _number(cells, "osl")
    if not inputs or not outputs:
        raise Skipped("no input or output lengths")
    origin = " ".join(cells.get(name, "") or "" for name in ("source", "origin", "source_path"))
    low, high = next((spread for words, spread in SPREADS if re.search(words, origin)), (1.0, 1.0))
    spread = _number(cells, "osl_spread")
    output = {"dist": "lognormal", "mean": outputs, "std": spread * outputs} if spread else _length(outputs, low, high)
    return {"input": _length(inputs, low, high), "output": output} | _shared(cells)


def _shared(cells: Cells) -> dict[str, int]:
    shared = _number(cells, "shared_prefix_len")
    return {"shared_prefix": int(shared)} if shared else {}


def _length(tokens: float, low: float, high: float) -> dict[str, Any]:
    if low == high:
        return {"dist": "constant", "value": max(round(tokens), 1)}
    return {"dist": "uniform", "low": max(round(low * tokens), 1), "high": max(round(high * tokens), 1)}


def _offline(tokens: Mapping[str, Any]) -> int:
    """Requests of an offline run, fewer for longer ones: about two million tokens, as in TensorRT-LLM's benchmark (1,000 to 30,000)."""
    mean = sum(_mean(tokens[key]) for key in ("input", "output"))
    return int(min(max(4e6 / mean, 1000), 4000))


def _mean(length: Mapping[str, Any]) -> float:
    return float(length["value"]) if length["dist"] == "constant" else (length["low"] + length["high"]) / 2


# -- what served it -------------------------------------------------------------------------------------------------------


def _limits(cells: Cells) -> dict[str, Any]:
    """Engine settings that a row states."""
    stated = {"num_kv_blocks": "total_kv_blocks", "token_budget": "max_num_batched_tokens", "max_sequences": "max_num_seqs", "memory_fraction": "gpu_mem_util"}  # fmt: skip
    limits: dict[str, Any] = {key: number for key, name in stated.items() if (number := _number(cells, name))}
    limits |= {key: int(limits[key]) for key in ("num_kv_blocks", "token_budget", "max_sequences") if key in limits}
    return limits


def _formats(cells: Cells, engine: str, model: Model, profile: Profile) -> dict[str, str]:
    """How weights and KV are stored and in what is computed; unstated is 16 bits, as are 4-bit and 8-bit products where a device has none."""
    words = (cells.get("precision") or cells.get("weights") or "").lower()
    found = re.search(r"(?:weight[s]? ?=? ?)?(bf16|bfloat16|fp16|float16|fp8|int8|mxfp4|nvfp4|fp4|int4)", words)
    named = (
        found[1]
        if found
        else MLPERF_FORMAT
        if "MLPerf" in cells.get("workload", "") and "fp8" in profile.flops
        else "bf16"
    )
    weights = {"bfloat16": "bf16", "float16": "fp16"}.get(named, named)
    narrow = BYTES_PER_ELEMENT[weights] < 2
    cache = re.search(r"kv cache = (\w+)", words)
    eight = narrow and (engine in EIGHT_BITS_KV or "fp4" in profile.flops)
    kv = cache[1] if cache else "fp8" if eight else "bf16"
    computes = {"fp8": "fp8", "int8": "int8", "fp4": "fp4", "nvfp4": "fp4", "mxfp4": "fp4"}.get(weights, weights)
    acts = weights if computes in profile.flops else "bf16"
    if computes == "fp4" and model.fp4 == "mxfp4":  # multiplied with 8 bits where there are 4-bit units, else with 16
        acts = "fp8" if "fp4" in profile.flops else "bf16"
    return {"weights": weights, "kv": kv, "activations": acts}


def _parallel(cells: Cells, model: Model, profile: Profile, weights: str) -> dict[str, int]:
    """How the model is spread. Exports multiply: where tp is ep squared on one server, ep devices are meant (their `num_devices` = tp*ep).

    MLPerf's systems are so many replicas of the fewest devices whose weights take at most 60 % of the memory.
    """
    tp, ep, pp, dp = (int(_number(cells, name) or 1) for name in ("tp", "ep", "pp", "dp"))
    devices = int(_number(cells, "num_devices") or tp)
    if "MLPerf" in cells.get("workload", ""):
        room = 0.6 * profile.memory.capacity.value
        tp = next((n for n in (1, 2, 4, 8) if model.weight_bytes(weights, n) <= room), 8)
        return {"tensor_parallel": tp, "replicas": max(devices // tp, 1)}
    exported = "source_file" in (origin := cells.get("origin", "")) and "gap-analysis" not in origin
    if ep > 1 and tp == ep * ep and exported:
        tp = devices = ep
    if not _number(cells, "tp"):
        tp = devices
    adp = dp if dp > 1 and tp == 1 else 1
    spread = {"tensor_parallel": tp, "pipeline_parallel": pp, "expert_parallel": min(ep, tp * adp), "attention_dp": adp}
    return {key: number for key, number in spread.items() if number > 1}
