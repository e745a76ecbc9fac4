"""YAML in, frozen pydantic models out, or errors that name file:line:column and path."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, Self, TypeVar

import yaml
from pydantic import (
    BaseModel, BeforeValidator, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError, ValidationInfo, model_validator,
)  # fmt: skip
from pydantic_core import PydanticCustomError, core_schema

T = TypeVar("T")
Grade = Literal["datasheet", "measured", "calibrated", "estimate"]
Location = tuple[str | int, ...]
MOST_NODES, MOST_DEPTH = 100_000, 50


class Spec(BaseModel):
    """Anything a user writes: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _hint_at_keys(cls, values: Any, info: ValidationInfo) -> Any:
        """Leave the nearest known name of each unknown key where the error's message will look for it."""
        if isinstance(values, dict) and info.context is not None:
            known = [spec.alias or name for name, spec in cls.model_fields.items()]
            for key in values:
                if key not in known:
                    info.context.setdefault("hints", {})[key] = did_you_mean(str(key), known)
        return values


class Fact(Spec, Generic[T]):
    """A stored number: its value, where it comes from and how good it is."""

    value: T
    source: str
    grade: Grade
    note: str | None = None


class Mark(NamedTuple):
    """A place in a file; line 0 for what does not come from a file."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


class Problem(NamedTuple):
    """One thing that a user got wrong."""

    mark: Mark
    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.mark}: {self.path}: {self.message}" if self.path else f"{self.mark}: {self.message}"


class SpecError(ValueError):
    """Everything that is wrong with an input, one `Problem` each."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class Document:
    """Plain data as YAML has it, with the place of every key and item."""

    data: Any
    marks: Mapping[Location, Mark]
    file: str = "<text>"
    folder: Path = field(default_factory=Path)

    @classmethod
    def from_text(cls, text: str, file: str = "<text>", folder: Path | None = None) -> Self:
        """Parse strictly. Raises SpecError for what is not one YAML mapping, duplicate keys, NaN, and alias bombs."""
        composer = _Composer(file)
        data = composer.compose(text)
        return cls(data, composer.marks, file, folder or Path())

    @classmethod
    def from_data(cls, data: Mapping[str, Any], file: str = "<dict>") -> Self:
        """A document made in Python: no lines, but paths."""
        return cls(data, {(): Mark(file)}, file)

    def mark(self, location: Location) -> Mark:
        """The place of a path, or of its nearest ancestor."""
        while location and location not in self.marks:
            location = location[:-1]
        return self.marks.get(location, Mark(self.file))


