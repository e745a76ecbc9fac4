"""YAML in, models out: strict reading, places of every value, overrides, and errors in plain words."""

import json
import pickle
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError, ValidationInfo, model_validator

from simfleet.document import (
    MOST_DEPTH,
    MOST_LISTED,
    Document,
    Mark,
    SpecError,
    did_you_mean,
    near_file,
    overlay,
    override,
    read,
)
from simfleet.library import Library
from simfleet.spec import Fact, Named, Spec, build, default_kind, nearest, preset, refusal
from simfleet.units import Bytes, Seconds


class Cat(Spec):
    kind: Literal["cat"] = "cat"
    lives: int = Field(9, ge=1)


class Dog(Spec):
    kind: Literal["dog"]


class Box(Spec):
    name: str
    size: Bytes
    pet: Annotated[Cat | Dog, Field(discriminator="kind"), default_kind("cat")] = Cat()
    share: float = Field(0.5, gt=0, lt=1)
    open: bool = False
    colour: Literal["red", "green"] = "red"
    kind_of: str | None = Field(None, alias="class")
    sizes: dict[int, Seconds] = Field({})
    parts: tuple["Box", ...] = ()


def problems(text: str, cls: type[Any] = Box) -> list[str]:
    with pytest.raises(SpecError) as caught:
        build(cls, Document.from_text(text, "box.yaml"))
    return [str(problem) for problem in caught.value.problems]


# -- reading -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e9", 1_000_000_000),
        ("1.5e3", 1500.0),
        ("-.5", -0.5),
        ("1_000", 1000),
        ("007", 7),
        ("0x10", "0x10"),
        ("NO", "NO"),
        ("yes", "yes"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("2026-01-31", "2026-01-31"),
        ("true", True),
        ("false", False),
        ("'true'", "true"),
        ('"7"', "7"),
        ("!!str 7", "7"),
        ("", None),
        ("~", None),
        ("null", None),
        ("+", "+"),
        (".", "."),
        ("1.2.3", "1.2.3"),
        ("80 GB", "80 GB"),
        ("[1, [2]]", [1, [2]]),
        ("{b: NO}", {"b": "NO"}),
    ],
)
def test_values_mean_what_they_say(text, value):
    data = Document.from_text(f"a: {text}").data["a"]
    assert data == value
    assert type(data) is type(value)


@pytest.mark.parametrize(
    ("text", "where", "phrase"),
    [
        ("a: 1\nb: 2\na: 3", "3:1", "a: duplicate key, first on line 1"),
        ("a:\n  b: 1\n  b: 2", "3:3", "a.b: duplicate key, first on line 2"),
        ("a: .nan", "1:4", "a: expected a finite number"),
        ("a: [1, -.inf]", "1:8", "a.1: expected a finite number"),
        ("a: 1e999", "1:4", "a: expected a finite number"),
        ("a: " + "9" * 5000, "1:4", "a: expected a finite number"),
        ("x: 1\n<<: {a: 1}", "2:1", "merge keys"),
        ("? [a]\n: 1", "1:3", "expected a plain key"),
        ("a: !!int seven", "1:4", "YAML tag"),
        ("a: !python/name:os.system x", "1:4", "YAML tag"),
        ("a: &a [*a]", "1:8", "unknown alias `*a`"),
        ("a: 1\n---\nb: 1", "2:1", "expected one document"),
        ("a:\n\tb: 1", "2:1", "got a tab"),
        ("a: [1\n", "2:1", "not YAML"),
        ("a: 'x", "1:6", "not YAML"),
        ("a: \x07", "1:4", "control character U+0007"),
        ("a: 1\nb: \x00", "2:4", "control character U+0000"),
        ("", "1:1", "expected a mapping of keys to values, got nothing"),
        ("# nothing\n", "1:1", "got nothing"),
        ("- 1", "1:1", "got a list"),
        ("seven", "1:1", "got `seven`"),
        ("a: " + "[" * 200_000, f"1:{MOST_DEPTH + 4}", "50 levels"),
        ("a: " + "{a: " * 5000, "1:204", "50 levels"),
    ],
)
def test_what_is_not_plain_yaml_is_refused(text, where, phrase):
    with pytest.raises(SpecError) as caught:
        Document.from_text(text, "f.yaml")
    (problem,) = caught.value.problems
    assert str(problem).startswith(f"f.yaml:{where}: ")
    assert phrase in str(problem)


