"""JSON Schema as Markdown: one section for each mapping, with a table of its keys; one for each choice by `kind`."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, get_args

from simfleet.hardware.profile import Arithmetic, Precision
from simfleet.units import UNITS, dimension_of

Schema = Mapping[str, Any]
FORMATS, SERIES, FACTS = "Formats of numbers", "Values that change in time", "Facts"
"""Sections that many keys link to."""
WORDS = {"string": "text", "integer": "whole number", "boolean": "`true` or `false`"}
NAMED = "Name or path of one of "
SHARE = "share, such as `30 %`"
HEAD = ("| key | takes | default | meaning |", "|---|---|---|---|")


class Section(NamedTuple):
    """One heading: the schema below it, where its keys are found, and a `#` for each level."""

    title: str
    schema: Schema
    path: str
    level: str = "##"
    without: Sequence[str] = ()


class Page:
    """The sections of one schema, each after what leads to it; what is met again is linked.

    elsewhere -- definition -> link to the page of its own; a title -> that title's page, where another has it
    """

    def __init__(self, definitions: Schema, elsewhere: Mapping[str, str]) -> None:
        self._definitions, self._elsewhere = definitions, elsewhere
        self._titles: dict[str, str] = {}  # definition or choice -> title of its section
        self._paths: dict[str, list[str]] = {}  # title -> the keys that lead to it
        self._waiting: list[Section] = []

    def sections(self, roots: Sequence[Section]) -> list[tuple[str, str, str]]:
        """(level, title, Markdown without the heading), `roots` and all that they lead to."""
        done: list[tuple[str, str, list[str]]] = []
        self._titles |= {f"root {root.title}": root.title for root in roots}
        for root in roots:
            self._waiting.append(root)
            while self._waiting:
                section = self._waiting.pop(0)
                after, self._waiting = self._waiting, []
                done.append((section.level, section.title, list(self._body(section))))
                siblings = [other for other in after if section.level == other.level != "##"]
                self._waiting = [*siblings, *self._waiting, *(other for other in after if other not in siblings)]
        return [(level, title, "\n".join([*self._met(title), *lines, ""])) for level, title, lines in done]

    def _met(self, title: str) -> Iterator[str]:
        """The keys that lead to a section, where there are others than its title says."""
        paths = dict.fromkeys(path.removesuffix("[]") for path in self._paths.get(title, ()))
        others = [path for path in paths if path != title.removesuffix("[]") and "." in path]
        if others:
            yield from (f"The same for {', '.join(f'`{path}`' for path in others)}.", "")

    # -- sections ------------------------------------------------------------------------------------------------------

    def _body(self, section: Section) -> Iterator[str]:
        if "oneOf" in section.schema:
            yield from self._choice(section)
            return
        if "description" in section.schema:
            yield from (words(section.schema["description"]), "")
        yield from self.table(section.schema, section.path, section.without)

    def table(self, schema: Schema, path: str, without: Sequence[str] = ()) -> Iterator[str]:
        rows = [(key, part) for key, part in schema["properties"].items() if key not in without]
        if rows:
            yield from HEAD
        for key, part in rows:
            required = key in schema.get("required", ())
            shown = f"**`{key}`**" if required else f"`{key}`"
            takes = self._takes(part, f"{path}.{key}" if path else key)
            yield f"| {shown} | {takes} | {'' if required else default(part)} | {meaning(part)} |"

    def _choice(self, section: Section) -> Iterator[str]:
        """Which mappings there are to choose from, the keys that all have, and a section for each that has others."""
        tag = section.schema["discriminator"]["propertyName"]
        members = [self._named(part["$ref"]) for part in section.schema["oneOf"]]
        first, *others = (member["properties"] for member in members)
        shared = [
            key
            for key, part in first.items()
            if key != tag and others and all(part == other.get(key) for other in others)
        ]
        yield from (f"| `{tag}` | meaning |", "|---|---|")
        for member in members:
            kinds = _kinds(member, tag)
            own = [key for key in member["properties"] if key not in (tag, *shared)]
            shown = " or ".join(f"`{kind}`" for kind in kinds)
            title = f"{section.path}: {' or '.join(kinds)}"
            if own:
                shown = f"[{shown}](#{anchor(title)})"
                self._waiting.append(Section(title, member, section.path, section.level + "#", (tag, *shared)))
            given = member is not members[0] or "default" not in member["properties"][tag]
            yield f"| {shown}{'' if given else ' (where none is given)'} | {first_line(member)} |"
        if shared:
            yield from ("", "Keys of all of them:", "")
            yield from self.table({"properties": {key: first[key] for key in shared}, "required": members[0].get("required", ())}, section.path)  # fmt: skip

    # -- what a key takes ----------------------------------------------------------------------------------------------

    def _takes(self, schema: Schema, path: str) -> str:
        if "$ref" in schema:
            return self._link(schema["$ref"].rpartition("/")[2], path)
        if "discriminator" in schema:
            return self._chosen(schema, path)
        if "anyOf" in schema:
            return self._one_of([part for part in schema["anyOf"] if part.get("type") != "null"], path)
        if "enum" in schema or "const" in schema:
            return self._enumerated(schema.get("enum", [schema.get("const")]))
        if schema.get("type") == "array":
            return self._list(schema, path)
        return self._mapping(schema, path) if schema.get("type") == "object" else plain(schema)

    def _enumerated(self, values: Sequence[Any]) -> str:
        if tuple(values) in (get_args(Precision), get_args(Arithmetic)):
            return self._shared(FORMATS, "format")
        return ", ".join(f"`{value}`" for value in values)

    def _shared(self, title: str, word: str) -> str:
        return f"[{word}]({self._elsewhere.get(title, '')}#{anchor(title)})"

    def _one_of(self, choices: Sequence[Schema], path: str) -> str:
        if any("steps" in part.get("properties", ()) for part in choices):
            return f"{self._takes(choices[0], path)}, or {self._shared(SERIES, 'steps or a file')}"
        if (both := number_or_text(choices)) is not None:
            return both
        found = list(dict.fromkeys(self._takes(part, path) for part in choices))
        if "number" in found and "whole number" in found:
            found.remove("whole number")
        rest = " or ".join(found[:-1])
        return f"{rest} or a list of them" if found[-1] == f"list of {rest}" else " or ".join(found)

    def _list(self, schema: Schema, path: str) -> str:
        if "prefixItems" in schema:
            return f"list of {len(schema['prefixItems'])}: {self._takes(schema['prefixItems'][0], path)}"
        return f"list of {self._takes(schema['items'], path + '[]')}" if "items" in schema else "list"

    def _mapping(self, schema: Schema, path: str) -> str:
        more = schema.get("additionalProperties")
        if not isinstance(more, dict):
            return "mapping"
        keys = schema.get("propertyNames", {})
        word = f"{self._takes(keys, path)} ->" if "enum" in keys else "mapping to"
        return f"{word} {self._takes(more, path + '.NAME')}".removesuffix(" to mapping")

    def _chosen(self, schema: Schema, path: str) -> str:
        """A link to the section of a choice; to a longer list of the same where there is one."""
        tag = schema["discriminator"]["propertyName"]
        names = [part["$ref"].rpartition("/")[2] for part in schema["oneOf"]]
        known = next((key for key in self._titles if set(names) <= set(key.split("|"))), "|".join(names))
        if known not in self._titles:
            self._titles[known] = path
            self._waiting.append(Section(path, schema, path))
        title = self._titles[known]
        self._paths.setdefault(title, []).append(path)
        kinds = [kind for part in schema["oneOf"] for kind in _kinds(self._named(part["$ref"]), tag)]
        return f"[{', '.join(f'`{kind}`' for kind in kinds)}](#{anchor(title)})"

    def _link(self, name: str, path: str) -> str:
        if name in self._elsewhere:
            return self._elsewhere[name]
        schema = self._definitions[name]
        if "enum" in schema:
            return self._takes(schema, path)
        if {"value", "grade"} <= set(schema.get("properties", {})):
            return f"{self._shared(FACTS, 'fact')}: {self._takes(schema['properties']['value'], path)}"
        others = [self._takes(part, path) for part in schema.get("anyOf", ()) if "properties" not in part]
        if name not in self._titles:
            self._titles[name] = path
            self._waiting.append(Section(path, self._named(name), path))
        title = self._titles[name]
        self._paths.setdefault(title, []).append(path)
        return " or ".join([*others, f"[`{title}`](#{anchor(title)})"])

    def _named(self, reference: str) -> Schema:
        """A definition's mapping."""
        schema: Schema = self._definitions[reference.rpartition("/")[2]]
        return next((part for part in schema.get("anyOf", ()) if "properties" in part), schema)


