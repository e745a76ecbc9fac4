"""What editors and the reference say of every key: described in words, with a default that a user could write, and true of all shipped files."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from simfleet.document import read
from simfleet.facility.site import Overhead, Site
from simfleet.gate.compare import Tolerances
from simfleet.gate.targets import Sla
from simfleet.hardware.profile import Profile
from simfleet.library import Library
from simfleet.scenario import Scenario
from simfleet.serving.engine import Continuous, Static
from simfleet.spec import Spec, json_schema
from simfleet.units import UNITS
from simfleet.workload.models import Model
from simfleet.workload.streams import WorkloadPreset
from tests.references import pages

Schema = dict[str, Any]
FILES: dict[str, type[Spec]] = {
    "scenarios": Scenario,
    "hardware_profiles": Profile,
    "models": Model,
    "engines": Continuous,
    "sites": Site,
    "cooling": Overhead,
    "workloads": WorkloadPreset,
}
"""Kind of file -> what it holds."""
SCHEMAS = {cls.__name__: json_schema(cls) for cls in (*FILES.values(), Static, Sla, Tolerances)}


def keys(schema: Any, name: str) -> Iterator[tuple[str, Schema]]:
    """Every key that can be written, as ("Memory.capacity", its schema)."""
    if isinstance(schema, list):
        for part in schema:
            yield from keys(part, name)
    if not isinstance(schema, dict):
        return
    for inner, part in schema.get("$defs", {}).items():
        yield from keys(part, inner)
    for key, part in schema.get("properties", {}).items():
        yield f"{name}.{key}", part
        yield from keys(part, f"{name}.{key}")
    for word, part in schema.items():
        if word not in ("$defs", "properties", "default", "examples"):
            yield from keys(part, name)


KEYS = {key: (name, part) for name, schema in SCHEMAS.items() for key, part in keys(schema, name)}


@pytest.mark.parametrize("key", KEYS)
def test_every_key_is_described(key: str) -> None:
    """In a line of its own words: neither the list of units that a quantity brings along, nor its name again."""
    text = KEYS[key][1].get("description", "")
    assert text, "no description"
    assert text.partition(":")[0] not in UNITS, "only units"
    assert "\n" not in text
    assert re.sub(r"\W+", "", text.lower()) != key.rpartition(".")[2].replace("_", "")


@pytest.mark.parametrize("key", [key for key, (_, part) in KEYS.items() if "default" in part])
def test_every_default_could_be_written(key: str) -> None:
    name, part = KEYS[key]
    jsonschema.Draft202012Validator({**part, "$defs": SCHEMAS[name].get("$defs", {})}).validate(part["default"])


@pytest.mark.parametrize("kind", FILES)
def test_shipped_files_keep_their_schema(kind: str) -> None:
    library, schema = Library(), json_schema(FILES[kind])
    validator = jsonschema.Draft202012Validator(schema)
    for name in library.names(kind):
        data = read(library.path(kind, name)).data
        assert [error.message for error in validator.iter_errors(json.loads(json.dumps(data)))] == [], name


def test_presets_may_be_names_in_a_scenario() -> None:
    pool = {"model": "llama-3.1-8b", "device": "h100", "engine": "vllm", "precision": "fp8"}
    site = {"preset": "finland", "overhead": "liquid"}
    stream = {"name": "a", "model": "llama-3.1-8b", "preset": "azure-2023-code"}
    scenario = {"name": "a", "workload": {"streams": [stream]}, "sites": {"here": site}, "pools": {"a": pool}}
    validator = jsonschema.Draft202012Validator(json_schema(Scenario))
    validator.validate(scenario)
    assert not validator.is_valid({**scenario, "pools": {"a": {**pool, "engine": 7}}})


# -- the reference -------------------------------------------------------------------------------------------------------

REFERENCES = {name: text for name, text in pages().items() if name != "commands.md"}


def rows(text: str) -> list[list[str]]:
    """Cells of the tables of keys."""
    lines = [line for line in text.splitlines() if re.match(r"\| \**`\w+`\** \|", line)]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


@pytest.mark.parametrize("name", REFERENCES)
def test_every_row_says_what_a_key_takes_and_means(name: str) -> None:
    table = [row for row in rows(REFERENCES[name]) if len(row) == 4]
    assert len(table) > 30
    assert [row[0] for row in table if not row[1] or not row[3]] == []
    assert [row for row in table if "null" in row[2] or '"' in row[2] or len(row[2]) > 40] == []


@pytest.mark.parametrize("name", REFERENCES)
def test_nothing_is_said_twice(name: str) -> None:
    """Mappings that share keys, such as kinds of engines and of lengths, have them in one table."""
    tables = re.findall(r"^\|---\|---\|---\|---\|\n((?:\|.*\n)+)", REFERENCES[name], re.M)
    assert len(set(tables)) == len(tables)
    assert REFERENCES[name].count("| `token_budget` | tokens") == (name == "scenario.md")


def test_the_reference_has_the_keys_of_every_kind_of_file() -> None:
    shown = {row[0].strip("*` ") for text in REFERENCES.values() for row in rows(text)}
    written = {key.rpartition(".")[2] for key in KEYS}
    assert written - shown - {"kind", "dist"} == set()


def test_presets_are_shown_beside_each_other() -> None:
    text = REFERENCES["scenario.md"]
    for kind in ("engines", "cooling"):
        assert all(f"`{name}` |" in text for name in Library().names(kind))
    assert "| `reserve` | bytes, such as `80 GB` | `2 GB` |" in text  # of the preset that holds where none is named
    assert "e+04 us" not in text


def test_pages_are_where_they_are_linked() -> None:
    folder = Path(__file__).parents[1] / "docs" / "reference"
    for text in REFERENCES.values():
        for target in re.findall(r"\]\(((?:\.\./)+[\w/.-]+)\)", text):
            assert (folder / target).exists(), target