def read(path: Path) -> Document:
    """The document in a file. Raises SpecError for a missing or unreadable one too."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SpecError([Problem(Mark(str(path)), "", "no such file")]) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = "not a text file in UTF-8" if isinstance(error, UnicodeDecodeError) else str(error.strerror)
        raise SpecError([Problem(Mark(str(path)), "", f"expected a YAML file, got one that cannot be read: {reason}")]) from None
    return Document.from_text(text, str(path), path.parent)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML 1.2's core types: `1e9` is a number, `NO` and `1:30` are strings, dates too."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012


for _tag, _pattern, _first in (
    ("bool", r"true|false|True|False", "tfTF"),
    ("null", r"null|~|", ["n", "~", ""]),
    ("int", r"[-+]?[0-9][0-9_]*", "-+0123456789"),
    ("float", r"[-+]?(?:[0-9][0-9_]*)?(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|nan|NaN)", "-+0123456789."),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))


class _Composer:
    """One pass over the nodes of a YAML text: plain data, places, and what is refused."""

    def __init__(self, file: str) -> None:
        self.marks: dict[Location, Mark] = {}
        self._file = file
        self._problems: list[Problem] = []
        self._nodes = 0

    def compose(self, text: str) -> Any:
        """Data of the one mapping in `text`; raises SpecError."""
        try:
            node = yaml.compose(text, _Loader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = Mark(self._file, mark.line + 1, mark.column + 1) if mark else Mark(self._file, 1, 1)
            raise SpecError([Problem(place, "", f"not YAML: {error.problem or error.context}")]) from None
        except yaml.YAMLError as error:
            raise SpecError([Problem(Mark(self._file, 1, 1), "", f"not YAML: {str(error).splitlines()[0]}")]) from None
        if not isinstance(node, yaml.MappingNode):
            got = "nothing" if node is None else {"sequence": "a list", "scalar": "a single value"}[node.id]
            raise SpecError([Problem(Mark(self._file, 1, 1), "", f"expected a mapping of keys to values, got {got}")])
        data = self._value(node, ())
        if self._problems:
            raise SpecError(sorted(self._problems))
        return data

    def _place(self, node: yaml.Node) -> Mark:
        return Mark(self._file, node.start_mark.line + 1, node.start_mark.column + 1)

    def _refuse(self, node: yaml.Node, location: Location, message: str) -> None:
        self._problems.append(Problem(self._place(node), dotted(location), message))

    def _value(self, node: yaml.Node, location: Location) -> Any:
        self._nodes += 1
        if self._nodes > MOST_NODES or len(location) > MOST_DEPTH:
            limit = f"{MOST_NODES} values" if self._nodes > MOST_NODES else f"{MOST_DEPTH} levels"
            raise SpecError([Problem(self._place(node), "", f"expected at most {limit}, aliases expanded, got more")])
        self.marks.setdefault(location, self._place(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, location)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*location, i)) for i, item in enumerate(node.value)]
        return self._scalar(node, location)

    def _mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.value == "<<":
                self._refuse(key_node, location, "expected a plain key")
                continue
            key = key_node.value
            here = (*location, key)
            if key in data:
                self._refuse(key_node, here, f"duplicate key, first on line {self.marks[here].line}")
                continue
            self.marks[here] = self._place(key_node)
            data[key] = self._value(value_node, here)
        return data

    def _scalar(self, node: yaml.ScalarNode, location: Location) -> Any:
        text, kind = node.value, node.tag.rpartition(":")[2]
        if kind == "int":
            return int(text.replace("_", ""))
        if kind == "float":
            number = float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan").replace(".NaN", "nan").replace(".Inf", "inf"))
            if not math.isfinite(number):
                self._refuse(node, location, f"expected a finite number, got `{text}`")
            return number
        if kind not in ("str", "bool", "null"):
            self._refuse(node, location, f"unknown YAML tag `{node.tag}`")
        return {"bool": text.lower() == "true", "null": None}.get(kind, text)


def dotted(location: Location) -> str:
    """A path as users write it: pools.chat.replicas."""
    return ".".join(str(part) for part in location)


def did_you_mean(name: str, known: Iterator[str] | list[str]) -> str:
    """The nearest known name as an ending of a message, or all of them where none is near."""
    names = [str(other) for other in known]
    near = get_close_matches(name, names, n=1, cutoff=0.5) or get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    if near:
        return f"; did you mean `{near[0]}`?"
    return f"; known: {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}" if names else ""


def build(cls: type[T], document: Document, context: dict[str, Any] | None = None) -> T:
    """A model from a document. Raises SpecError with every problem at once, each at its line."""
    context = {"folder": document.folder, "hints": {}, **(context or {})}
    try:
        return cls.model_validate(document.data, context=context)  # type: ignore[attr-defined, no-any-return]
    except ValidationError as error:
        raise SpecError(_problems(error, document, context["hints"])) from None


def _problems(error: ValidationError, document: Document, hints: dict[str, str]) -> list[Problem]:
    """Pydantic's errors in our words, in order of the file."""
    found: dict[Problem, None] = {}
    for item in error.errors(include_url=False):
        location = _location(document.data, item)
        nested = item.get("ctx", {}).get("problems")
        if nested is None:
            found[Problem(document.mark(location), dotted(location), _message(item, hints))] = None
        for problem in nested or ():
            if isinstance(problem, Problem):  # from another file
                found[problem] = None
            else:
                here = (*location, *problem[0])
                found[Problem(document.mark(here), dotted(here), problem[1])] = None
    return sorted(found, key=lambda problem: problem.mark)


def _location(data: Any, item: Any) -> Location:
    """The error's path through the data: tags of unions are not part of it; a missing key is."""
    location: list[str | int] = []
    for part in item["loc"]:
        if isinstance(data, dict) and part in data or isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
            location.append(part)
    if item["type"] == "missing":
        location.append(item["loc"][-1])
    return tuple(location)


