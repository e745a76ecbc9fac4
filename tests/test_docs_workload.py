"""Every YAML example in docs/workload.md can be built and drawn from, and the page leaves no choice out."""

import gzip
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from simfleet.document import Document
from simfleet.library import Library
from simfleet.spec import build
from simfleet.streams import Streams
from simfleet.workload.arrivals import AnyArrival, ClosedLoop
from simfleet.workload.lengths import Tokens
from simfleet.workload.streams import Stream, Workload
from simfleet.workload.traces import Trace

PAGE = Path(__file__).parents[1] / "docs" / "workload.md"
TEXT = PAGE.read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2023-11-16 18:{i:02}:00.0000000,10,20\n" for i in range(60)
)
FILES = {
    "conv.csv.gz": gzip.compress(AZURE.encode()),
    "mine.csv": b"started_at,prompt_tokens,completion_tokens\n2.5,10,20\n1,10,20\n1,10,0\n",
    "mooncake.jsonl": b'{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]}\n',
}
REST = {
    "arrival": {"rate": "1 /s"},
    "tokens": {"input": {"dist": "constant", "value": 1}, "output": {"dist": "constant", "value": 1}},
}


@pytest.mark.parametrize("text", EXAMPLES, ids=[f"example {i}" for i in range(len(EXAMPLES))])
def test_example_can_be_built_and_drawn_from(text: str, tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    for stream in _streams(Document.from_text(text, PAGE.name, tmp_path)):
        if isinstance(stream.arrival, ClosedLoop):
            assert next(stream.lengths(Streams(0)))
        else:
            assert next(stream.requests(Streams(0), 1e6))


def _streams(document: Document) -> tuple[Stream, ...]:
    context = {"library": Library()}
    if "workload" in document.data:
        return build(Workload, Document(document.data["workload"], {}, document.file, document.folder), context).streams
    rest = {} if "trace" in document.data else REST
    part = {"name": "example", "model": "llama-3.1-8b", **rest, **document.data}
    return (build(Stream, Document(part, {}, document.file, document.folder), context),)


@pytest.mark.parametrize("part", [AnyArrival, Tokens, Trace], ids=["arrivals", "lengths", "traces"])
def test_page_names_every_choice(part: Any) -> None:
    """Also the ones that are added later."""
    definitions = TypeAdapter(part).json_schema()
    schemas = [definitions, *definitions["$defs"].values()]
    fields = [
        schema["properties"][key]
        for schema in schemas
        for key in ("kind", "dist", "format", "method")
        if key in schema.get("properties", {})
    ]
    choices = {choice for one in fields for choice in one.get("enum", [one.get("const")])}
    assert len(choices) >= 5
    assert {
        choice
        for choice in choices
        if f"`{choice}`" not in TEXT and f"kind: {choice}" not in TEXT and f"dist: {choice}" not in TEXT
    } == set()


@pytest.mark.parametrize("cls", [Stream, Trace])
def test_page_names_every_key(cls: type[Stream] | type[Trace]) -> None:
    keys = {spec.alias or name for name, spec in cls.model_fields.items()}
    assert {key for key in keys if f"`{key}" not in TEXT and f"{key}:" not in TEXT} == set()


def test_presets_in_the_page_are_those_shipped() -> None:
    section = TEXT.split("## Presets")[1].split("## Traces")[0]
    assert sorted(re.findall(r"^\| `([\w.-]+)` \|", section, re.MULTILINE)) == Library().names("workloads")
