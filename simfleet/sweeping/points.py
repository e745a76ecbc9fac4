"""What a sweep simulates: axes, the points of their grid, and the name under which the numbers of one run are kept."""

import inspect
import json
import os
import platform
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property, lru_cache
from hashlib import sha256
from importlib.metadata import version
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel

from simfleet.document import Document, Mark, Problem, SpecError, flow, overlay
from simfleet.scenario import Scenario

Json = dict[str, Any]
ORIGIN = "--over"
UNNAMED = ("name", "description", "variants")
"""Keys of a scenario that no number of its runs depends on."""
BESIDE = ("calibration", "cli.py", "evidence", "gate", "intervals.py", "page", "planning", "sensitivity")
"""Parts of the program that no number of a run depends on."""
LIBRARIES = ("numpy", "scipy", "simpy")
"""A new release of these may draw or round otherwise."""


# -- axes and points ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Axis:
    """A dotted path and the values it takes, plain data or specs."""

    path: str
    values: tuple[Any, ...]

    @cached_property
    def labels(self) -> list[Any]:
        """The values as a table has them: all numbers, all true or false, or all text."""
        switches = [isinstance(value, bool) for value in self.values]
        numbers = [isinstance(value, int | float) for value in self.values]
        if all(switches) or (all(numbers) and not any(switches)):
            return list(self.values)
        return [_text(value) for value in self.values]


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return flow(value)
    if value is None or isinstance(value, bool | int | float | list):
        return json.dumps(value)
    return value if isinstance(value, str) else repr(value)


def axes(over: Mapping[str, Iterable[Any]]) -> list[Axis]:
    """Path -> values as axes. Raises SpecError where there is none, or one without values or with the same value twice."""
    found = [Axis(path, tuple(values)) for path, values in over.items()]
    if not found:
        raise _refused("", "expected at least one path to sweep over, such as pools.chat.replicas=4,8,16")
    for axis in found:
        twice = [label for i, label in enumerate(axis.labels) if label in axis.labels[:i]]
        if not axis.values:
            raise _refused(axis.path, "expected at least one value")
        if twice:
            raise _refused(axis.path, f"expected different values, got `{twice[0]}` twice")
    return found


def written_axes(texts: Iterable[str]) -> dict[str, list[Any]]:
    """Axes as the command line has them, PATH=V1,V2: values are those of a YAML list. Raises SpecError."""
    found: dict[str, list[Any]] = {}
    for text in texts:
        path, sign, values = text.partition("=")
        if not (path and sign and values.strip()):
            raise _refused("", f"expected PATH=V1,V2 such as pools.chat.replicas=4,8,16, got `{text}`")
        if path in found:
            raise _refused(path, "expected once, with all its values separated by commas, got it twice")
        found[path] = Document.from_text(f"values: [{values}]", ORIGIN).data["values"]
    return found


def _refused(path: str, message: str) -> SpecError:
    return SpecError([Problem(Mark(ORIGIN), path, message)])


class Point(NamedTuple):
    """One place of the grid: its number from 0 on, its value on every axis, and the document of its scenario, or why there is none."""

    number: int
    labels: tuple[Any, ...]
    document: Document | SpecError


def count(over: Sequence[Axis]) -> int:
    """Points of the grid."""
    return prod(len(axis.values) for axis in over)


def points(base: Document, over: Sequence[Axis]) -> Iterator[Point]:
    """The grid over a document, the last axis first."""
    base = replace(base, folder=base.folder.absolute())
    labels = product(*(axis.labels for axis in over))
    for number, (named, values) in enumerate(zip(labels, product(*(axis.values for axis in over)), strict=True)):
        document = base
        try:
            for axis, value in zip(over, values, strict=True):
                document = overlay(document, axis.path, value, {(): Mark(ORIGIN)})
        except SpecError as error:
            yield Point(number, named, error)
        else:
            yield Point(number, named, document)


