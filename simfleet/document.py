"""Strict YAML as plain data with the place of every value, and what to say when it is wrong."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, Self

import yaml

Location = tuple[str | int, ...]
MOST_NODES, MOST_DEPTH = 100_000, 50
MOST_LISTED = 400
"""Characters of names that a message lists."""


# -- problems ------------------------------------------------------------------------------------------------------------


class Mark(NamedTuple):
    """A place in a file; line 0, or column 0, for what has none."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return ":".join([self.file, *(str(number) for number in (self.line, self.column) if number)])


class Problem(NamedTuple):
    """One thing that a user got wrong: where, at which dotted path, and what was expected."""

    mark: Mark
    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.mark}: {self.path}: {self.message}" if self.path else f"{self.mark}: {self.message}"


class SpecError(ValueError):
    """Everything that is wrong with an input, one `Problem` each, one line each."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[Self], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)


def did_you_mean(name: str, known: Iterable[str], unlisted: Iterable[str] = ()) -> str:
    """The nearest known name as an ending of a message, or all of them where none is near.

    `unlisted` are names that may be near too, but are not listed; nor are names beyond MOST_LISTED characters, only counted.
    """
    names = list(known)
    near = _nearest(name, {other.lower(): other for other in (*names, *unlisted)})
    if near or not names:
        return near
    listed = names[: sum(end <= MOST_LISTED for end in accumulate(len(other) + 2 for other in names)) or 1]
    more = len(names) - len(listed)
    return f"; known: {', '.join(listed)}{f' and {more} more' if more else ''}"


def near_file(name: str, files: Iterable[str]) -> str:
    """The file meant by the name of a missing one, as an ending of a message; names are compared without their suffixes."""
    stems: dict[str, list[str]] = {}
    for file in files:
        stems.setdefault(_stem(file), []).append(file)
    return _nearest(
        _stem(name), {stem: get_close_matches(name, alike, n=1, cutoff=0)[0] for stem, alike in stems.items()}
    )


def _stem(file: str) -> str:
    return Path(file.lower().removesuffix(".gz")).stem


def _nearest(name: str, known: Mapping[str, str]) -> str:
    """What the nearest key, in lower case, stands for, as an ending of a message; nothing where none is near."""
    near = get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    return f"; did you mean `{known[near[0]]}`?" if near else ""


def short(value: Any) -> str:
    """A value as a message shows it."""
    text = {"True": "true", "False": "false", "None": "nothing"}.get(str(value), str(value))
    return text if len(text) <= 60 else text[:57] + "..."


# -- documents -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Document:
    """Plain data as YAML has it. `marks` has the place of every value (of a mapping or list: of its key), `keys` that of every key."""

    data: Any
    marks: Mapping[Location, Mark]
    file: str = "<text>"
    folder: Path = field(default_factory=Path)
    keys: Mapping[Location, Mark] = field(default_factory=dict)

    @classmethod
    def from_text(cls, text: str, file: str = "<text>", folder: Path | None = None) -> Self:
        """Parse strictly. Raises SpecError for what is not one YAML mapping, duplicate keys, NaN, and alias bombs."""
        reader = _Reader(file, text)
        data = reader.read()
        if not isinstance(data, dict):
            got = {list: "a list", type(None): "nothing"}.get(type(data), f"`{short(data)}`")
            raise SpecError(
                [
                    Problem(
                        reader.marks.get((), Mark(file, 1, 1)), "", f"expected a mapping of keys to values, got {got}"
                    )
                ]
            )
        return cls(data, reader.marks, file, folder or Path(), reader.keys)

    @classmethod
    def from_data(cls, data: Mapping[str, Any], file: str = "<dict>") -> Self:
        """A document made in Python: no lines, but paths."""
        return cls(_copy(data), {(): Mark(file)}, file)

    def mark(self, location: Location, key: bool = False) -> Mark:
        """The place of a value (or of its key), or of its nearest ancestor."""
        if key and location in self.keys:
            return self.keys[location]
        while location and location not in self.marks:
            location = location[:-1]
        return self.marks.get(location, Mark(self.file))

    def path(self, location: Location) -> str:
        """A location as users write it, items by their name: workload.streams.chat.arrival."""
        parts, data = [], self.data
        for part in location:
            data = child(data, part)
            name = data.get("name") if isinstance(part, int) and isinstance(data, dict) else None
            parts.append(name if isinstance(name, str) else str(part))
        return ".".join(parts)


def has(data: Any, part: Any) -> bool:
    """Whether a mapping has this key, or a list this index."""
    if isinstance(data, dict):
        return part in data
    return isinstance(data, list | tuple) and isinstance(part, int) and part < len(data)


def child(data: Any, part: Any) -> Any:
    """The value there, None where there is none."""
    return data[part] if has(data, part) else None


def _copy(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _copy(value) for key, value in data.items()}
    return [_copy(item) for item in data] if isinstance(data, list) else data


def read(path: Path) -> Document:
    """The document in a file, UTF-8 with or without a byte order mark. Raises SpecError for a missing or unreadable one too."""
    try:
        raw = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = {
            FileNotFoundError: f"no such file{_beside(path)}",
            IsADirectoryError: "expected a YAML file, got a folder",
            ValueError: "no such file",
        }
        message = reason.get(type(error), f"cannot be read: {getattr(error, 'strerror', None)}")
        raise SpecError([Problem(Mark(str(path)), "", message)]) from None
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        mark = Mark(str(path), before.count(b"\n") + 1, error.start - before.rfind(b"\n"))
        raise SpecError([Problem(mark, "", f"expected text in UTF-8, got the byte 0x{raw[error.start]:02x}")]) from None
    return Document.from_text(text, str(path), path.parent)


def _beside(path: Path) -> str:
    """The YAML file of the same folder that was meant by a missing one."""
    return near_file(path.name, sorted(other.name for other in path.parent.glob("*.y*ml")))


# -- strict YAML ---------------------------------------------------------------------------------------------------------

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_INTEGER = re.compile(r"[-+]?[0-9][0-9_]*")
_FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False, "True": True, "False": False}


class _Reader:
    """One pass over the events of a YAML text: plain data and the place of everything.

    Types are those of YAML 1.2's core: `1e9` is a number, `NO` and `1:30` are strings, and so are dates.
    """

    def __init__(self, file: str, text: str) -> None:
        self.marks: dict[Location, Mark] = {}
        self.keys: dict[Location, Mark] = {}
        self._file, self._text = file, text
        self._problems: list[Problem] = []
        self._anchors: dict[Any, tuple[Any, int]] = {}
        self._nodes = 0
        self._events: Iterator[Any] = iter(())

    def read(self) -> Any:
        """Data of the one document in the text, None where there is none. Raises SpecError."""
        strange = _UNPRINTABLE.search(self._text)
        if strange:
            before = self._text[: strange.start()]
            mark = Mark(self._file, before.count("\n") + 1, strange.start() - before.rfind("\n"))
            raise SpecError([Problem(mark, "", f"expected text, got the control character U+{ord(strange[0]):04X}")])
        try:
            data = self._document()
        except yaml.MarkedYAMLError as error:
            raise SpecError([self._syntax(error)]) from None
        if self._problems:
            raise SpecError(sorted(self._problems))
        return data

    def _document(self) -> Any:
        self._events = yaml.parse(self._text, _LOADER)
        next(self._events)
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None
        data = self._value(next(self._events), ())
        next(self._events)
        following = next(self._events)
        if not isinstance(following, yaml.StreamEndEvent):
            self._refuse(following, (), "expected one document, got a second one after `---`")
        return data

    def _syntax(self, error: yaml.MarkedYAMLError) -> Problem:
        mark: Any = error.problem_mark or error.context_mark
        line, column = (mark.line, mark.column) if mark else (0, 0)
        lines = self._text.splitlines()
        if line < len(lines) and lines[line][column : column + 1] == "\t":
            message = "expected spaces, got a tab"
        else:
            message = "not YAML: " + ": ".join(part for part in (error.context, error.problem) if part)
        return Problem(Mark(self._file, line + 1, column + 1), "", message)

    def _place(self, event: Any) -> Mark:
        return Mark(self._file, event.start_mark.line + 1, event.start_mark.column + 1)

    def _refuse(self, event: Any, location: Location, message: str) -> None:
        self._problems.append(Problem(self._place(event), ".".join(str(part) for part in location), message))

    def _count(self, event: Any, nodes: int, depth: int) -> None:
        self._nodes += nodes
        if self._nodes > MOST_NODES or depth > MOST_DEPTH:
            limit = f"{MOST_NODES} values, aliases expanded" if self._nodes > MOST_NODES else f"{MOST_DEPTH} levels"
            raise SpecError([Problem(self._place(event), "", f"expected at most {limit}, got more")])

    def _value(self, event: Any, location: Location) -> Any:
        before = self._nodes
        self._count(event, 1, len(location))
        self.marks[location] = self._place(event)
        if isinstance(event, yaml.AliasEvent):
            data, nodes = self._anchors.get(event.anchor, (None, 0))
            self._count(event, nodes, len(location))
            if not nodes:
                self._refuse(event, location, f"unknown alias `*{event.anchor}`")
            return data
        if event.tag not in (None, "!", "tag:yaml.org,2002:str"):
            self._refuse(event, location, f"expected a plain value, got the YAML tag `{event.tag}`")
        if isinstance(event, yaml.ScalarEvent):
            data = self._scalar(event, location)
        else:
            self.marks[location] = self.keys.get(location, self.marks[location])
            data = self._mapping(location) if isinstance(event, yaml.MappingStartEvent) else self._list(location)
        if event.anchor:
            self._anchors[event.anchor] = (data, self._nodes - before)
        return data

    def _list(self, location: Location) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._value(event, (*location, len(items))))
        return items

    def _mapping(self, location: Location) -> dict[str, Any]:
        data: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            scalar = isinstance(event, yaml.ScalarEvent)
            here = (*location, event.value if scalar else "?")
            if not scalar:
                self._refuse(event, location, "expected a plain key")
                self._value(event, here)
            elif event.value == "<<":
                self._refuse(event, location, "merge keys `<<` are not known here; repeat the values, or use a preset")
            elif event.value in data:
                self._refuse(event, here, f"duplicate key, first on line {self.keys[here].line}")
            else:
                self.keys[here] = self._place(event)
            data[str(here[-1])] = self._value(next(self._events), here)
        return data

    def _scalar(self, event: Any, location: Location) -> Any:
        text: str = event.value
        if not event.implicit[0]:
            return text
        if text in _WORDS:
            return _WORDS[text]
        if not _FLOAT.fullmatch(text):
            return text
        number = float(re.sub(r"_|\.(?=[iInN])", "", text))
        if not math.isfinite(number):
            self._refuse(event, location, f"expected a finite number, got `{short(text)}`")
        elif _INTEGER.fullmatch(text) and abs(number) < 2**63:
            return int(text.replace("_", ""))
        elif "." not in text and abs(number) < 2**53 and number.is_integer():
            return int(number)
        return number


# -- overrides -----------------------------------------------------------------------------------------------------------


def override(document: Document, path: str, value: Any, origin: str = "--set") -> Document:
    """The document with one value replaced, or added where its parent is there; text is read as YAML.

    `path` is dotted; list items go by index or by their `name`. A parent that is missing is begun, unless its name looks like a
    mistake. Problems with the value will show `origin` as their file. Raises SpecError for a path that leads nowhere.
    """
    if isinstance(value, str):
        value = _Reader(origin, value).read()
    return overlay(document, path, value, {(): Mark(origin)})


def overlay(document: Document, path: str, value: Any, marks: Mapping[Location, Mark]) -> Document:
    """The same for plain data; `marks` has the places of the value, (), and of what is inside it."""
    data = _copy(document.data)
    location: Location = ()
    node, parts = data, path.split(".")
    while True:
        try:
            key, parts = _step(node, parts)
        except LookupError as error:
            what, hint = error.args
            inside = f" in `{document.path(location)}`" if location else ""
            raise SpecError([Problem(marks[()], path, what + inside + hint)]) from None
        location = (*location, key)
        if not parts:
            break
        if isinstance(node, dict) and node.get(key) is None:
            node[key] = {}
        node = node[key]
    node[key] = _copy(value)
    kept = {old: mark for old, mark in document.marks.items() if old[: len(location)] != location}
    moved = {(*location, *inner): mark for inner, mark in marks.items()}
    keys = {old: mark for old, mark in document.keys.items() if old[: len(location)] != location}
    return replace(document, data=data, marks=kept | moved, keys=keys)


def _step(node: Any, parts: list[str]) -> tuple[str | int, list[str]]:
    """The key or index in `node` that the first of `parts` name (names may have dots), and the parts left. Raises LookupError."""
    name = parts[0]
    if isinstance(node, list):
        names = [item.get("name") if isinstance(item, dict) else None for item in node]
        for end in range(len(parts), 0, -1):
            if ".".join(parts[:end]) in names:
                return names.index(".".join(parts[:end])), parts[end:]
        if name.isdecimal() and len(name) < 9 and int(name) < len(node):
            return int(name), parts[1:]
        raise LookupError(f"no item `{name}`", did_you_mean(name, [n for n in names if isinstance(n, str)]))
    if not isinstance(node, dict):
        raise LookupError(f"no `{name}`", f"; it is `{short(node)}`, not a mapping")
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in node:
            return ".".join(parts[:end]), parts[end:]
    table = bool(node) and all(isinstance(value, dict) for value in node.values())
    if len(parts) > 1 and (table or get_close_matches(name, node, n=1, cutoff=0.75)):
        raise LookupError(f"no `{name}`", did_you_mean(name, node))
    return name, parts[1:]


def flow(data: Mapping[str, Any]) -> str:
    """Plain data as YAML on one line."""
    dumped: str = yaml.safe_dump(dict(data), default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True)
    return dumped.strip()