def test_an_alias_is_its_value_and_keeps_its_own_place():
    document = Document.from_text("a: &size 80 GB\nb: {c: *size}")
    assert document.data == {"a": "80 GB", "b": {"c": "80 GB"}}
    assert document.mark(("b", "c")) == Mark("<text>", 2, 8)


def test_an_alias_bomb_is_refused_before_it_is_expanded():
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    with pytest.raises(SpecError, match="at most 100000 values") as caught:
        Document.from_text("\n".join(lines))
    assert caught.value.problems[0].mark.line == 5


def test_every_value_and_key_has_a_place():
    document = Document.from_text("a:\n  b: 1\n  c:\n    - x\n    - name: n\n      v: 2\n")
    places = {
        ("a", "b"): (2, 6),
        ("a", "c"): (3, 3),
        ("a", "c", 0): (4, 7),
        ("a", "c", 1, "v"): (6, 10),
        ("a",): (1, 1),
    }
    assert {where: document.mark(where)[1:] for where in places} == places
    assert document.mark(("a", "b"), key=True)[1:] == (2, 3)
    assert document.mark(("a", "c", 1, "gone", "too"))[1:] == (5, 7)
    assert document.path(("a", "c", 1, "v")) == "a.c.n.v"
    assert document.path(("a", "c", 0)) == "a.c.0"


@pytest.mark.parametrize(
    ("raw", "where", "phrase"),
    [
        (b"a: 1\nb: \xff", ":2:4", "UTF-8, got the byte 0xff"),
        ("a: 1".encode("utf-16"), ":1:1", "UTF-8"),
        (bytes(range(256)), ":", "expected text"),
    ],
)
def test_bytes_that_are_not_text(tmp_path, raw, where, phrase):
    path = tmp_path / "f.yaml"
    path.write_bytes(raw)
    with pytest.raises(SpecError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}{where}")
    assert phrase in str(caught.value)


def test_files(tmp_path):
    path = tmp_path / "f.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: \xc3\xa4")  # a byte order mark is what some editors write
    assert read(path).data == {"a": "ä"}
    assert read(path).folder == tmp_path
    with pytest.raises(SpecError, match=r"gone\.yaml: no such file$"):
        read(tmp_path / "gone.yaml")  # `f.yaml` has no more than the suffix in common
    (tmp_path / "chatbot.yml").write_text("a: 1")
    with pytest.raises(SpecError, match=r"chatbto\.yaml: no such file; did you mean `chatbot\.yml`\?$"):
        read(tmp_path / "chatbto.yaml")
    with pytest.raises(SpecError, match="expected a YAML file, got a folder"):
        read(tmp_path)
    with pytest.raises(SpecError, match="no such file"):
        read(Path("nul\0.yaml"))


@given(st.text() | st.text(alphabet="ab:-[]{}&*!|>'\"%@`#,? \n\t0.1e~<"))
def test_any_text_is_a_mapping_or_a_spec_error(text):
    try:
        document = Document.from_text(text)
    except SpecError as error:
        lines = [problem.mark.line for problem in error.problems]
    else:
        lines = [mark.line for mark in document.marks.values()]
        assert isinstance(document.data, dict)
    assert lines
    assert min(lines) >= 1


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text("ab: -#'\"", max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=3),
    max_leaves=10,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["x", "y", "long.name"]), plain, min_size=1))
