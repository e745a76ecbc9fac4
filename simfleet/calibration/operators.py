"""Constants of a profile's step section from tables of measured operators: one fit per family and format.

Each fit minimises soft_l1 of ln(predicted / measured) over the rows of one device, the prediction being the very function of
`hardware.roofline` that the simulator calls. The shipped constants are what these commands give (tables of docs/physics.md):

    simfleet calibrate aic_op_gemm.csv aic_op_attention.csv aic_op_moe.csv aic_op_comm.csv vidur_op_network.csv --out hardware_profiles
    simfleet calibrate tpu_v6e_op_layers.csv tpu_v6e_op_attention.csv --out hardware_profiles
    simfleet calibrate llmservingsim_op_dense.csv llmservingsim_op_attention.csv --profile nvidia-rtx-4090 \\
        --out hardware_profiles/nvidia-rtx-4090.yaml
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp, log, sqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from simfleet.calibration.tables import Decode, Message, Product, Prompt, Record, Routed, digest, read
from simfleet.document import Mark, Problem, SpecError
from simfleet.evidence.rows import Skipped
from simfleet.hardware.operators import NATIVE
from simfleet.hardware.profile import (
    Arithmetic,
    Collective,
    DecodeAttention,
    Experts,
    Gemm,
    OneKernel,
    PrefillAttention,
    Profile,
)
from simfleet.hardware.roofline import (
    ACTIVATION_BYTES,
    Attention,
    collective_s,
    decode_attention,
    experts,
    gemm,
    one_kernel_s,
    prefill_attention,
)
from simfleet.library import Library
from simfleet.units import Quantity
from simfleet.workload.models import BYTES_PER_ELEMENT

Constants = Gemm | Experts | DecodeAttention | PrefillAttention | Collective | OneKernel
Values = Mapping[str, Any]
"""Numbers by the names of their terms."""


class Term(NamedTuple):
    """One constant to be found: its bounds and where the search starts. It is searched by its logarithm where `low` is above 0."""

    low: float
    high: float
    start: float


COLLECTIVE = {
    "t0": Term(1e-7, 1e-4, 5e-6), "per_device": Term(1e-8, 2e-5, 1.5e-6), "low": Term(1e-4, 1, 0.2),
    "high": Term(1e-3, 1, 0.6), "fill": Term(1e-7, 3e-4, 1e-5), "fade": Term(-1, 2.5, 0),
}  # fmt: skip
SEND_RECEIVE = {name: COLLECTIVE[name] for name in ("t0", "low", "high", "fill")}
"""Between two devices there is nothing to tell the number of devices by."""

TERMS: dict[str, dict[str, Term]] = {
    "gemm": {
        "t0": Term(3e-7, 3e-5, 3e-6), "compute": Term(0.05, 1, 0.65), "bandwidth": Term(0.2, 1, 0.8), "per_k": Term(1e-12, 3e-9, 2e-10),
        "fill": Term(1, 2000, 100), "fade": Term(1e-4, 0.25, 0.03), "quantise": Term(1e-2, 60, 4), "quantise_row": Term(1e-12, 2e-8, 1e-9),
        "host": Term(1e-6, 1e-3, 1e-4), "host_more": Term(1e-8, 1e-3, 1e-5),
    },
    "experts": {
        "t0": Term(1e-6, 2e-4, 2e-5), "compute": Term(0.02, 1, 0.5), "bandwidth": Term(0.05, 1, 0.7), "moved": Term(0.03, 1.5, 0.5),
        "sent": Term(5e-3, 1, 0.3), "overlap": Term(1, 8, 2), "tile": Term(32, 4000, 128), "cached": Term(0.3, 1.2, 0.6),
    },
    "decode_attention": {
        "t0": Term(5e-7, 4e-5, 1e-5), "bandwidth": Term(0.05, 1, 0.8), "item": Term(0, 1e-6, 2e-8), "slots": Term(0, 256, 60),
        "swap": Term(0, 2e-5, 2e-6), "fill": Term(0, 20, 1),
    },
    "prefill_attention": {
        "t0": Term(5e-7, 4e-5, 1e-5), "compute": Term(0.02, 1.2, 0.6), "tokens": Term(0.02, 2, 0.5), "rows": Term(100, 6e4, 1.2e4),
    },
    "one_kernel": {
        "t0": Term(1e-7, 1e-4, 5e-6), "per_device": Term(1e-8, 2e-5, 1e-7), "one_shot": Term(1e-4, 1, 0.4),
        "two_shots": Term(1e-3, 1, 0.6), "fill": Term(1e-7, 3e-4, 5e-6),
    },
    "all_reduce": COLLECTIVE, "all_gather": COLLECTIVE, "reduce_scatter": COLLECTIVE, "all_to_all": COLLECTIVE,
    "send_receive": SEND_RECEIVE,
}  # fmt: skip
"""Family -> its terms, with bounds that a device can have: shares below 1, launches below a tenth of a millisecond."""

MODELS: dict[str, type[Constants]] = {
    "gemm": Gemm, "experts": Experts, "decode_attention": DecodeAttention, "prefill_attention": PrefillAttention, "one_kernel": OneKernel,
    "all_reduce": Collective, "all_gather": Collective, "reduce_scatter": Collective, "all_to_all": Collective, "send_receive": Collective,
}  # fmt: skip
BENCHMARK = ("host", "host_more", "cached")
"""Terms of a benchmark, not of a device: fitted beside the others and left out of the profile.

