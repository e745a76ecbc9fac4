"""Plain data in, frozen pydantic models out, or every problem at its place and in plain words."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, ClassVar, Generic, Literal, TypeVar, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError, core_schema

from simfleet.document import Document, Location, Problem, SpecError, child, did_you_mean, has, short
from simfleet.units import dimension_of, written

T = TypeVar("T")
Grade = Literal["datasheet", "measured", "calibrated", "estimate"]


_GRADES = "How good it is: of a datasheet, measured, calibrated (fitted to measurements), or an estimate"


def _strict(schema: Any) -> Any:
    """A core schema whose numbers and booleans take nothing else. Keys of mappings stay as they are: YAML's are strings."""
    if isinstance(schema, list | tuple):
        return type(schema)(_strict(item) for item in schema)
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") in ("int", "float", "bool"):
        return {**schema, "strict": True}
    return {
        key: value if key in ("keys_schema", "default", "metadata") else _strict(value) for key, value in schema.items()
    }


class Spec(BaseModel):
    """Anything a user writes: frozen, unknown keys are refused, and "8" is not 8, nor is `yes` true."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        strict: core_schema.CoreSchema = _strict(handler(source))
        return strict

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """For editors and the reference: what a `kind` says, and defaults as a user would write them."""
        described = handler(schema)
        inner = handler.resolve_ref_schema(described)
        mapping = next((part for part in inner.get("anyOf", ()) if "properties" in part), inner)
        meaning = (cls.__doc__ or "").partition("\n")[0]
        for part in mapping.get("properties", {}).values():
            if "const" in part:
                part.setdefault("description", f"`{part['const']}`: {meaning}")
            dimension = dimension_of(part)
            if dimension and isinstance(part.get("default"), float):
                part["default"] = written(part["default"], dimension)
        return described

    @model_validator(mode="before")
    @classmethod
    def _leave_hints(cls, values: Any, info: ValidationInfo) -> Any:
        """For the messages: the nearest known name of each unknown key, and what is expected for each missing one."""
        if isinstance(values, str) and "preset" in cls.model_fields:
            raise ValueError(f"expected a mapping, such as `{{preset: {short(values)}}}`, got `{short(values)}`")
        if isinstance(values, dict) and info.context is not None:
            fields = {spec.alias or name: spec for name, spec in cls.model_fields.items()}
            hints, keys = info.context.setdefault("hints", {}), tuple(values)
            for key in values:
                if key not in fields:
                    hints[key, keys] = nearest(str(key), fields)
            for key, spec in fields.items():
                if key not in values and spec.is_required():
                    hints[key, keys] = _wanted(spec)
        return values


class Fact(Spec, Generic[T]):
    """A stored number: its value, where it comes from and how good it is."""

    WANTED: ClassVar = "a fact such as `{value: ..., source: ..., grade: estimate}`"

    value: T = Field(description="What is stated: a quantity with its unit, or the constants of one fit")
    source: str = Field(description="Key of the profile's `sources`")
    grade: Grade = Field(description=_GRADES)
    note: str | None = Field(
        None, description="How it was made, or what to know; estimates that share a note are listed together"
    )

    @model_validator(mode="before")
    @classmethod
    def _not_bare(cls, value: Any) -> Any:
        if isinstance(value, str | int | float):
            raise ValueError(f"expected {cls.WANTED}, got `{short(value)}` alone")
        return value


class Provenance(Spec):
    """Where one number of a preset comes from, and how good it is."""

    source: str = Field(description="Document and date, or how it was made, in words")
    grade: Grade = Field(description=_GRADES)
    note: str | None = Field(None, description="What else to know about it")


def _wanted(spec: FieldInfo) -> str:
    """What a field takes, in a few words."""
    for note in spec.metadata:
        if hasattr(note, "wanted"):
            return str(note.wanted)
    kind: Any = get_origin(spec.annotation) or spec.annotation
    if kind is Literal:
        return f"one of {', '.join(str(choice) for choice in get_args(spec.annotation))}"
    words = {
        str: "text",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        tuple: "a list",
        list: "a list",
        dict: "a mapping",
    }
    return getattr(kind, "WANTED", words.get(kind, "a mapping"))


def nearest(key: str, known: Iterable[str]) -> str:
    """The known name meant by an unknown key, as an ending of a message: spelt alike, its initials (`tp`), or of the same words."""
    names = list(known)
    ending = did_you_mean(key, names)
    if "did you mean" in ending:
        return ending
    alike = [name for name in names if _is_short_for(key.lower(), name)]
    return f"; did you mean `{alike[0]}`?" if len(alike) == 1 else ending


def _is_short_for(key: str, name: str) -> bool:
    """Whether a key is the initials of a name, or has some of its words, or those and more."""
    words, own = set(key.split("_")), set(name.split("_"))
    return key == "".join(word[:1] for word in name.split("_")) or words < own or own < words


def build(cls: type[T], document: Document, context: Mapping[str, Any] | None = None) -> T:
    """A model from a document. Raises SpecError with every problem at once, each at its line."""
    context = {"folder": document.folder, "document": document, **(context or {}), "hints": {}, "presets": {}}
    try:
        return cls.model_validate(document.data, context=context)  # type: ignore[attr-defined, no-any-return]
    except ValidationError as error:
        raise SpecError(_problems(error, document, context)) from None


def refusal(problems: Iterable[tuple[Location, str]]) -> PydanticCustomError:
    """One error for several places inside the model being validated, each with its own message."""
    listed = list(problems)
    return PydanticCustomError(
        "several", "{text}", {"text": "; ".join(message for _, message in listed), "problems": listed}
    )


def _problems(error: ValidationError, document: Document, context: Mapping[str, Any]) -> list[Problem]:
    """Pydantic's errors in our words, in order of the file."""
    found: dict[Problem, None] = {}
    for item in error.errors(include_url=False):
        if item["type"] == "too_short" and len(item["input"]) >= item["ctx"]["min_length"]:
            continue  # pydantic counts the items that are valid; the others have their own errors
        where, location = _locate(item["loc"], document, context.get("presets", {}))
        if item["type"] == "missing":
            location = (*location, item["loc"][-1])
        if item["type"] == "union_tag_invalid":
            location = (*location, item["ctx"]["discriminator"].strip("'"))
        nested = item.get("ctx", {}).get("problems")
        for problem in [((), _message(item, where, location, context.get("hints", {})))] if nested is None else nested:
            if isinstance(problem, Problem):  # from another file
                found[problem] = None
            else:
                here = (*location, *problem[0])
                mark = where.mark(here, key=item["type"] == "extra_forbidden")
                found[Problem(mark, where.path(here), problem[1])] = None
    return sorted(found, key=lambda problem: problem.mark)


