"""Measured times of single operators: rows of CSV files as the shapes that the equations of `hardware.roofline` take.

Files are recognised by their columns. Two habits of benchmarks are undone here, for they are no property of a device: how their
tokens pick experts, and messages counted in elements.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import StringIO
from math import ceil, isfinite
from pathlib import Path
from typing import NamedTuple

from simfleet.document import Mark, Problem, SpecError, did_you_mean, short
from simfleet.evidence.rows import Skipped
from simfleet.library import Library
from simfleet.workload.models import LayerGroup, Model

FORMATS = {
    "bfloat16": "bf16", "float16": "fp16", "half": "fp16", "fp8": "fp8", "fp8_block": "fp8_block", "int8": "int8",
    "nvfp4": "nvfp4", "w4a16_mxfp4": "mxfp4",
}  # fmt: skip
"""What tables call a format -> what profiles call it."""

ELEMENT = {"half": 2.0, "bfloat16": 2.0, "int8": 1.0}
"""Bytes of an element of a message; `message_size` counts elements."""

COLLECTIVES = {
    "all_reduce": "all_reduce", "all_gather": "all_gather", "reduce_scatter": "reduce_scatter", "alltoall": "all_to_all",
}  # fmt: skip
SMALLEST, LARGEST = 2048.0, 2.0**29
"""Messages between these [B] are fitted: engines send none that are smaller, and few that are larger."""

GROUPED = 256
"""A layer of so many experts is DeepSeek's: tokens pick 4 of 8 groups first."""

HEAD_DIM = 128
"""Of tables that state none: theirs is the only one they hold."""


class Product(NamedTuple):
    """[rows x inner] times [inner x outer]."""

    rows: float
    inner: float
    outer: float


class Routed(NamedTuple):
    """Routed experts of one layer on one device, as `roofline.experts` takes them."""

    rows: float
    sent: float
    touched: float
    hidden: float
    width: float


class Decode(NamedTuple):
    """`rows` sequences of `context` tokens each; heads on one device."""

    rows: float
    context: float
    heads: float
    kv_heads: float
    head_dim: float


class Prompt(NamedTuple):
    """`sequences` chunks of `tokens` new tokens after `prefix` cached ones; heads on one device."""

    sequences: float
    tokens: float
    prefix: float
    heads: float
    kv_heads: float
    head_dim: float


class Message(NamedTuple):
    """`size` bytes of the whole tensor, among `devices`."""

    size: float
    devices: int


Shape = Product | Routed | Decode | Prompt | Message


@dataclass(frozen=True, slots=True)
class Record:
    """One measured operator: `device` is a profile's name, `form` a format of profiles ("" of messages), `file` where it stood."""

    device: str
    family: str
    form: str
    shape: Shape
    seconds: float
    file: str


def read(path: Path, library: Library) -> Iterator[Record | Skipped]:
    """Every row of an operator table, or why it is skipped.

    Raises SpecError for a file that is no such table or has a bad cell, naming its line and column, OSError where it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError([Problem(Mark(str(path)), "", f"expected text in UTF-8: {error.reason}")]) from None
    reader, names = csv.reader(StringIO(text, newline=""), strict=True), _Names(library)
    try:
        columns = next(reader, [])
        layout = _layout(path, columns)
        for values in reader:
            if values:
                yield _record(_Cells(path, reader.line_num, columns, values), layout, names)
    except csv.Error as error:
        raise SpecError([Problem(Mark(str(path), reader.line_num, 1), "", f"not CSV: {error}")]) from None


class _Names:
    """A library's names, each looked up once per file."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._found: dict[tuple[str, str], str | None] = {}
        self._models: dict[str, Model] = {}

    def device(self, name: str) -> str:
        """The profile of a device. Raises Skipped."""
        return self._name("hardware_profiles", "device", name)

    def model(self, name: str) -> Model:
        """The model of that name. Raises Skipped."""
        stem = self._name("models", "model", name)
        if stem not in self._models:
            self._models[stem] = self._library.model(stem)
        return self._models[stem]

    def _name(self, kind: str, what: str, name: str) -> str:
        if (kind, name) not in self._found:
            try:
                self._found[kind, name] = self._library.path(kind, name).stem
            except LookupError:
                self._found[kind, name] = None
        stem = self._found[kind, name]
        if stem is None:
            raise Skipped(f"unknown {what} `{name}`")
        return stem


def digest(path: Path) -> str:
    """A file's name and the first 8 digits of its SHA-256, as profiles cite it."""
    return f"{path.name} {sha256(path.read_bytes()).hexdigest()[:8]}"