def test_json_reads_back(data):
    """YAML 1.2 holds JSON."""
    assert Document.from_text(json.dumps(data)).data == data


# -- overrides -----------------------------------------------------------------------------------------------------------

FLEET = Document.from_text(
    """
pools:
  chat: {replicas: 2, engine: , device: h100}
  v3.1: {replicas: 1, device: h100}
streams:
  - name: a
    rate: 1 /s
  - name: b.c
    rate: 2 /s
""",
    "fleet.yaml",
)


@pytest.mark.parametrize(
    ("path", "text", "where", "value"),
    [
        ("pools.chat.replicas", "8", ("pools", "chat", "replicas"), 8),
        ("pools.chat.device", "b200", ("pools", "chat", "device"), "b200"),
        ("pools.v3.1.replicas", "8", ("pools", "v3.1", "replicas"), 8),
        ("pools.chat.cost.price", "$2/h", ("pools", "chat", "cost", "price"), "$2/h"),
        ("pools.chat.engine.token_budget", "512", ("pools", "chat", "engine", "token_budget"), 512),
        ("pools.new", "{replicas: 1}", ("pools", "new", "replicas"), 1),
        ("streams.a.rate", "9 /s", ("streams", 0, "rate"), "9 /s"),
        ("streams.1.rate", "9 /s", ("streams", 1, "rate"), "9 /s"),
        ("streams.b.c.rate", "9 /s", ("streams", 1, "rate"), "9 /s"),
        ("streams.a", "{name: z}", ("streams", 0, "name"), "z"),
        ("horizon", "10 min", ("horizon",), "10 min"),
        ("horizon", "", ("horizon",), None),
        ("drain", "no", ("drain",), "no"),
    ],
)
def test_an_override_reads_back(path, text, where, value):
    changed = override(FLEET, path, text)
    data = changed.data
    for part in where:
        data = data[part]
    assert data == value
    assert changed.mark(where) == Mark("--set")
    assert FLEET.data["pools"]["chat"]["replicas"] == 2
    assert FLEET.data["streams"][0] == {"name": "a", "rate": "1 /s"}


@given(
    st.sampled_from(
        ["pools.chat.replicas", "pools.new", "streams.a.rate", "streams.1", "x", "pools.chat.cost.own.years"]
    ),
    plain,
)
def test_an_override_changes_its_own_path_only(path, value):
    changed = overlay(FLEET, path, value, {(): Mark("test")})
    key = path.rpartition(".")[2]
    again = overlay(changed, path, "back", {(): Mark("test")})
    assert overlay(again, path, value, {(): Mark("test")}).data == changed.data
    assert key in str(changed.data) or key.isdecimal()
    assert (
        changed.data.get("streams" if path.startswith("pools") else "pools")
        == FLEET.data["streams" if path.startswith("pools") else "pools"]
    )


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("pools.chta.replicas", "8", "no `chta` in `pools`; did you mean `chat`?"),
        ("pools.other.replicas", "8", "no `other` in `pools`; known: chat, v3.1"),
        ("pool.chat.replicas", "8", "no `pool`; did you mean `pools`?"),
        ("streams.z.rate", "8", "no item `z` in `streams`; known: a, b.c"),
        ("streams.2.rate", "8", "no item `2` in `streams`"),
        ("streams.-1.rate", "8", "no item `-1` in `streams`"),
        ("pools.chat.device.memory", "8", "no `memory` in `pools.chat.device`; it is `h100`, not a mapping"),
        ("pools.chat.replicas", "[1", "not YAML"),
        ("pools.chat.replicas", ".nan", "expected a finite number"),
    ],
)
def test_an_override_that_leads_nowhere(path, text, message):
    with pytest.raises(SpecError) as caught:
        override(FLEET, path, text)
    assert str(caught.value).startswith("--set")
    assert message in str(caught.value)