`host`, and `host_more` from 32 rows: block-scaled products were launched eagerly and none is faster than that. `cached`: the benchmark
repeats one layer, whose weights stay in this share of the cache.
"""
EAGER_ROWS = 32
ONLY_NARROW, ONLY_WIDE = ("quantise", "quantise_row"), ("fade",)
"""Terms of formats below 16 bits, which are quantised first, and of 16 bits, whose clocks fall with the power."""

ONE_KERNEL = {"below": 8 * 2.0**20, "most": 8}
ONE_KERNEL_OVER_PCIE, FAST_LINK = 2, 100e9
"""vLLM's own all-reduce: below 8 MiB, among 8 devices over NVLink and 2 over PCIe."""

LEAN, LEAN_ON_RELATIVE = 0.05, 0.5
"""How hard a term leans on its start, per e-fold against 10 % of error of one row: what the rows do not tell stays there. Block-scaled
products lean harder on the 8-bit ones: most of their rows show the launch alone."""

SOFT = 0.1
"""Errors well above this count by their size, not its square."""
STARTS, FOLDS, FEWEST = 3, 5, 10
"""Searches per fit, parts of the cross validation, and rows below which a family and format is not fitted."""
CACHE, SEEN, BEYOND_WEIGHT = 1.05, 2e-6, 4.0
"""Decoding rows whose KV fits the cache, but takes longer than 2 us to read from memory, time the cache: no engine finds it there, so
they have no say. Rows beyond it are the fewest, and what serving is: they count four times."""


# -- prediction -----------------------------------------------------------------------------------------------------------


class Bench(NamedTuple):
    """What belongs to a benchmark (BENCHMARK), and the other kernel that an all-reduce may take."""

    host: float = 0.0
    host_more: float = 0.0
    cached: float = 0.0
    one_kernel: OneKernel | None = None


NO_BENCH = Bench()


def predict(record: Record, constants: Constants, profile: Profile, bench: Bench = NO_BENCH) -> float:
    """Seconds that the step model gives for a measured operator."""
    bandwidth, shape = profile.memory.bandwidth.value, record.shape
    if isinstance(constants, Gemm) and isinstance(shape, Product):
        native = _native(record, profile)
        sizes = (BYTES_PER_ELEMENT[record.form], BYTES_PER_ELEMENT[native])
        seconds = gemm("", constants, profile.flops[native].value, bandwidth, 1.0, *shape, *sizes).seconds
        return max(seconds, bench.host + bench.host_more * (shape.rows >= EAGER_ROWS))
    if isinstance(constants, Experts) and isinstance(shape, Routed):
        return _experts_s(record, shape, constants, profile, bench.cached)
    if isinstance(shape, Decode | Prompt):
        return _attention_s(record, shape, constants, profile)
    assert isinstance(shape, Message)
    assert profile.scale_up is not None
    link = profile.scale_up.bandwidth.value
    if isinstance(constants, OneKernel):
        return one_kernel_s(*shape, constants, link)
    assert isinstance(constants, Collective)
    seconds = collective_s(record.family.replace("_", "-"), *shape, constants, link)
    own = bench.one_kernel
    if own is not None and shape.size < own.below and shape.devices <= own.most:
        return min(seconds, one_kernel_s(*shape, own, link))
    return seconds