class _Cells:
    """A row whose cells are asked for by column and kind; a bad one is a SpecError at its place, the column counted in fields."""

    def __init__(self, path: Path, line: int, columns: Sequence[str], values: Sequence[str]) -> None:
        self.file = path.name
        self._path, self._line, self._columns = path, line, columns
        if len(values) != len(columns):
            self._refuse("", f"expected {len(columns)} cells, got {len(values)}")
        self._cells = dict(zip(columns, values, strict=True))

    def text(self, name: str) -> str:
        return self._cells[name].strip()

    def number(self, name: str, low: float = 1e-12) -> float:
        """At least `low`; the default is any above 0."""
        try:
            value = float(self.text(name))
        except ValueError:
            value = float("nan")
        if not isfinite(value) or value < low:
            wanted = "above 0" if low == 1e-12 else f"of at least {low:g}"
            self._refuse(name, f"expected a number {wanted}, got `{short(self.text(name))}`")
        return value

    def _refuse(self, name: str, message: str) -> None:
        field = self._columns.index(name) + 1 if name else 1
        raise SpecError([Problem(Mark(str(self._path), self._line, field), name, message)])


class _Measured(NamedTuple):
    """A row but for its device."""

    family: str
    form: str
    shape: Shape
    seconds: float


class _Layout(NamedTuple):
    device: str
    columns: str
    read: Callable[[_Cells, _Names], _Measured]


def _layout(path: Path, columns: Sequence[str]) -> "_Layout":
    for layout in _LAYOUTS:
        if set(layout.columns.split()) <= set(columns):
            return layout
    known = "\n".join(f"  {layout.columns.replace(' ', ',')}" for layout in _LAYOUTS)
    got = short(",".join(columns)) or "nothing"
    raise SpecError(
        [
            Problem(
                Mark(str(path), 1, 1), "", f"not an operator table; expected the columns of one of\n{known}\ngot {got}"
            )
        ]
    )


def _record(cells: _Cells, layout: "_Layout", names: _Names) -> Record | Skipped:
    try:
        return Record(names.device(cells.text(layout.device)), *layout.read(cells, names), cells.file)
    except Skipped as reason:
        return reason


def _format(cells: _Cells, column: str) -> str:
    name = cells.text(column)
    if name not in FORMATS:
        raise Skipped(f"unknown format `{name}`{did_you_mean(name, FORMATS)}")
    return FORMATS[name]


# -- one reader per layout --------------------------------------------------------------------------------------------------


def _product(cells: _Cells, _: _Names) -> _Measured:
    shape = Product(cells.number("m"), cells.number("k"), cells.number("n"))
    return _Measured("gemm", _format(cells, "gemm_dtype"), shape, cells.number("latency_ms") * 1e-3)


def _attention(cells: _Cells, _: _Names) -> _Measured:
    """Decoding rows have a context of isl + step tokens, prompts one of isl."""
    form, seconds = _format(cells, "kv_cache_dtype"), cells.number("latency_ms") * 1e-3
    rows, tokens, step = cells.number("batch_size"), cells.number("isl"), cells.number("step", 0)
    heads = (cells.number("num_heads"), cells.number("num_key_value_heads"), HEAD_DIM)
    if cells.text("op_name") == "generation_attention":
        return _Measured("decode_attention", form, Decode(rows, tokens + step, *heads), seconds)
    if cells.text("op_name") == "context_attention":
        return _Measured("prefill_attention", form, Prompt(rows, tokens, step, *heads), seconds)
    raise Skipped(f"operator `{cells.text('op_name')}` is not attention")


def _experts(cells: _Cells, _: _Names) -> _Measured:
    """Scores are balanced, so that experts are read as soon as there are as many pairs as experts; in groups where they are 256."""
    tokens, picks, count = (cells.number(name) for name in ("num_tokens", "topk", "num_experts"))
    parallel, form = cells.number("moe_ep_size"), _format(cells, "moe_dtype")
    rows = tokens * picks / parallel
    touched = min(count / parallel, float(ceil(rows)))
    if count == GROUPED:
        rows, touched = _grouped(tokens, picks, count, parallel)
    width = cells.number("inter_size") / cells.number("moe_tp_size")
    shape = Routed(rows, tokens * picks, touched, cells.number("hidden_size"), width)
    return _Measured("experts", form, shape, cells.number("latency_ms") * 1e-3)


def _grouped(tokens: float, picks: float, count: float, parallel: float) -> tuple[float, float]:
    """Pairs of the first device and experts that they touch, where tokens pick 4 of 8 groups first: balanced scores tie, one pick
    goes to each group that is here, and the other 4 to the same 4 experts of the first device."""
    groups = min(4.0, 8.0 / parallel)
    rows = tokens * picks if parallel == 1 else tokens * (groups + 4.0)
    return rows, min(count / 8.0 * groups, groups * tokens + 4.0)


def _collective(cells: _Cells, _: _Names) -> _Measured:
    """NCCL's own, but for all-reduce: that is the engine's, in graphs, which is what serving waits for."""
    name, kernel, form = cells.text("op_name"), cells.text("kernel_source"), cells.text("dtype")
    if name not in COLLECTIVES or form not in ELEMENT:
        raise Skipped(f"collective `{name}` of {form} is not known")
    if (kernel == "vLLM_custom_graph") != (name == "all_reduce") or kernel not in ("vLLM_custom_graph", "NCCL"):
        raise Skipped(f"{name} by {kernel} is not what engines run")
    return _message(cells, COLLECTIVES[name], cells.number("message_size") * ELEMENT[form], "num_gpus", "latency_ms")