def _locate(
    loc: Iterable[Any], document: Document, presets: Mapping[str, Sequence[Document]]
) -> tuple[Document, Location]:
    """The document and the place in it that pydantic's path leads to: tags of unions are left out, presets entered."""
    location: Location = ()
    data = document.data
    for part in loc:
        name = data.get("preset") if isinstance(data, dict) else data
        for preset in presets.get(name, ()) if isinstance(name, str) and not has(data, part) else ():
            if has(preset.data, part):
                document, data, location = preset, preset.data, ()
                break
        if has(data, part):
            data, location = data[part], (*location, part)
    return document, location


_TYPES = {
    "a whole number": ("int_type", "int_from_float"),
    "a number": ("float_type",),
    "a finite number": ("finite_number",),
    "true or false": ("bool_type",),
    "text": ("string_type",),
    "a list": ("tuple_type", "list_type"),
    "a mapping": ("dict_type", "model_type", "model_attributes_type"),
    "above {gt}": ("greater_than",),
    "at least {ge}": ("greater_than_equal",),
    "below {lt}": ("less_than",),
    "at most {le}": ("less_than_equal",),
}
_EXPECTED = {kind: f"expected {words}, got `{{input}}`" for words, kinds in _TYPES.items() for kind in kinds} | {
    "too_short": "expected at least {min_length}, got {actual_length}",
    "too_long": "expected at most {max_length}, got {actual_length}",
    "union_tag_not_found": "missing {discriminator}",
}


def _message(item: Any, document: Document, location: Location, hints: Mapping[Any, str]) -> str:
    """One pydantic error in our words."""
    kind, ctx = item["type"], item.get("ctx", {})
    if kind in ("missing", "extra_forbidden"):
        hint = _hint(document, location, hints)
        return f"missing, expected {hint or 'a value'}" if kind == "missing" else f"unknown key{hint}"
    if kind in ("union_tag_invalid", "literal_error"):
        return _choice(ctx.get("expected_tags") or ctx["expected"], str(ctx.get("tag", item["input"])))
    if kind == "value_error":
        return str(ctx["error"])
    if kind in _EXPECTED:
        return _EXPECTED[kind].format(**ctx, input=short(item["input"]))
    return str(item["msg"]).replace("Input should be", "expected", 1)


