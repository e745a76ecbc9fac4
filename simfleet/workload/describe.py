"""What a stream of requests looks like: rate, dispersion of counts, lengths, prefix hits; as numbers and as text."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from math import inf
from typing import Any

import numpy as np
import numpy.typing as npt

from simfleet.streams import Streams
from simfleet.terminal import counted
from simfleet.workload.arrivals import ClosedLoop
from simfleet.workload.streams import Request, Stream, Workload
from simfleet.workload.tracefile import PREFIX_BLOCK

Floats = npt.NDArray[np.float64]
Description = dict[str, Any]

WINDOWS_S = (1, 10, 60, 300)
PERCENTILES = (50, 90, 95, 99)
LOOP_SAMPLE = 10_000
"""Requests of a closed loop whose lengths are looked at."""
_ROW = np.dtype([("arrival_s", np.float64), ("input_tokens", np.int64), ("output_tokens", np.int64)])


def streams(workload: Workload, seed: int = 0, horizon_s: float | None = None) -> dict[str, Description]:
    """A description of each stream of a workload, by name.

    Raises ValueError for a stream that only a horizon ends, when there is none.
    """
    return {stream.name: _stream(stream, Streams(seed), horizon_s) for stream in workload.streams}


def _stream(stream: Stream, random: Streams, horizon_s: float | None) -> Description:
    if isinstance(stream.arrival, ClosedLoop):
        return {"users": stream.arrival.users} | lengths(islice(stream.lengths(random), stream.count or LOOP_SAMPLE))
    if stream.endless and horizon_s is None:
        raise ValueError(f"expected a horizon for the stream `{stream.name}`, which does not end by itself")
    limit_s = inf if horizon_s is None else horizon_s
    described = describe(stream.requests(random, limit_s), horizon_s if stream.endless else None)
    if stream.trace is None:
        return described
    prompts = stream.trace.prompts()
    hits = {"prefix_hits": prefix_hits(prompts)} if prompts else {}
    return described | {"dropped_rows": len(stream.trace.dropped)} | hits


def describe(requests: Iterable[Request], duration_s: float | None = None) -> Description:
    """Describe requests (arrival [s], input tokens, output tokens) in order of arrival.

    Parameters
    ----------
    duration_s : length of the observation from time 0 [s]; the last arrival unless given

    Returns
    -------
    requests, duration_s, rate_per_s; windows_s: for each length of window that fits twice, `dispersion` and
    `peak_per_s`; gap_cv: standard deviation over mean of the gaps; input_tokens, output_tokens: total, mean, p50, p90,
    p95, p99, max; length_correlation: Spearman's. What the requests do not determine is None.
    """
    table = np.fromiter(requests, dtype=_ROW)
    times_s = table["arrival_s"]
    span_s = float(times_s[-1]) if duration_s is None and len(table) else duration_s or 0.0
    return {
        "requests": len(table),
        "duration_s": span_s,
        "rate_per_s": len(table) / span_s if span_s else None,
        "windows_s": {w: _window(times_s, span_s, w) for w in WINDOWS_S if 2 * w <= span_s and len(table)},
        "gap_cv": _ratio(np.diff(times_s)) if len(table) > 2 else None,
        **_lengths(table["input_tokens"], table["output_tokens"]),
    }


def lengths(tokens: Iterable[tuple[int, int]]) -> Description:
    """The part of a description that (input, output) lengths alone determine."""
    table = np.array(list(tokens), dtype=np.int64).reshape(-1, 2)
    return {"requests": len(table), **_lengths(table[:, 0], table[:, 1])}


def dispersion(times_s: Floats, duration_s: float, window_s: float) -> float | None:
    """Index of dispersion of counts: population variance over mean of the counts in whole windows from time 0.

    1 for a Poisson process at a constant rate. None where no request falls into a whole window.
    """
    counts = _counts(times_s, duration_s, window_s)
    return float(counts.var() / counts.mean()) if counts.any() else None


def _window(times_s: Floats, duration_s: float, window_s: float) -> Description:
    peak = _counts(times_s, duration_s, window_s).max() / window_s
    return {"dispersion": dispersion(times_s, duration_s, window_s), "peak_per_s": float(peak)}


def _counts(times_s: Floats, duration_s: float, window_s: float) -> npt.NDArray[np.int64]:
    windows = int(duration_s // window_s)
    places = (times_s // window_s).astype(np.int64)
    return np.bincount(places[places < windows], minlength=windows)


def _ratio(values: Floats) -> float | None:
    return float(values.std() / values.mean()) if values.any() else None


def _lengths(inputs: npt.NDArray[np.int64], outputs: npt.NDArray[np.int64]) -> Description:
    return {
        "input_tokens": _summary(inputs),
        "output_tokens": _summary(outputs),
        "length_correlation": spearman(inputs, outputs),
    }


def _summary(tokens: npt.NDArray[np.int64]) -> Description:
    if not len(tokens):
        return {"total": 0}
    percentiles = np.percentile(tokens, PERCENTILES).tolist()
    named = {f"p{p}": value for p, value in zip(PERCENTILES, percentiles, strict=True)}
    return {"total": int(tokens.sum()), "mean": float(tokens.mean()), **named, "max": int(tokens.max())}


def spearman(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> float | None:
    """Spearman's rank correlation, ties at their mean rank. None where one of them does not vary."""
    if len(x) < 2 or (x == x[0]).all() or (y == y[0]).all():
        return None
    return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])