def _native(record: Record, profile: Profile) -> Arithmetic:
    """What a row is multiplied in: attention in 16 bits, whatever its cache, and so are weights that are only stored narrow."""
    sixteen: Arithmetic = "bf16" if "bf16" in profile.flops else "fp16"
    native = NATIVE.get(record.form, sixteen) if isinstance(record.shape, Product | Routed) else sixteen
    return sixteen if native in ("bf16", "fp16") else native


def _experts_s(record: Record, shape: Routed, constants: Experts, profile: Profile, cached: float) -> float:
    sram = profile.memory.sram.value if profile.memory.sram is not None else 0.0
    weights, size = 3.0 * shape.hidden * shape.width, BYTES_PER_ELEMENT[record.form]
    touched = shape.touched
    if cached and sram:
        missed = (touched * weights * size / (cached * sram)) ** 4
        touched *= missed / (1.0 + missed)
    peak = profile.flops[_native(record, profile)].value
    return experts(
        constants, peak, profile.memory.bandwidth.value, 1.0,
        shape.rows, shape.sent, touched, shape.hidden, shape.width, weights, size, sram,
    ).seconds  # fmt: skip


def _attention_s(record: Record, shape: Decode | Prompt, constants: Constants, profile: Profile) -> float:
    heads, kv_heads, head_dim = shape[-3:]
    key_bytes = 2.0 * kv_heads * head_dim * BYTES_PER_ELEMENT[record.form]
    flops, new = 4.0 * heads * head_dim, ACTIVATION_BYTES * 2.0 * (heads + kv_heads) * head_dim
    layer = Attention(False, 1, heads, kv_heads, key_bytes, flops, flops, new)
    rates = (profile.flops[_native(record, profile)].value, profile.memory.bandwidth.value, 1.0)
    if isinstance(shape, Decode):
        assert isinstance(constants, DecodeAttention)
        fixed_s, *per_token_s = decode_attention(layer, constants, *rates, shape.rows)
        return fixed_s + sum(per_token_s) * shape.rows * shape.context
    assert isinstance(constants, PrefillAttention)
    count, tokens, prefix = shape[:3]
    pairs, keys = tokens * prefix + tokens * (tokens + 1) / 2, prefix + tokens
    return prefill_attention(layer, constants, *rates, count * tokens, count * pairs, count * keys, keys).seconds


# -- fit ------------------------------------------------------------------------------------------------------------------


class Errors(NamedTuple):
    """Of predicted / measured - 1: rows, median and 90th percentile of its size, median of itself."""

    rows: int
    median: float
    p90: float
    bias: float

    @classmethod
    def of(cls, errors: Sequence[float]) -> "Errors":
        size = np.abs(errors)
        return cls(len(errors), float(np.median(size)), float(np.quantile(size, 0.9)), float(np.median(errors)))


@dataclass(frozen=True)
class Fitted:
    """One set of constants and how far it is from its table, and from the parts of it that it was not fitted to."""

    device: str
    family: str
    form: str
    constants: Constants
    bench: Bench
    inside: Errors
    outside: Errors
    files: tuple[str, ...]

    @property
    def note(self) -> str:
        """What the profile says beside the set."""
        floor = (
            f"; the benchmark's eager launch of {self.bench.host * 1e6:.0f} us is left out" if self.bench.host else ""
        )
        inside = f"error {100 * self.inside.median:.1f} % (p90 {100 * self.inside.p90:.0f} %)"
        return f"{inside}, outside the fit {100 * self.outside.median:.1f} %; {self.inside.rows} rows{floor}"