def _choice(choices: str, got: str) -> str:
    known = re.findall(r"'([^']*)'", choices)
    near = get_close_matches(got.lower(), known, n=1)
    hint = f"; did you mean `{near[0]}`?" if near and len(known) > 1 else ""
    return f"expected {'one of ' if len(known) > 1 else ''}{', '.join(known)}, got `{short(got)}`{hint}"


def _hint(document: Document, location: Location, hints: Mapping[Any, str]) -> str:
    """What `Spec._leave_hints` left for a key: in the mapping with the same keys, else in any."""
    parent = document.data
    for part in location[:-1]:
        parent = child(parent, part)
    keys = tuple(parent) if isinstance(parent, dict) else ()
    return hints.get((location[-1], keys)) or next(
        (text for (key, _), text in hints.items() if key == location[-1]), ""
    )


# -- names ---------------------------------------------------------------------------------------------------------------


class OrName:
    """A pydantic annotation of what may be a name or path of a document of `kind` too: in the JSON Schema."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [{"type": "string", "description": f"Name or path of one of {self.kind}"}, handler(schema)]}


class Named(OrName):
    """The same, looked up in the context's library."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.wanted = f"a name or path of one of {kind}, or a mapping"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def look_up(value: Any, inner: Callable[[Any], Any], info: ValidationInfo) -> Any:
            if isinstance(value, dict | BaseModel):
                return inner(value)
            if not isinstance(value, str):
                raise PydanticCustomError(
                    "named", "expected {wanted}, got `{got}`", {"wanted": self.wanted, "got": short(value)}
                )
            document = found(info, self.kind, value)
            try:
                return inner(document.data)
            except ValidationError as error:
                raise _elsewhere(document.file, _problems(error, document, info.context or {})) from None

        return core_schema.with_info_wrap_validator_function(look_up, handler(source))


def found(info: ValidationInfo, kind: str, name: str) -> Document:
    """The document `name` of `kind` in the context's library; an error naming the nearest where there is none."""
    context = info.context or {}
    if "library" not in context:
        raise ValueError(
            f"expected a mapping, got the name `{short(name)}`: names are looked up by simfleet.load() only"
        )
    try:
        document: Document = context["library"].document(kind, name, context["folder"])
    except LookupError as error:
        raise ValueError(error.args[0]) from None
    except SpecError as error:
        raise _elsewhere(name, list(error.problems)) from None
    return document


def _elsewhere(file: str, problems: list[Problem]) -> PydanticCustomError:
    return PydanticCustomError("elsewhere", "`{file}` is not valid", {"file": file, "problems": problems})


def preset(values: dict[str, Any], info: ValidationInfo, kind: str) -> dict[str, Any]:
    """The preset that `values` names, with its own keys laid over; the key `preset` is gone."""
    try:
        document = found(info, kind, values["preset"])
    except ValueError as error:
        raise error if isinstance(error, PydanticCustomError) else refusal([(("preset",), str(error))]) from None
    if info.context is not None:
        info.context.setdefault("presets", {}).setdefault(values["preset"], []).append(document)
    return {**document.data, **{key: value for key, value in values.items() if key != "preset"}}


def default_kind(kind: str, key: str = "kind") -> BeforeValidator:
    """Of a union by `key`: the member meant where a mapping leaves it out."""

    def spell_out(value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError(f"expected a mapping, such as `{{{key}: {kind}}}`, got `{short(value)}`")
        return {key: kind, **value} if isinstance(value, dict) else value

    return BeforeValidator(spell_out)


def json_schema(cls: type[Spec]) -> dict[str, Any]:
    """JSON Schema of files that hold one of a class, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **cls.model_json_schema(by_alias=True)}


def only(document: Document, cls: type[Spec]) -> None:
    """Raise an error at every key of the document that the class has not."""
    known = [spec.alias or name for name, spec in cls.model_fields.items()]
    problems = [
        Problem(document.mark((key,), key=True), key, f"unknown key{nearest(key, known)}")
        for key in document.data
        if key not in known
    ]
    if problems:
        raise _elsewhere(document.file, problems)