def _message(item: Any, hints: dict[str, str]) -> str:
    kind, ctx = item["type"], item.get("ctx", {})
    if kind == "missing":
        return "missing, expected a value"
    if kind == "extra_forbidden":
        return f"unknown key{hints.get(item['loc'][-1], '')}"
    if kind in ("union_tag_invalid", "literal_error"):
        known = re.findall(r"'([^']*)'", ctx.get("expected_tags") or ctx["expected"])
        got = str(ctx.get("tag", item["input"]))
        return f"expected one of {', '.join(known)}, got `{got}`{did_you_mean(got, known) if len(known) > 1 else ''}"
    if kind == "union_tag_not_found":
        return "expected a mapping with a `kind`" if "kind" in str(ctx.get("discriminator")) else "expected a mapping with a `dist`"
    if kind == "value_error":
        return str(ctx["error"])
    if kind == "model_type":
        return f"expected a mapping, got `{_short(item['input'])}`"
    if item["msg"].startswith("Input should be"):
        return item["msg"].replace("Input should be", "expected", 1) + f", got `{_short(item['input'])}`"
    return str(item["msg"])


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def override(document: Document, path: str, value: Any, origin: str = "--set") -> Document:
    """The document with one value replaced: `path` is dotted, list items by index or by their `name`.

    Text is read as YAML. A last key that is not there yet is added (the schema will judge). Raises SpecError for an unknown way.
    """
    mark = Mark(f"{origin} {path}={value}")
    if isinstance(value, str):
        value = Document.from_text(f"value: {value}" if value.strip() else "value: ''", str(mark)).data["value"]
    data, marks = _copy(document.data), dict(document.marks)
    node: Any = data
    location: Location = ()
    *parents, last = path.split(".")
    for part in parents:
        key = _key(node, part, mark, path, location)
        location = (*location, key)
        node = node[key]
    key = last if isinstance(node, dict) else _key(node, last, mark, path, location)
    node[key] = value
    location = (*location, key)
    for old in [old for old in marks if old[: len(location)] == location]:
        del marks[old]
    marks[location] = mark
    return replace(document, data=data, marks=marks)


def _copy(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _copy(value) for key, value in data.items()}
    return [_copy(item) for item in data] if isinstance(data, list | tuple) else data


def _key(node: Any, part: str, mark: Mark, path: str, location: Location) -> str | int:
    """The key or index that `part` names in `node`. A new mapping is begun where nothing there is named like it."""
    if isinstance(node, dict):
        if part not in node and get_close_matches(part, list(node), n=1):
            raise SpecError([Problem(mark, path, f"no `{part}` in {dotted(location) or 'it'}{did_you_mean(part, list(node))}")])
        node.setdefault(part, {})
        return part
    if isinstance(node, list):
        names = [item.get("name", "") if isinstance(item, dict) else "" for item in node]
        if part in names:
            return names.index(part)
        if part.isdigit() and int(part) < len(node):
            return int(part)
        raise SpecError([Problem(mark, path, f"no item `{part}` in {dotted(location)}{did_you_mean(part, names)}")])
    raise SpecError([Problem(mark, path, f"{dotted(location)} is `{_short(node)}`, not a mapping: nothing can be set below it")])


class Named:
    """A pydantic annotation: a name or path of a document of `kind`, looked up in the context's library, or the thing itself."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def look_up(value: Any, inner: Callable[[Any], Any], info: ValidationInfo) -> Any:
            if not isinstance(value, str):
                return inner(value)
            document = found(info, self.kind, value)
            try:
                return inner(document.data)
            except ValidationError as error:
                problems = _problems(error, document, (info.context or {}).get("hints", {}))
                raise PydanticCustomError("nested", "{file} is not valid", {"file": document.file, "problems": problems}) from None

        return core_schema.with_info_wrap_validator_function(look_up, handler(source))  # type: ignore[arg-type]

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "string", "description": f"name or path, one of {self.kind}"}, handler(schema)]}


def found(info: ValidationInfo, kind: str, name: str) -> Document:
    """The document `name` of `kind` in the context's library; ValueError, naming the nearest, where there is none."""
    library = (info.context or {}).get("library")
    if library is None:
        raise ValueError(f"expected a mapping, got the name `{name}`: names are looked up by simfleet.load() only")
    try:
        return library.document(kind, name, info.context["folder"])  # type: ignore[index, no-any-return]
    except LookupError as error:
        raise ValueError(error.args[0]) from None
    except SpecError as error:
        raise PydanticCustomError("nested", "not valid", {"problems": list(error.problems)}) from None


def preset(values: dict[str, Any], info: ValidationInfo, kind: str) -> dict[str, Any]:
    """The preset that `values` names, with its own keys laid over; the key `preset` is gone."""
    given = {key: value for key, value in values.items() if key != "preset"}
    return {**found(info, kind, values["preset"]).data, **given}


def default_kind(kind: str, key: str = "kind") -> BeforeValidator:
    """Of a union by `key`: the member meant where a mapping leaves it out."""
    return BeforeValidator(lambda value: {key: kind, **value} if isinstance(value, dict) else value)