# -- models --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: a", ["1:1: size: missing, expected bytes such as `80 GB`"]),
        ("size: 1 B", ["1:1: name: missing, expected text"]),
        ("name: a\nsize: 80", ["2:7: size: expected bytes with a unit, such as `80 GB`, got `80` without one"]),
        ("name: 7\nsize: 1 B", ["1:7: name: expected text, got `7`"]),
        ("name: a\nsize: 1 B\nopen: yes", ["3:7: open: expected true or false, got `yes`"]),
        ("name: a\nsize: 1 B\nopen: 1", ["3:7: open: expected true or false, got `1`"]),
        ("name: a\nsize: 1 B\nshare: '0.5'", ["3:8: share: expected a number, got `0.5`"]),
        ("name: a\nsize: 1 B\nshare: 1", ["3:8: share: expected below 1.0, got `1`"]),
        ("name: a\nsize: 1 B\ncolor: red", ["3:1: color: unknown key; did you mean `colour`?"]),
        (
            "name: a\nsize: 1 B\ncolour: gren",
            ["3:9: colour: expected one of red, green, got `gren`; did you mean `green`?"],
        ),
        ("name: a\nsize: 1 B\nclas: x", ["3:1: clas: unknown key; did you mean `class`?"]),
        ("name: a\nsize: 1 B\nclass: [x]", ["3:1: class: expected text, got `['x']`"]),
        ("name: a\nsize: 1 B\nkind_of: x", ["3:1: kind_of: unknown key"]),
        (
            "name: a\nsize: 1 B\npet: {kind: cta}",
            ["3:13: pet.kind: expected one of cat, dog, got `cta`; did you mean `cat`?"],
        ),
        ("name: a\nsize: 1 B\npet: {lives: 0}", ["3:14: pet.lives: expected at least 1, got `0`"]),
        ("name: a\nsize: 1 B\npet: {lives: 9.0}", ["3:14: pet.lives: expected a whole number, got `9.0`"]),
        ("name: a\nsize: 1 B\npet: {kind: dog, lives: 1}", ["3:18: pet.lives: unknown key"]),
        ("name: a\nsize: 1 B\npet: cat", ["3:6: pet: expected a mapping, such as `{kind: cat}`, got `cat`"]),
        ("name: a\nsize: 1 B\nparts: {}", ["3:1: parts: expected a list, got `{}`"]),
        ("name: a\nsize: 1 B\nsizes: {2: 1}", ["3:12: sizes.2: expected seconds with a unit"]),
        (
            "name: a\nsize: 1 B\nparts:\n  - {name: b, size: 1 B}\n  - name: c\n    size: big\n    opne: true",
            [
                "6:11: parts.c.size: expected bytes such as `80 GB`, got `big`",
                "7:5: parts.c.opne: unknown key; did you mean `open`?",
            ],
        ),
        ("parts: [{name: b}]", ["1:1: name: missing", "1:1: size: missing", "1:9: parts.b.size: missing"]),
    ],
)
def test_errors_say_where_what_was_expected_and_what_came(text, expected):
    found = problems(text)
    assert len(found) == len(expected)
    for line, start in zip(found, expected, strict=True):
        assert line.startswith(f"box.yaml:{start}")


def test_models_are_strict_but_for_keys():
    box = build(
        Box, Document.from_text("name: a\nsize: 2 kB\nshare: 0.25\nsizes: {2: 10 s}\npet: {lives: 3}\nclass: x")
    )
    assert (box.size, box.share, box.sizes, box.pet, box.kind_of) == (2000.0, 0.25, {2: 10.0}, Cat(lives=3), "x")
    with pytest.raises(ValidationError, match="frozen"):
        box.name = "b"
    with pytest.raises(ValidationError):
        Box(name="a", size="1 B", share="0.25")