def _network(cells: _Cells, _: _Names) -> _Measured:
    if cells.text("collective") != "send_recv":
        raise Skipped(f"{cells.text('collective')} by another benchmark")
    if cells.number("devices_per_node") < cells.number("num_workers"):
        raise Skipped("send_recv between servers")
    return _message(cells, "send_receive", cells.number("size_bytes"), "num_workers", "median_ms")


def _message(cells: _Cells, family: str, size: float, devices: str, milliseconds: str) -> _Measured:
    shape, seconds = Message(size, int(cells.number(devices))), cells.number(milliseconds) * 1e-3
    if shape.devices < 2:
        raise Skipped("messages within one device")
    if not SMALLEST <= size <= LARGEST:
        raise Skipped(f"message below {SMALLEST / 1024:g} KiB or above {LARGEST / 2**20:g} MiB")
    return _Measured(family, "", shape, seconds)


def _dense(layer: str, tp: str, time: str, unit: float) -> Callable[[_Cells, _Names], _Measured]:
    """A reader of layers by name; their shapes are the model's."""

    def read_row(cells: _Cells, names: _Names) -> _Measured:
        name, tensor = cells.text(layer), cells.number(tp, 1)
        group, hidden, vocab = _layers(cells, names)
        up = group.mlp / (3.0 * hidden)
        shapes = {
            "q_proj": (hidden, group.heads * group.head_dim / tensor), "qkv_proj": (hidden, group.qkv / hidden / tensor),
            "o_proj": (group.out / hidden / tensor, hidden), "gate_proj": (hidden, up / tensor), "up_proj": (hidden, up / tensor),
            "gate_up_proj": (hidden, 2.0 * up / tensor), "down_proj": (up / tensor, hidden), "lm_head": (hidden, vocab / tensor),
        }  # fmt: skip
        if name not in shapes:
            raise Skipped(f"layer `{name}` is not a matrix product")
        return _Measured("gemm", "bf16", Product(cells.number("tokens"), *shapes[name]), cells.number(time) * unit)

    return read_row


def _mixed_attention(cells: _Cells, names: _Names) -> _Measured:
    group, _, _ = _layers(cells, names)
    tensor, seconds = cells.number("tp", 1), cells.number("time_us") * 1e-6
    heads = (group.heads / tensor, max(group.kv_heads / tensor, 1.0), group.head_dim)
    tokens, rows = cells.number("prefill_chunk", 0), cells.number("n_decode", 0)
    if tokens and rows:
        raise Skipped("prefill and decode in one row")
    if rows:
        return _Measured("decode_attention", "bf16", Decode(rows, cells.number("kv_decode"), *heads), seconds)
    prompt = Prompt(1.0, cells.number("prefill_chunk"), cells.number("kv_prefill", 0), *heads)
    return _Measured("prefill_attention", "bf16", prompt, seconds)


def _mean_attention(cells: _Cells, names: _Names) -> _Measured:
    group, _, _ = _layers(cells, names)
    heads, seconds = (group.heads, group.kv_heads, group.head_dim), cells.number("mean_ns") * 1e-9
    rows, cached = cells.number("batch_size"), cells.number("kv_cache_size", 0)
    if cells.text("is_prefill") == "True":
        return _Measured(
            "prefill_attention", "bf16", Prompt(rows, cells.number("prefill_chunk_size"), cached, *heads), seconds
        )
    return _Measured("decode_attention", "bf16", Decode(rows, cached, *heads), seconds)


def _layers(cells: _Cells, names: _Names) -> tuple[LayerGroup, int, int]:
    """The layers that most of a model is made of, its hidden size and its vocabulary."""
    model = names.model(cells.text("model"))
    return max(model.groups, key=lambda group: group.count), model.hidden, model.vocab


_LAYOUTS = (
    _Layout("system", "system gemm_dtype m n k latency_ms", _product),
    _Layout("system", "system op_name kv_cache_dtype batch_size isl step num_heads num_key_value_heads latency_ms", _attention),
    _Layout("system", "system moe_dtype num_tokens hidden_size inter_size topk num_experts moe_tp_size moe_ep_size latency_ms", _experts),
    _Layout("system", "system op_name kernel_source dtype num_gpus message_size latency_ms", _collective),
    _Layout("network", "network collective num_workers devices_per_node size_bytes median_ms", _network),
    _Layout("hardware", "hardware model layer_name tokens tp_size latency_ns", _dense("layer_name", "tp_size", "latency_ns", 1e-9)),
    _Layout("hardware", "hardware model tp layer tokens time_us", _dense("layer", "tp", "time_us", 1e-6)),
    _Layout("hardware", "hardware model prefill_chunk_size kv_cache_size batch_size is_prefill mean_ns", _mean_attention),
    _Layout("hardware", "hardware model tp prefill_chunk kv_prefill n_decode kv_decode time_us", _mixed_attention),
)  # fmt: skip