@dataclass(frozen=True)
class _Task:
    """One family and format of a device: rows, terms, constants that are held, and those of a relative to lean on."""

    records: tuple[Record, ...]
    profile: Profile
    model: type[Constants]
    terms: Mapping[str, Term]
    held: Values
    bench: Bench = NO_BENCH
    relative: Values = field(default_factory=dict)

    def built(self, values: Values) -> tuple[Constants, Bench]:
        """The constants, unchecked for speed, and what is the benchmark's."""
        rest = {name: values[name] for name in BENCHMARK if name in values}
        own = {name: value for name, value in values.items() if name not in rest}
        return self.model.model_construct(**own, **self.held), self.bench._replace(**rest)

    def errors(self, values: Values) -> list[float]:
        constants, bench = self.built(values)
        return [predict(record, constants, self.profile, bench) / record.seconds - 1.0 for record in self.records]

    def solve(self, starts: int = STARTS, start: Values | None = None) -> Values:
        """The best of several searches, the first from `start`; the same every time."""
        from scipy.optimize import least_squares  # noqa: PLC0415 - slow to import, and only needed here

        names, weights = list(self.terms), [sqrt(_weight(record, self.profile)) for record in self.records]
        terms = [self.terms[name] for name in names]
        low, high = (np.array([_inward(term, term[i]) for term in terms]) for i in range(2))
        home = np.array([_inward(term, self.relative.get(name, term.start)) for name, term in self.terms.items()])
        lean = np.array([LEAN_ON_RELATIVE if name in self.relative else LEAN for name in names])

        def residuals(point: Any) -> Any:
            constants, bench = self.built(
                {name: _outward(*pair) for name, *pair in zip(names, terms, point, strict=True)}
            )
            misses = [
                weight * log(predict(record, constants, self.profile, bench) / record.seconds)
                for record, weight in zip(self.records, weights, strict=True)
            ]
            return np.concatenate([misses, lean * (point - home)])

        first = home if start is None else np.array([_inward(self.terms[name], start[name]) for name in names])
        random, best = np.random.default_rng(1), None
        for attempt in range(starts):
            begin = first + (random.normal(0.0, 0.6, len(names)) if attempt else 0.0)
            begin = np.clip(begin, low + 1e-4 * (high - low), high - 1e-4 * (high - low))
            found = least_squares(residuals, begin, bounds=(low, high), loss="soft_l1", f_scale=SOFT, max_nfev=100)
            if best is None or found.cost < best.cost:
                best = found
        assert best is not None
        values = {name: _outward(*pair) for name, *pair in zip(names, terms, best.x, strict=True)}
        return {name: self._rounded(name, value) for name, value in values.items()}

    def _rounded(self, name: str, value: float) -> float:
        """Four digits; a term that may be absent is 0 at its lower bound."""
        term, spec = self.terms[name], self.model.model_fields.get(name)
        optional = name in ("t0", *BENCHMARK) or (spec is not None and spec.default == 0.0)
        off = optional and 0.0 <= value <= (1.2 * term.low if term.low > 0 else 1e-3 * term.start)
        return 0.0 if off else float(f"{value:.4g}")

    def outside(self, values: Values) -> list[float]:
        """Errors of each fifth of the shapes under a fit to the others, which starts at the whole one for speed."""
        fold, folds = _folds(self.records)
        errors: list[float] = []
        for number in range(folds):
            kept, left = (
                replace(self, records=tuple(r for r, f in zip(self.records, fold, strict=True) if (f == number) == out))
                for out in (False, True)
            )
            errors += left.errors(kept.solve(1, values))
        return errors


def _inward(term: Term, value: float) -> float:
    return log(max(value, term.low)) if term.low > 0 else value / (term.start or 1.0)


def _outward(term: Term, value: float) -> float:
    return exp(value) if term.low > 0 else float(value) * (term.start or 1.0)


def _weight(record: Record, profile: Profile) -> float:
    """Of a row: 1, but for decoding, where the cache decides (see CACHE)."""
    shape, sram = record.shape, profile.memory.sram
    if not isinstance(shape, Decode) or sram is None:
        return 1.0
    size = 2.0 * shape.rows * shape.context * shape.kv_heads * shape.head_dim * BYTES_PER_ELEMENT[record.form]
    if size >= CACHE * sram.value:
        return BEYOND_WEIGHT
    return 0.0 if size > SEEN * profile.memory.bandwidth.value else 1.0


def _folds(records: Sequence[Record]) -> tuple[list[int], int]:
    """The fold of each row and how many there are. A fold holds whole shapes: weights, heads, sizes; every fifth row where all have one."""
    keys = [_same(record) for record in records]
    if len(set(keys)) == 1:
        keys = [(float(number),) for number in range(len(records))]
    place = {key: number for number, key in enumerate(sorted(set(keys)))}
    folds = min(FOLDS, len(place))
    return [place[key] % folds for key in keys], folds


def _same(record: Record) -> tuple[float, ...]:
    """What rows of one shape share."""
    shape = record.shape
    if isinstance(shape, Routed):
        return (shape.hidden,)
    if isinstance(shape, Message):
        return (shape.size,)
    return tuple(shape[1:]) if isinstance(shape, Product) else tuple(shape[-3:-1])