# -- names of runs --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def program() -> str:
    """What computes here, in words: simfleet's release and code, Python, and the libraries that draw and add up."""
    root = Path(__file__).parents[1]
    code = sha256()
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        if inside.parts[0] not in BESIDE:
            code.update(inside.as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    python = ".".join(platform.python_version_tuple()[:2])
    others = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return f"simfleet {version('simfleet')} (code {code.hexdigest()[:12]}), Python {python}, {others}"


def content(scenario: Scenario) -> str:
    """A hash of all that a run depends on but its seed and the program: profiles, models, presets, and what was read from files.

    Empty for a scenario with a policy of the user's own whose source cannot be found.
    """
    digest = sha256(scenario.model_dump_json(exclude=set(UNNAMED), warnings=False).encode())
    try:
        for name in type(scenario).model_fields:
            if name not in UNNAMED:
                for part in _hidden(getattr(scenario, name)):
                    digest.update(part)
    except (OSError, TypeError):
        return ""
    return digest.hexdigest()


def _hidden(value: Any) -> Iterator[bytes]:
    """What the JSON of a spec does not tell: rows read from files, and classes that are not simfleet's."""
    if isinstance(value, BaseModel):
        cls = type(value)
        yield cls.__qualname__.encode()
        if cls.__module__.partition(".")[0] != "simfleet":
            yield repr(value).encode() + Path(inspect.getfile(cls)).read_bytes()
        for item in (value.__pydantic_private__ or {}).values():
            yield from _raw(item)
        for name in cls.model_fields:
            yield from _hidden(getattr(value, name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _hidden(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _hidden(item)


def _raw(value: Any) -> Iterator[bytes]:
    """The bytes of numbers and text, however packed. Raises TypeError for anything else; where a file lies does not matter."""
    if isinstance(value, np.ndarray):
        yield f"{value.dtype.str}{value.shape}".encode() + np.ascontiguousarray(value).tobytes()
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _raw(getattr(value, field.name))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _raw(item)
    elif value is None or isinstance(value, str | int | float):
        yield repr(value).encode()
    elif not isinstance(value, Path):
        raise TypeError(f"cannot tell what is in a {type(value).__name__}")


# -- numbers kept ---------------------------------------------------------------------------------------------------------


class Cache:
    """A folder of runs: one small JSON file each, named by what was simulated, so that it can be shared and deleted at any time.

    A file is there whole or not at all: it is written beside, forced to the disk, and renamed.
    """

    def __init__(self, folder: Path) -> None:
        """Raises OSError for a folder that cannot be made or written."""
        self.folder, self._beside = folder, folder / "tmp"
        self._beside.mkdir(parents=True, exist_ok=True)
        for path in self._beside.iterdir():  # left by a sweep that was killed
            if time.time() - path.stat().st_mtime > 3600:
                path.unlink(missing_ok=True)

    @staticmethod
    def key(content_: str, seed: int) -> str:
        """The name of a run of this program."""
        return sha256(f"{program()}\n{content_}\n{seed}".encode()).hexdigest()

    def get(self, key: str) -> list[Json] | None:
        """The numbers of a run; None where there are none, or none that can be read."""
        try:
            kept = json.loads(self._path(key).read_bytes())
        except (OSError, ValueError):
            return None
        return kept["sets"] if isinstance(kept, dict) and kept.get("key") == key else None

    def put(self, key: str, sets: list[Json]) -> None:
        """Keep the numbers of a run. Raises OSError."""
        path = self._path(key)
        path.parent.mkdir(exist_ok=True)
        text = json.dumps({"key": key, "program": program(), "sets": sets}, allow_nan=False)
        write(path, text.encode(), self._beside)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def write(path: Path, data: bytes, beside: Path) -> None:
    """Write a file whole or not at all, whenever the machine stops; `beside` is a folder on the same disk. Raises OSError."""
    new = beside / f".{path.name}.{uuid.uuid4().hex}"
    try:
        with new.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # elsewhere a folder cannot be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def default_folder() -> Path:
    """SIMFLEET_CACHE, else `simfleet` in the user's folder for caches."""
    given, caches = os.environ.get("SIMFLEET_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(given) if given else (Path(caches) if caches else Path.home() / ".cache") / "simfleet"
