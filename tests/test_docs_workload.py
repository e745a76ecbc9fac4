"""Every YAML example in docs/workload.md is a workload, or a part of a stream."""

import re
from pathlib import Path

import pytest

from simfleet.library import Library
from simfleet.spec import Document, build
from simfleet.streams import Streams
from simfleet.workload.streams import Stream, Workload

PAGE = Path(__file__).parents[1] / "docs" / "workload.md"
TEXT = PAGE.read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
FILES = {
    "conv.csv": "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:00:00.0000000,10,20\n2023-11-16 18:15:00.0000000,10,20\n",
    "mine.csv": "started_at,prompt_tokens,completion_tokens\n2.5,10,20\n1,10,20\n1,10,0\n",
    "mooncake.jsonl": '{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]}\n',
}
REST = {
    "arrival": {"rate": "1 /s"},
    "tokens": {"input": {"dist": "constant", "value": 1}, "output": {"dist": "constant", "value": 1}},
}


@pytest.mark.parametrize("text", EXAMPLES, ids=lambda text: text.split("\n")[0])
def test_example_can_be_built_and_drawn_from(text: str, tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "conv.csv.gz").write_text(FILES["conv.csv"])
    import gzip

    (tmp_path / "conv.csv.gz").write_bytes(gzip.compress(FILES["conv.csv"].encode()))
    document = Document.from_text(text, PAGE.name, tmp_path)
    for stream in _streams(document, tmp_path):
        if getattr(stream.arrival, "kind", None) == "closed_loop":
            assert next(stream.lengths(Streams(0)))
        else:
            assert next(stream.requests(Streams(0), 1e6))


def _streams(document: Document, folder: Path) -> tuple[Stream, ...]:
    context = {"library": Library(), "folder": folder}
    if "workload" in document.data:
        whole = Document(document.data["workload"], {}, document.file, folder)
        return build(Workload, whole, context).streams
    rest = {} if "trace" in document.data else REST
    part = {"name": "example", "model": "llama-3.1-8b", **rest, **document.data}
    return (build(Stream, Document(part, {}, document.file, folder), context),)


def test_page_names_every_choice() -> None:
    """A format, distribution, envelope or method that is added is documented here."""
    schema = Workload.model_json_schema(by_alias=True)
    kinds = {
        word
        for definition in schema["$defs"].values()
        for key in ("kind", "dist", "format", "method")
        for word in _choices(definition.get("properties", {}).get(key, {}))
        if definition["title"] not in MODEL_PARTS
    }
    assert len(kinds) > 20
    assert {kind for kind in kinds if f"`{kind}`" not in TEXT and f"kind: {kind}" not in TEXT and f"dist: {kind}" not in TEXT} == set()


MODEL_PARTS = ()


def _choices(schema: dict[str, object]) -> list[str]:
    values = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    assert isinstance(values, list)
    return [str(value) for value in values]


def test_presets_in_the_page_are_those_shipped() -> None:
    section = TEXT.split("## Presets")[1].split("## Traces")[0]
    assert sorted(re.findall(r"^\| `([\w.-]+)` \|", section, re.MULTILINE)) == Library().names("workloads")