def fit(records: Iterable[Record], profile: Profile) -> list[Fitted]:
    """Constants of every family and format in the rows of one device."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.family, record.form), []).append(record)
    fits = _Fits(profile, groups)
    return [fits.of(family, form) for family in TERMS for form in fits.formats(family)]


class _Fits:
    """The fits of one device, each made when another asks for it: block-scaled products lean on 8-bit ones, all-reduce takes
    the engine's kernel where it is faster, decode attention takes prefill's arithmetic and prefill decode's bandwidth."""

    def __init__(self, profile: Profile, groups: Mapping[tuple[str, str], Sequence[Record]]) -> None:
        self._profile, self._groups = profile, dict(groups)
        self._sram = profile.memory.sram.value if profile.memory.sram is not None else 0.0
        link = profile.scale_up.bandwidth.value if profile.scale_up is not None else 0.0
        self._own = ONE_KERNEL | ({} if link >= FAST_LINK else {"most": ONE_KERNEL_OVER_PCIE})
        small = [record for record in groups.get(("all_reduce", ""), ()) if self._one_kernel(record)]
        if len(small) >= FEWEST:
            self._groups["one_kernel", ""] = small
        self._found: dict[tuple[str, str], Fitted] = {}

    def formats(self, family: str) -> list[str]:
        return [form for name, form in self._groups if name == family]

    def of(self, family: str, form: str) -> Fitted:
        """The fit of one group, made once."""
        if (family, form) not in self._found:
            self._found[family, form] = self._fitted(family, form)
        return self._found[family, form]

    def _one_kernel(self, record: Record) -> bool:
        shape = record.shape
        return isinstance(shape, Message) and shape.size < self._own["below"] and shape.devices <= self._own["most"]

    def _fitted(self, family: str, form: str) -> Fitted:
        task = self._task(family, form)
        values = task.solve()
        constants, bench = task.built(values)
        files = tuple(sorted({record.file for record in task.records}))
        inside, outside = Errors.of(task.errors(values)), Errors.of(task.outside(values))
        return Fitted(self._profile.name, family, form, constants, bench, inside, outside, files)

    def _task(self, family: str, form: str, held: Values | None = None) -> _Task:
        records = tuple(self._groups[family, form])
        terms = _terms(family, form, records, self._sram)
        held = self._held(family, form) if held is None else held
        relative: Values = {}
        if family == "gemm" and form == "fp8_block" and ("gemm", "fp8") in self._groups:
            relative = {name: value for name, value in self.of("gemm", "fp8").constants if name in terms and value}
        bench = NO_BENCH
        if family == "all_reduce" and ("one_kernel", "") in self._groups:
            kernel = self.of("one_kernel", "").constants
            assert isinstance(kernel, OneKernel)
            bench = NO_BENCH._replace(one_kernel=kernel)
        return _Task(records, self._profile, MODELS[family], terms, held, bench, relative)

    def _held(self, family: str, form: str) -> Values:
        """Constants that another fit, or a rule, decides; where tables do not tell, 1 is no limit."""
        if family == "one_kernel":
            return self._own
        if family == "prefill_attention":
            decode = ("decode_attention", form)
            alone = self._task(*decode, held={"compute": 1.0}).solve(1) if decode in self._groups else {}
            return {"bandwidth": alone.get("bandwidth", 1.0)}
        if family == "decode_attention":
            prompts = (
                self.of("prefill_attention", form).constants if ("prefill_attention", form) in self._groups else None
            )
            return {"compute": prompts.compute if isinstance(prompts, PrefillAttention) else 1.0}
        return {}


def _terms(family: str, form: str, records: Sequence[Record], sram: float) -> dict[str, Term]:
    """The terms that a format has and that its rows can tell: no expert is read again that fits half the cache."""
    dropped: set[str] = set()
    if family == "gemm":
        block = form == "fp8_block"
        dropped |= {
            *(ONLY_WIDE if BYTES_PER_ELEMENT[form] < 2 else ONLY_NARROW),
            *(("fill",) if block else ("host", "host_more")),
        }
    if family == "experts":
        shapes = [record.shape for record in records if isinstance(record.shape, Routed)]
        largest = max(3.0 * shape.hidden * shape.width * BYTES_PER_ELEMENT[form] for shape in shapes)
        dropped |= {*(() if sram else ("cached",)), *(() if 0.0 < sram < 2.0 * largest else ("tile",))}
    return {name: term for name, term in TERMS[family].items() if name not in dropped}


