"""Writes docs/reference/ from the code: `python -m tests.references`. A test holds the pages to what this gives."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from simfleet.cli import cli
from simfleet.gate.compare import Tolerances
from simfleet.gate.targets import Sla
from simfleet.hardware.profile import Profile
from simfleet.library import Library
from simfleet.scenario import Scenario
from simfleet.serving.engine import DEFAULT_ENGINE
from simfleet.spec import Fact
from simfleet.units import UNITS, dimension_of, parse, written
from simfleet.workload.models import BYTES_PER_ELEMENT, FOUR_BITS, Model
from simfleet.workload.streams import WorkloadPreset
from tests.schema_pages import FACTS, FORMATS, HEAD, SERIES, Page, Schema, Section, anchor, default, meaning

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
MADE = "Written from the code by `python -m tests.references`; a test fails where the two differ."
ELSEWHERE = {
    "Model": "[a model's keys](model.md)",
    "Profile": "[a device's keys](hardware-profile.md)",
}
"""Definitions that have a page of their own."""
FILES = {
    "Engine files": ("pools.NAME.engine", "engines", "engine: NAME", "simfleet/library/engines"),
    "Site files": ("sites.NAME", "sites", "preset: NAME", "simfleet/library/sites"),
    "Cooling files": ("sites.NAME.overhead", "cooling", "overhead: NAME", "simfleet/library/cooling"),
}
"""Kinds of files that hold a part of a scenario: the section with their keys, the kind, how a scenario names one, the shipped ones."""


def pages() -> dict[str, str]:
    """Name of a file in docs/reference -> what it should hold."""
    return {
        "commands.md": _commands(),
        "scenario.md": _scenario(),
        "hardware-profile.md": _thing(Profile, "Hardware profiles", "hardware.md"),
        "model.md": _thing(Model, "Models", "models.md"),
    }


# -- schemas --------------------------------------------------------------------------------------------------------------


def _schemas(*models: type[BaseModel]) -> tuple[Schema, list[Schema]]:
    """Definitions that the schemas share, and the schemas."""
    made, whole = models_json_schema([(model, "validation") for model in models], by_alias=True)
    names = [made[model, "validation"]["$ref"].rpartition("/")[2] for model in models]
    return whole["$defs"], [whole["$defs"][name] for name in names]


def _scenario() -> str:
    definitions, (scenario, workload, sla, tolerances) = _schemas(Scenario, WorkloadPreset, Sla, Tolerances)
    roots = [
        Section("The file", scenario, ""),
        Section("Workload files", workload, ""),
        Section("SLA files", sla, ""),
        Section("Tolerance files", tolerances, "tolerances"),
    ]
    found = {title: (level, body) for level, title, body in Page(definitions, ELSEWHERE).sections(roots)}
    for title, (where, kind, named, folder) in FILES.items():
        found[title] = ("##", _file(where, kind, named, folder))
    found["pools.NAME.engine"] = ("##", _engine(definitions, found["pools.NAME.engine"][1]))
    level, cooling = found["sites.NAME.overhead"]
    found["sites.NAME.overhead"] = (level, cooling + "\n" + _presets("cooling", definitions["Overhead"]["anyOf"][1]))
    found |= {SERIES: ("##", _series(definitions)), FORMATS: ("##", _formats()), "Units": ("##", _units())}
    intro = [
        "# Every key of a scenario, and of the files beside it", "", MADE, "",
        "`simfleet schema` prints the same as JSON Schema, which editors use for completion; `simfleet schema sla` does for [SLA files](#sla-files),",
        "`simfleet schema tolerances` for [tolerance files](#tolerance-files). What the parts are for: [workload](../workload.md),",
        "[energy and sites](../energy.md), [cost](../cost.md), [targets](../ci.md). **Bold** keys are required; `NAME` is a name of your own, `[]` an",
        "entry of a list. Any value can be laid over with `--set PATH=VALUE` and in `variants`.", "",
    ]  # fmt: skip
    return _page(intro, found)


def _thing(model: type[BaseModel], title: str, page: str) -> str:
    definitions, (schema,) = _schemas(model)
    sections = Page(definitions, {FORMATS: "scenario.md", SERIES: "scenario.md"}).sections(
        [Section("The file", schema, "")]
    )
    found = {title: (level, body) for level, title, body in sections}
    intro = [
        f"# {title}: every key", "", MADE, "",
        f"What they mean, with an example: [{title.lower()}](../{page}). **Bold** keys are required; `NAME` is a name, `[]` an entry of a list.", "",
    ]  # fmt: skip
    if model is Profile:
        found[FACTS] = ("##", _facts())
        intro[-2] += " Symbols such as\n`ebm` are those of [physics](../physics.md)."
    return _page(intro, found)


def _page(intro: list[str], found: Mapping[str, tuple[str, str]]) -> str:
    links = [
        f"[{title}](#{anchor(title)})" for title, (level, _) in found.items() if level == "##" and title.count(".") < 2
    ]
    bodies = [f"{level} {title}\n\n{body.strip()}\n" for title, (level, body) in found.items()]
    return "\n".join([*intro, " · ".join(links), "", *bodies])


def _engine(definitions: Schema, body: str) -> str:
    """The keys of an engine with the default preset's values as defaults, and what the presets say."""
    own = Library().data("engines", DEFAULT_ENGINE)
    lines = []
    for line in body.splitlines():
        cells = line.split(" | ")
        key = cells[0].strip("|` ")
        if key in own and key not in ("sources", "aliases", "release"):
            cells[2] = f"`{_normal(own[key], definitions['Continuous']['properties'][key])}`"
        lines.append(" | ".join(cells))
    said = f"A name alone, such as `engine: {DEFAULT_ENGINE}`, is a preset. Defaults are those of the preset `{DEFAULT_ENGINE}`, which holds where none is named."
    return "\n".join([said, "", *lines, "", _presets("engines", definitions["Continuous"])])