def _ranks(x: npt.NDArray[Any]) -> Floats:
    _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Floats = (last - (counts - 1) / 2)[place]
    return ranks


def prefix_hits(prompts: Iterable[tuple[int, Sequence[int]]], capacity: int | None = None) -> Description:
    """Shares of `blocks` and of prompt `tokens` that a prefix cache would already hold.

    Each prompt is its tokens and the ids of its blocks, where an id stands for the block and all before it (Mooncake).
    The cache keeps `capacity` blocks, the least recently used goes first; None keeps all. Raises ValueError without any
    prompt.
    """
    cache: OrderedDict[int, None] = OrderedDict()
    block_hits = blocks = token_hits = tokens = 0
    for length, ids in prompts:
        hit = next((i for i, block in enumerate(ids) if block not in cache), len(ids))
        block_hits, blocks = block_hits + hit, blocks + len(ids)
        token_hits, tokens = token_hits + min(hit * PREFIX_BLOCK, length), tokens + length
        _use(cache, ids, capacity)
    if not blocks:
        raise ValueError("expected prompts with blocks, got none")
    return {"blocks": block_hits / blocks, "tokens": token_hits / tokens}


def _use(cache: OrderedDict[int, None], ids: Sequence[int], capacity: int | None) -> None:
    for block in ids:
        cache[block] = None
        cache.move_to_end(block)
        if capacity is not None and len(cache) > capacity:
            cache.popitem(last=False)


def text(described: dict[str, Description]) -> str:
    """Descriptions by name as plain tables."""
    return "\n\n".join("\n".join([name, *_lines(description)]) for name, description in described.items())


def _lines(one: Description) -> Iterator[str]:
    if "users" in one:
        yield f"  {counted(one['users'], 'user')} in a closed loop; lengths of {counted(one['requests'], 'request')}:"
    else:
        rate = f", {_number(one['rate_per_s'])} /s" if one["rate_per_s"] else ""
        yield f"  {counted(one['requests'], 'request')} in {_span(one['duration_s'])}{rate}; CV of gaps {_number(one['gap_cv'])}"
    if one.get("dropped_rows"):
        yield f"  bad rows of the file, dropped: {one['dropped_rows']}"
    if one.get("windows_s"):
        yield _cells("window", [f"{w} s" for w in one["windows_s"]])
        for key, title in (("dispersion", "dispersion"), ("peak_per_s", "peak [/s]")):
            yield _cells(title, [_number(window[key]) for window in one["windows_s"].values()])
    if one["requests"]:
        yield _cells("tokens", one["input_tokens"])
        for key in ("input_tokens", "output_tokens"):
            yield _cells(f"  {key.split('_')[0]}", map(_number, one[key].values()))
        related = one["length_correlation"]
        yield f"  rank correlation of input and output {'-' if related is None else f'{related:z.2f}'}"
    if "prefix_hits" in one:
        hits = one["prefix_hits"]
        yield f"  prefix hits with an endless cache: {hits['tokens']:.1%} of tokens, {hits['blocks']:.1%} of blocks (whole file)"


def _cells(title: str, cells: Iterable[str]) -> str:
    return f"  {title:12}" + "".join(f"{cell:>14}" for cell in cells)


def _number(value: float | None) -> str:
    """Whole numbers and all from 100 with thousands commas, others to three digits; `-` for what is not determined."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 100 else f"{value:.3g}"


def _span(duration_s: float) -> str:
    """Seconds as they are, in front of the hours they make where those are many."""
    seconds = f"{_number(duration_s)} s"
    return f"{seconds} ({duration_s / 3600:.3g} h)" if duration_s >= 3600 else seconds