# -- whole files, and profiles --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Calibration:
    """Fits by device, `skipped` reason -> rows, and the files by name with their digests."""

    fitted: Mapping[str, Sequence[Fitted]]
    skipped: Counter[str]
    digests: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """What `simfleet calibrate --format json` prints: errors are shares of the measured time, constants as profiles write them."""
        fits = [
            {"device": one.device, "family": one.family, "format": one.form, "constants": plain(one.constants),
             "inside": one.inside._asdict(), "outside": one.outside._asdict()}
            for fits in self.fitted.values() for one in fits
        ]  # fmt: skip
        return {"fits": fits, "skipped": dict(self.skipped.most_common()), "files": dict(self.digests)}

    def text(self) -> str:
        """The table that `simfleet calibrate` prints, errors in percent."""
        lines = [
            f"{'':59} inside the fit, %     outside, %",
            f"{'device':24} {'family':18} {'format':9} {'rows':>5} median   p90   bias median   p90   bias",
        ]
        for fits in self.fitted.values():
            for one in fits:
                errors = " ".join(
                    f"{100 * e.median:6.1f} {100 * e.p90:5.1f} {100 * e.bias:+6.1f}" for e in (one.inside, one.outside)
                )
                lines.append(f"{one.device:24} {one.family:18} {one.form:9} {one.inside.rows:5} {errors}")
        return "\n".join([*lines, *(f"skipped {count} rows: {reason}" for reason, count in self.skipped.most_common())])


def calibrate(paths: Iterable[Path], library: Library, name: str | None = None) -> Calibration:
    """Fit the device `name`, or every device in the tables.

    Raises SpecError for a bad table or one without rows of the device, LookupError for an unknown name, OSError for a file that
    cannot be read.
    """
    paths = list(paths)
    wanted = library.path("hardware_profiles", name).stem if name is not None else None
    records: dict[str, list[Record]] = {}
    skipped: Counter[str] = Counter()
    profiles: dict[str, Profile] = {}
    for path in paths:
        for record in read(path, library):
            reason = str(record) if isinstance(record, Skipped) else _refused(record, wanted, profiles, library)
            if reason:
                skipped[reason] += 1
            elif isinstance(record, Record):
                records.setdefault(record.device, []).append(record)
    records = {device: kept for device, rows in records.items() if (kept := _enough(rows, skipped))}
    if not records:
        what = f"nothing to fit{f' for `{wanted}`' if wanted else ''}"
        reasons = "; ".join(f"{count} rows: {reason}" for reason, count in skipped.most_common(5)) or "no rows at all"
        raise SpecError([Problem(Mark(str(paths[0])), "", f"{what}: {reasons}")])
    fitted = {device: fit(rows, profiles[device]) for device, rows in records.items()}
    return Calibration(fitted, skipped, {path.name: digest(path) for path in paths})


def _enough(records: Sequence[Record], skipped: Counter[str]) -> list[Record]:
    """The rows of families and formats that have enough of them; the others are counted in `skipped`."""
    counts = Counter((record.family, record.form) for record in records)
    for group, count in counts.items():
        if count < FEWEST:
            skipped[f"fewer than {FEWEST} rows of {' '.join(group).strip()}"] += count
    return [record for record in records if counts[record.family, record.form] >= FEWEST]


def _refused(record: Record, wanted: str | None, profiles: dict[str, Profile], library: Library) -> str | None:
    """Why a row is not fitted: of another device, or of something that its profile, kept in `profiles`, has not."""
    if wanted not in (None, record.device):
        return f"of another device than `{wanted}`"
    if record.device not in profiles:
        profiles[record.device] = library.profile(record.device)
    profile = profiles[record.device]
    if isinstance(record.shape, Message):
        return None if profile.scale_up is not None else f"`{profile.name}` has no scale-up link"
    native = _native(record, profile)
    return None if native in profile.flops else f"`{profile.name}` has no {native} arithmetic"


def plain(constants: Constants) -> dict[str, Any]:
    """A set as profiles write it: quantities with units, what has its default left out."""
    found: dict[str, Any] = {}
    for name, spec in type(constants).model_fields.items():
        value = getattr(constants, name)
        units = [note.dimension for note in spec.metadata if isinstance(note, Quantity)]
        if value == spec.default:
            continue
        if "seconds" in units:
            found[name] = f"{value * 1e9:.4g} ns" if 0 < value < 1e-6 else f"{value * 1e6:.4g} us"
        elif units:
            found[name] = f"{value / 2**20:g} MiB"
        else:
            found[name] = int(value) if float(value).is_integer() else float(f"{value:.4g}")
    return found