def _kinds(member: Schema, tag: str) -> list[str]:
    part = member["properties"][tag]
    return list(part.get("enum", [part.get("const")]))


def number_or_text(choices: Sequence[Schema]) -> str | None:
    """What may be written as a number or as a text: shares and tokens."""
    texts = [part["examples"][0] for part in choices if part.get("type") == "string" and "examples" in part]
    if not texts or not any(part.get("type") in ("integer", "number") for part in choices):
        return None
    return SHARE if texts[0].endswith("%") else f"tokens, such as `16000` or `{texts[0]}`"


def plain(schema: Schema) -> str:
    """What a key takes that is neither a mapping nor a list."""
    dimension = dimension_of(schema)
    if dimension:
        return f"{dimension}, such as `{schema['examples'][0]}`"
    if schema.get("description", "").startswith(NAMED):
        return f"name or path ({schema['description'].removeprefix(NAMED).replace('_', ' ')})"
    kinds = schema.get("type", "anything")
    word = " or ".join(WORDS.get(kind, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds))
    example = f", such as `{schema['examples'][0]}`" if schema.get("examples") else ""
    return f"{word}{example}{_bounds(schema)}"


def _bounds(schema: Schema) -> str:
    words_ = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    found = [f"{words_[key]} {schema[key]:,.10g}" for key in words_ if key in schema]
    return f", {' and '.join(found)}" if found else ""