def test_hints_belong_to_the_mapping_they_are_about():
    class Two(Spec):
        first: Cat
        second: Fact[Bytes]

    found = problems("first: {valu: 1}\nsecond: {valu: 1, source: x, grade: estimate}", Two)
    assert "known: kind, lives" in found[0]
    assert any("second.valu: unknown key; did you mean `value`?" in line for line in found)


def test_several_problems_of_one_check():
    class Pair(Spec):
        a: int
        b: int

        @model_validator(mode="after")
        def _check(self) -> "Pair":
            raise refusal([(("a",), "a is wrong"), (("b",), "b is too")])

    assert problems("b: 1\na: 2", Pair) == ["box.yaml:1:4: b: b is too", "box.yaml:2:4: a: a is wrong"]
    with pytest.raises(ValidationError, match="a is wrong; b is too"):
        Pair(a=1, b=2)


def test_a_spec_error_survives_pickling():
    with pytest.raises(SpecError) as caught:
        Document.from_text("a: 1\na: 2")
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert again.problems == caught.value.problems


def test_did_you_mean():
    assert did_you_mean("REPLICA", ["replicas", "site"]) == "; did you mean `replicas`?"
    assert did_you_mean("zzz", ["a", "b"]) == "; known: a, b"
    assert did_you_mean("zzz", []) == ""
    assert did_you_mean("rack", ["site"], unlisted=["racks"]) == "; did you mean `racks`?"
    assert did_you_mean("zzz", ["site"], unlisted=["racks"]) == "; known: site"