def _presets(kind: str, schema: Schema) -> str:
    """Key -> value in each shipped preset; in italics what a preset leaves to the class."""
    names = Library().names(kind)
    names.sort(key=lambda name: name != DEFAULT_ENGINE)
    shelf = {name: Library().data(kind, name) for name in names}
    keys = [key for key in schema["properties"] if any(key in data for data in shelf.values())]
    lines = ["Presets:", "", f"| key | {' | '.join(f'`{name}`' for name in names)} |", "|---|" + "---|" * len(names)]
    for key in keys:
        if key in ("sources", "aliases", "description"):
            continue
        part = schema["properties"][key]
        values = [_normal(data.get(key, part.get("default")), part) for data in shelf.values()]
        lines.append(f"| `{key}` | {' | '.join(values)} |")
    return "\n".join([*lines, ""])


def _normal(value: Any, part: Schema) -> str:
    """A value of a preset as people would write it: `1.351e+04 us` as 13.51 ms."""
    dimension = next((found for one in (part, *part.get("anyOf", ())) if (found := dimension_of(one))), "")
    if dimension and isinstance(value, str):
        value = written(parse(value, dimension), dimension)
    return default({**part, "default": value}).strip("`")


def _file(where: str, kind: str, named: str, folder: str) -> str:
    return (
        f"A file of its own holds the keys of [`{where}`](#{anchor(where)}). A scenario says `{named}`, with the file's name without .yaml, or its path; `--path` and "
        f"`SIMFLEET_PATH` name the folders that are searched before the [shipped ones](../../{folder}): {', '.join(f'`{name}`' for name in Library().names(kind))}.\n"
    )


def _series(definitions: Schema) -> str:
    """The two ways to write what changes, said once for all keys that link here."""
    _, steps, file = definitions["Site"]["properties"]["carbon_intensity"]["anyOf"]
    lines = ["Instead of one value, steps or a file:", "", "```"]
    lines += ["carbon_intensity: {steps: {0 h: 430 g/kWh, 8 h: 310 g/kWh}, repeat: 1 d}", "carbon_intensity: {file: carbon.csv, unit: g/kWh, repeat: 1 d}", "```", "", *HEAD]  # fmt: skip
    takes = {"steps": "time -> value", "repeat": "seconds, such as `1 d`", "file": "text", "unit": "text"}
    rows = steps["properties"] | file["properties"]
    return "\n".join([*lines, *(f"| `{key}` | {takes[key]} |  | {meaning(rows[key])} |" for key in takes)])


def _formats() -> str:
    """What the names mean, and what an element takes."""
    meanings = {
        "fp32": "single precision", "tf32": "single precision, multiplied at 19 bits", "bf16": "bfloat16", "fp16": "half precision",
        "fp8": "the network's own 8-bit checkpoints: `fp8`, or `fp8_block` where the model says so", "fp8_block": "8 bits, scaled per 128 x 128 elements",
        "int8": "8-bit integers", "fp4": "the network's own 4-bit checkpoints: `nvfp4` or `mxfp4`, as the model says",
        "nvfp4": "4 bits, scaled per 16 elements", "mxfp4": "4 bits, scaled per 32 elements; weights only", "int4": "4-bit integers, scaled per 32 elements; weights only",
    }  # fmt: skip
    assert set(meanings) == set(BYTES_PER_ELEMENT) >= set(FOUR_BITS)
    lines = [f"| `{name}` | {meanings[name]} | {BYTES_PER_ELEMENT[name]:.6g} |" for name in BYTES_PER_ELEMENT]
    said = "A device computes in those that its profile has a peak and constants for; weights alone may be narrower ([models](../models.md), [physics](../physics.md))."
    return "\n".join([said, "", "| format | meaning | bytes per element, scales included |", "|---|---|---|", *lines])


def _facts() -> str:
    """How a stored number is written."""
    schema = Fact[float].model_json_schema()
    example = "{value: 3.35 TB/s, source: sheet, grade: datasheet, note: of the SXM board}"
    rows = Page({}, {}).table(schema, "")
    return "\n".join([f"A *fact* is a number with its origin, on one line: `{example}`.", "", *rows]).replace(
        "| number |", "| what its key takes |"
    )


def _units() -> str:
    lines = ["A quantity is a number with its unit; a bare number is refused.", "", "| quantity | units |", "|---|---|"]
    lines += [
        f"| {dimension} | {', '.join(f'`{unit}`' for unit in known if unit)} |" for dimension, known in UNITS.items()
    ]
    return "\n".join([*lines, "", "Shares may be written `0.9` or `90 %`, tokens `16k` (16,000) or `16Ki` (16,384)."])


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
        f"- [`{name}`](#{anchor(name)}): {command.get_short_help_str(200).rstrip('.')}"
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