def default(part: Schema) -> str:
    """A key's default as a user would write it; nothing where there is nothing to write."""
    value = part.get("default")
    if value == {} and "additionalProperties" not in part:
        return "its own defaults"
    if isinstance(value, list):
        return ", ".join(f"`{item}`" for item in value)
    return "" if value in (None, "", {}) else f"`{_text(value, part)}`"


def _text(value: Any, part: Schema) -> str:
    """A value of YAML in one line."""
    if isinstance(value, dict):
        given = {key: item for key, item in value.items() if item is not None}
        return str(value.get("kind") or json.dumps(given).replace('"', ""))
    if isinstance(value, float | int) and number_or_text(part.get("anyOf", ())) == SHARE:
        return f"{100 * value:g} %"
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value).strip('"')


def meaning(schema: Schema) -> str:
    """The description of a key, in one line of a table."""
    text = schema.get("description", "")
    listed = re.match(r"(.+?): ", text)
    return "" if listed and listed[1] in UNITS else words(text).replace("\n", " ").replace("|", "\\|")


def first_line(schema: Schema) -> str:
    """The first line of a mapping's description."""
    return meaning({"description": schema.get("description", "").partition("\n")[0]})


def words(text: str) -> str:
    """A docstring as Markdown: lists and paragraphs stay, lines that belong together flow, pages are linked."""
    flowing = re.sub(r"\n(?!\n|- )(?<!\n\n)\s*", " ", text.strip())
    return re.sub(r"docs/([\w-]+)\.md", r"[\1](../\1.md)", flowing)


def anchor(title: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