def test_names_are_listed_while_they_fit():
    names = [f"n{i:06}" for i in range(MOST_LISTED // 9)]
    assert did_you_mean("zzz", names) == f"; known: {', '.join(names)}"
    assert did_you_mean("zzz", [*names, "abcdefg", "b"]) == f"; known: {', '.join(names)} and 2 more"
    assert did_you_mean("zzz", ["n" * 1000, "b"]) == f"; known: {'n' * 1000} and 1 more"


@pytest.mark.parametrize(
    ("name", "files", "meant"),
    [
        ("nope.csv", ["bad.csv", "two.csv"], None),
        ("x.csv", ["two.csv"], None),
        ("chta.csv", ["chat.csv.gz", "bad.csv"], "chat.csv.gz"),
        ("Chat.csv", ["chat.csv"], "chat.csv"),
        ("chat.json", ["chat.csv", "chat.jsonl", "chat.yaml"], "chat.jsonl"),
        ("trace-v1.csv", ["trace-v1.2.csv"], "trace-v1.2.csv"),
        ("x.csv", [], None),
    ],
)
def test_near_files_are_alike_without_their_suffixes(name, files, meant):
    assert near_file(name, files) == (f"; did you mean `{meant}`?" if meant else "")


def test_a_mark_has_what_is_known():
    assert [str(Mark("f")), str(Mark("f", 3)), str(Mark("f", 3, 7))] == ["f", "f:3", "f:3:7"]


# -- names and presets ---------------------------------------------------------------------------------------------------


class Place(Spec):
    preset: str | None = None
    size: Bytes
    share: float = Field(gt=0)

    @model_validator(mode="before")
    @classmethod
    def _start(cls, values: Any, info: ValidationInfo) -> Any:
        return preset(values, info, "sites") if isinstance(values, dict) and "preset" in values else values


class Shelf(Spec):
    box: Annotated[Box, Named("models")]
    place: Place | None = None


@pytest.fixture
def shelf(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "sites").mkdir()
    (tmp_path / "models" / "small.yaml").write_text("name: small\nsize: 1 B\n")
    (tmp_path / "models" / "broken.yaml").write_text("name: broken\n\nsize: 1 apple\ncolor: red\n")
    (tmp_path / "models" / "twice.yaml").write_text("name: twice\nname: thrice\n")
    (tmp_path / "sites" / "here.yaml").write_text("size: 5 B\nshare: 0.5\n")
    (tmp_path / "sites" / "there.yaml").write_text("size: 5 B\nshare: 0\n")

    def make(text: str) -> Shelf:
        return build(Shelf, Document.from_text(text, "shelf.yaml", tmp_path), {"library": Library((tmp_path,))})

    return make


def test_a_name_a_path_and_a_mapping_are_the_same(shelf):
    boxes = [
        shelf(f"box: {text}").box
        for text in ("small", "./models/small.yaml", "models/small.yaml", "{name: small, size: 1 B}")
    ]
    assert boxes == [Box(name="small", size="1 B")] * 4
    assert Shelf(box=boxes[0]).box == boxes[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("box: smal", ["shelf.yaml:1:6: box: unknown model `smal`; did you mean `small`?"]),
        ("box: 7", ["shelf.yaml:1:6: box: expected a name or path of one of models, or a mapping, got `7`"]),
        ("{}", ["shelf.yaml:1:1: box: missing, expected a name or path of one of models, or a mapping"]),
        ("box: ./gone.yaml", ["gone.yaml: no such file"]),
        ("box: {name: small}", ["shelf.yaml:1:1: box.size: missing"]),
        (
            "box: broken",
            ["broken.yaml:3:7: size: expected bytes", "broken.yaml:4:1: color: unknown key; did you mean `colour`?"],
        ),
        ("box: twice", ["twice.yaml:2:1: name: duplicate key, first on line 1"]),
        (
            "box: small\nplace: {preset: her}",
            ["shelf.yaml:2:17: place.preset: unknown site `her`; did you mean `here`?"],
        ),
        ("box: small\nplace: {preset: there}", ["there.yaml:2:8: share: expected above 0.0, got `0`"]),
        ("box: small\nplace: {preset: here, share: 0}", ["shelf.yaml:2:30: place.share: expected above 0.0, got `0`"]),
    ],
)
def test_problems_of_a_named_file_are_shown_in_it(shelf, text, expected):
    with pytest.raises(SpecError) as caught:
        shelf(text)
    found = [str(problem) for problem in caught.value.problems]
    assert len(found) == len(expected)
    for line, part in zip(found, expected, strict=True):
        assert part in line


def test_a_preset_is_laid_under(shelf):
    place = shelf("box: small\nplace: {preset: here, share: 0.25}").place
    assert (place.size, place.share) == (5.0, 0.25)


def test_without_a_library_names_mean_nothing():
    with pytest.raises(ValidationError, match=r"names are looked up by simfleet\.load"):
        Shelf(box="small")


# -- the schema ----------------------------------------------------------------------------------------------------------


class Pet(Spec):
    """Something that lives here.

    Not in the first line.
    """

    kind: Literal["pet"]
    size: Bytes = 2e9
    age: Seconds = 0.0


def test_the_schema_says_what_a_kind_is_and_writes_defaults_as_users_do():
    keys = Pet.model_json_schema()["properties"]
    assert keys["kind"]["description"] == "`pet`: Something that lives here."
    assert keys["size"]["default"] == "2 GB"
    assert keys["age"]["default"] == "0 s"
    assert Pet(kind="pet", size=keys["size"]["default"], age=keys["age"]["default"]) == Pet(kind="pet")


@pytest.mark.parametrize(
    ("key", "known", "ending"),
    [
        ("tp", ["model", "tensor_parallel"], "; did you mean `tensor_parallel`?"),
        ("price", ["site", "electricity_price"], "; did you mean `electricity_price`?"),
        ("intermediate_size", ["kind", "size"], "; did you mean `size`?"),
        ("share", ["network_share_of_all", "server_share_of_all"], "; known: network_share_of_all, server_share_of_all"),
        ("zzz", ["model", "site"], "; known: model, site"),
        ("a", [], ""),
    ],
)  # fmt: skip
def test_the_nearest_name_is_spelt_alike_or_of_the_same_words(key, known, ending):
    assert nearest(key, known) == ending
