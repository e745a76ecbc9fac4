"""Writes docs/reference/ from the code: `python -m tests.references`. A test holds the pages to what this gives."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from simfleet.cli import cli
from simfleet.hardware.profile import Profile
from simfleet.library import Library
from simfleet.scenario import json_schema
from simfleet.serving.engine import DEFAULT_ENGINE
from simfleet.units import UNITS, parse
from simfleet.workload.models import Model

Schema = Mapping[str, Any]
FOLDER = Path(__file__).parents[1] / "docs" / "reference"
MADE = "Written from the code by `python -m tests.references`; a test fails where the two differ."
ELSEWHERE = {
    "Model": "[a model's keys](model.md)",
    "Profile": "[a hardware profile's keys](hardware-profile.md)",
}
"""Definitions that have a page of their own."""
TAGS = ("kind", "dist")
"""Keys whose value says which of several mappings this is."""
WORDS = {"string": "text", "integer": "whole number", "boolean": "`true` or `false`"}
PRESET = Library().data("engines", DEFAULT_ENGINE)


def pages() -> dict[str, str]:
    """Name of a file in docs/reference -> what it should hold."""
    scenario = json_schema()
    return {
        "commands.md": _commands(),
        "scenario.md": _scenario(scenario),
        "hardware-profile.md": _thing(Profile.model_json_schema(by_alias=True), "Hardware profiles", "hardware.md"),
        "model.md": _thing(Model.model_json_schema(by_alias=True), "Models", "models.md"),
    }


# -- schemas --------------------------------------------------------------------------------------------------------------


def _scenario(schema: Schema) -> str:
    intro = [
        "# Every key of a scenario", "", MADE, "",
        "`simfleet schema` prints the same as JSON Schema, which editors use for completion. What the parts are for: [workload](../workload.md),",
        "[energy and sites](../energy.md), [cost](../cost.md), [targets](../ci.md). **Bold** keys are required; `NAME` is a name of your own, `[]` an",
        "entry of a list. Any value can be laid over with `--set PATH=VALUE` and in `variants`.", "",
    ]  # fmt: skip
    units = [
        "## Units",
        "",
        "A quantity is a number with its unit; a bare number is refused.",
        "",
        "| quantity | units |",
        "|---|---|",
    ]
    units += [
        f"| {dimension} | {', '.join(f'`{unit}`' for unit in known if unit)} |" for dimension, known in UNITS.items()
    ]
    units += ["", "Shares may be written `0.9` or `90 %`, tokens `16k` (16,000) or `16Ki` (16,384)."]
    return "\n".join([*intro, *_Page(schema, ELSEWHERE).lines("the file"), *units]) + "\n"


def _thing(schema: Schema, title: str, page: str) -> str:
    intro = [
        f"# {title}: every key",
        "",
        MADE,
        "",
        f"What they mean, with an example: [{title.lower()}](../{page}). **Bold** keys are required.",
        "",
    ]
    if "grade" in json.dumps(schema):
        intro += [
            "A *fact* is written `{value: ..., source: ..., grade: ..., note: ...}`; the note may be left out.",
            "",
        ]
    return "\n".join([*intro, *_Page(schema, {}).lines("the file")])


class _Page:
    """The sections of one schema, in the order in which they are met; a mapping that is met again is linked."""

    def __init__(self, schema: Schema, elsewhere: Mapping[str, str]) -> None:
        self._schema, self._elsewhere = schema, elsewhere
        self._titles: dict[str, str] = {}  # definition -> title of its section
        self._waiting: list[str] = []

    def lines(self, title: str) -> Iterator[str]:
        """Markdown."""
        yield from self._section(title, self._schema, "")
        while self._waiting:
            name = self._waiting.pop(0)
            schema = self._schema["$defs"][name]
            mapping = next((part for part in schema.get("anyOf", ()) if "properties" in part), schema)
            yield from self._section(self._titles[name], mapping, self._titles[name].partition(" (")[0])

    def _section(self, title: str, schema: Schema, path: str) -> Iterator[str]:
        yield from (f"## {title}", "")
        if "description" in schema:
            yield from (_words(schema["description"]), "")
        rows = [(key, part) for key, part in schema["properties"].items() if not (key in TAGS and "const" in part)]
        if not rows:
            return
        yield from ("| key | takes | default | meaning |", "|---|---|---|---|")
        before, self._waiting = self._waiting, []
        for key, part in rows:
            required = key in schema.get("required", ())
            shown = f"**`{key}`**" if required else f"`{key}`"
            takes = self._takes(part, f"{path}.{key}" if path else key)
            default = "" if required else _default(key, part, schema)
            yield f"| {shown} | {takes} | {default} | {_meaning(part)} |"
        self._waiting += before
        yield ""

    def _takes(self, schema: Schema, path: str) -> str:
        choices = schema.get("anyOf") or schema.get("oneOf")
        if "$ref" in schema:
            return self._link(schema["$ref"].rpartition("/")[2], path)
        if choices:
            return _either(choices) or self._one_of(choices, path)
        if "enum" in schema or "const" in schema:
            return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
        if schema.get("type") == "array":
            return f"list of {self._takes(schema['items'], path + '[]')}" if "items" in schema else "list"
        return self._mapping(schema, path) if schema.get("type") == "object" else _plain(schema)

    def _one_of(self, choices: list[Schema], path: str) -> str:
        found = list(dict.fromkeys(self._takes(part, path) for part in choices if part.get("type") != "null"))
        rest = " or ".join(found[:-1])
        return f"{rest} or a list of them" if found[-1] == f"list of {rest}" else " or ".join(found)

    def _mapping(self, schema: Schema, path: str) -> str:
        if "properties" in schema:
            keys = ", ".join(f"{key}: {self._takes(part, path)}" for key, part in schema["properties"].items())
            return f"{{{keys}}}"
        more = schema.get("additionalProperties")
        return f"name -> {self._takes(more, path + '.NAME')}" if isinstance(more, dict) else "mapping"

    def _link(self, name: str, path: str) -> str:
        if name in self._elsewhere:
            return self._elsewhere[name]
        schema = self._schema["$defs"][name]
        if "enum" in schema:
            return self._takes(schema, path)
        if {"value", "grade"} <= set(schema.get("properties", {})):
            return f"fact: {self._takes(schema['properties']['value'], path)}"
        if name not in self._titles:
            tag = next(
                (
                    f"{tag}: {schema['properties'][tag]['const']}"
                    for tag in TAGS
                    if "const" in schema.get("properties", {}).get(tag, {})
                ),
                "",
            )
            title = f"{path} ({tag})" if tag else path
            self._titles[name] = (
                title if title not in self._titles.values() else f"{title} ({name.rpartition('__')[2]})"
            )
            self._waiting.append(name)
        others = [self._takes(part, path) for part in schema.get("anyOf", ()) if "properties" not in part]
        title = self._titles[name]
        shown = title.partition(" (")[2].rstrip(")") or "mapping"
        return " or ".join([*others, f"[{shown}](#{_anchor(title)})"])


def _anchor(title: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _either(choices: list[Schema]) -> str:
    """What is a number or a text: shares and tokens."""
    texts = [part["examples"][0] for part in choices if part.get("type") == "string" and "examples" in part]
    if not texts or not any(part.get("type") in ("integer", "number") for part in choices):
        return ""
    return "share, such as `0.3` or `30 %`" if texts[0].endswith("%") else f"tokens, such as `16000` or `{texts[0]}`"


def _plain(schema: Schema) -> str:
    if schema.get("examples") and _dimension(schema):
        return f"{_dimension(schema)}, such as `{schema['examples'][0]}`"
    description = schema.get("description", "")
    if description.startswith("Name or path of one of "):
        return f"name or path ({description.rpartition(' ')[2].replace('_', ' ')})"
    kinds = schema.get("type", "anything")
    word = " or ".join(WORDS.get(kind, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds))
    example = f", such as `{schema['examples'][0]}`" if schema.get("examples") else ""
    bounds = [
        f"{words} {schema[key]:g}"
        for key, words in (("minimum", "at least"), ("exclusiveMinimum", "above"), ("maximum", "at most"))
        if key in schema
    ]
    return f"{word}{example} {' and '.join(bounds)}".rstrip()


def _dimension(schema: Schema) -> str:
    """The quantity of a text, by its example."""
    for dimension in UNITS:
        try:
            parse(schema["examples"][0], dimension)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        return dimension
    return ""


def _meaning(schema: Schema) -> str:
    text = schema.get("description", "")
    listed = re.match(r"(.+?): ", text)
    if (listed and listed[1] in UNITS) or text.startswith("Name or path of one of "):
        return ""
    return _words(text).replace("\n", " ").replace("|", "\\|")


def _words(text: str) -> str:
    """A docstring as Markdown: lists and paragraphs stay, lines that belong together flow."""
    return re.sub(r"\n(?!\n|- )(?<!\n\n)\s*", " ", text.strip())


def _default(key: str, part: Schema, schema: Schema) -> str:
    value = part.get("default")
    if schema.get("title") in ("Continuous", "Static") and key in PRESET and key != "sources":
        return f"the preset's; `{DEFAULT_ENGINE}`: `{PRESET[key]}`"
    if value is None or value in ("", [], {}):
        return ""
    if isinstance(value, dict):
        return f"`{value['kind']}`" if "kind" in value else f"`{json.dumps(value)}`"
    dimension = _dimension(part)
    if dimension and isinstance(value, float):
        return f"`{_quantity(value, dimension)}`"
    return f"`{json.dumps(value)}`" if not isinstance(value, str) else f"`{value}`"


def _quantity(value: float, dimension: str) -> str:
    """A number in SI, in the largest unit that leaves it at least 1."""
    units = UNITS[dimension]
    base = next(unit for unit, factor in units.items() if factor == 1.0)
    unit = max((unit for unit, factor in units.items() if factor <= value), key=lambda unit: units[unit], default=base)
    return f"{value / units[unit]:g} {unit}"


# -- commands -------------------------------------------------------------------------------------------------------------


def commands(group: click.Group = cli, name: str = "simfleet") -> Iterator[tuple[str, click.Command]]:
    """Every command with the words that call it, groups left out."""
    context = click.Context(group, info_name=name)
    for word in group.list_commands(context):
        command = group.get_command(context, word)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} {word}")
        else:
            yield f"{name} {word}", command


def _commands() -> str:
    lines = [
        "# Every command", "", MADE, "",
        "SCENARIO is a file or a shipped name (`simfleet scenarios` lists them). Text goes to people, JSON to programs: with `--format json` nothing",
        "else is on stdout. Progress is shown on a terminal only. Exit codes: 0 done or kept, 1 missed, 2 bad input, 3 cannot judge, 4 simulation error.", "",
    ]  # fmt: skip
    found = dict(commands())
    lines += [
        f"- [`{name}`](#{_anchor(name)}): {command.get_short_help_str(200).rstrip('.')}"
        for name, command in found.items()
    ]
    for name, command in found.items():
        lines += ["", f"## {name}", "", "```", _help(name, command), "```"]
    return "\n".join(lines) + "\n"


def _help(name: str, command: click.Command) -> str:
    context = click.Context(
        command, info_name=name, terminal_width=110, max_content_width=110, help_option_names=["-h", "--help"]
    )
    return command.get_help(context).strip()


def main() -> None:
    """Write the pages."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
