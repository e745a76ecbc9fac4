"""Names lead to documents: the user's own first, then the shipped ones; unknown names say what is near."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simfleet.document import MOST_LISTED, SpecError, read
from simfleet.library import ALIASED, KINDS, PLACES, Library, plain, shipped
from simfleet.scenario import load

ROOT = Path(__file__).parents[1]
MODEL = read(shipped("models") / "llama-3.1-8b.yaml")


@pytest.fixture
def own(tmp_path):
    """A folder of the user's: a model of a shipped name, another one, a profile under an own name, and a broken file."""
    (tmp_path / "models").mkdir()
    (tmp_path / "hardware_profiles").mkdir()
    text = (shipped("models") / "llama-3.1-8b.yaml").read_text()
    (tmp_path / "models" / "llama-3.1-8b.yaml").write_text(text.replace("count: 32", "count: 16"))
    (tmp_path / "models" / "mine.yml").write_text(text.replace("name: llama-3.1-8b", "name: mine"))
    profile = (shipped("hardware_profiles") / "nvidia-l4.yaml").read_text()
    (tmp_path / "hardware_profiles" / "my-gpu.yaml").write_text(profile.replace("name: nvidia-l4", "name: my-gpu"))
    (tmp_path / "hardware_profiles" / "broken.yaml").write_text("a: 1\na: 2\n")
    return tmp_path


def test_every_shipped_kind_is_found():
    library = Library()
    for kind in KINDS:
        assert library.names(kind) == sorted(path.stem for path in shipped(kind).glob("*.yaml"))
        assert library.names(kind), kind
    assert "quickstart" in library.names("scenarios")
    assert shipped("scenarios") == ROOT / "scenarios"


def test_shipped_models_sites_and_profiles_are_valid():
    library = Library()
    for name in library.names("models"):
        assert library.model(name).name == name
    for name in library.names("sites"):
        assert library.site(name).electricity_price.low > 0
    for name in library.names("hardware_profiles"):
        assert library.profile(name).name == name


def test_an_alias_is_its_device():
    library = Library()
    for kind in ALIASED:
        aliases = [
            (alias, name) for name in library.names(kind) for alias in library.data(kind, name).get("aliases", [])
        ]
        assert aliases
        for alias, name in aliases:
            assert library.path(kind, alias).stem == name


@pytest.mark.parametrize("kind", ALIASED)
def test_no_alias_means_two_things(kind):
    library = Library()
    called = [
        word
        for name in library.names(kind)
        for word in {plain(word) for word in (name, *library.data(kind, name).get("aliases", []))}
    ]
    assert len(called) == len(set(called))


@pytest.mark.parametrize(
    ("kind", "name", "stem"),
    [
        ("models", "meta-llama/Llama-3.1-70B", "llama-3.1-70b"),
        ("models", "Qwen/Qwen3-30B-A3B", "qwen3-30b-a3b"),
        ("models", "LLAMA_3.1 8B", "llama-3.1-8b"),
        ("hardware_profiles", "H100_SXM", "nvidia-h100-sxm"),
        ("engines", "TRTLLM", "tensorrt-llm"),
    ],
)
def test_names_as_others_write_them(kind, name, stem):
    """Without the owner, in any case, words joined in any way."""
    library = Library()
    assert library.path(kind, name).stem == stem
    assert library.document(kind, name) is library.document(kind, stem)


@given(st.text(max_size=40))
def test_a_plain_name_is_plain(name):
    assert re.fullmatch(r"([a-z0-9.]+(-[a-z0-9.]+)*)?", plain(name))
    assert plain(plain(name)) == plain(name)
    assert plain(f"owner/{name}") == plain(name)


def test_a_path_stays_a_path(own):
    """A slash means a file unless an alias has it, and a file of one's own comes before the shipped names."""
    library = Library((own,))
    assert library.document("models", "models/mine.yml", own).data["name"] == "mine"
    with pytest.raises((LookupError, SpecError)):
        library.document("models", "somewhere/nothing-like-it", own)
    assert library.document("models", "somewhere/llama-3.1-8b", own).data["name"] == "llama-3.1-8b"


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        (
            "hardware_profiles",
            "nvidia-h100-xsm",
            "unknown hardware profile `nvidia-h100-xsm`; did you mean `nvidia-h100-sxm`?",
        ),
        ("models", "LLAMA-3.1-8B-x", "unknown model `LLAMA-3.1-8B-x`; did you mean `llama-3.1-8b`?"),
        ("sites", "germani", "unknown site `germani`; did you mean `germany`?"),
        ("workloads", "azure-2023-cod", "did you mean `azure-2023-code`?"),
        ("scenarios", "quickstrat", "unknown scenario `quickstrat`; did you mean `quickstart`?"),
        ("models", "x" * 10_000, "unknown model"),
        ("models", "nul\0", "unknown model"),
    ],
)
def test_an_unknown_name_says_what_is_near(kind, name, message):
    with pytest.raises(LookupError) as caught:
        Library().data(kind, name)
    assert message in caught.value.args[0]
    assert len(caught.value.args[0]) < MOST_LISTED + 120 + len(name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_like_no_other_lists_those_of_its_kind(kind):
    with pytest.raises(LookupError) as caught:
        Library().path(kind, "zzzzz")
    start, listed = f"unknown {KINDS[kind]} `zzzzz`; known: ", ", ".join(Library().names(kind))
    end = "; for files of your own, `--path FOLDER` names their folder"
    message = caught.value.args[0]
    assert message.startswith(start)
    assert message.endswith(end)
    shown, _, more = message.removeprefix(start).removesuffix(end).partition(" and ")
    assert listed.startswith(shown)
    assert len(shown.split(", ")) + int(more.removesuffix(" more") or 0) == len(Library().names(kind))
    assert (shown == listed) == (len(listed) < MOST_LISTED)


@pytest.mark.parametrize(
    ("kind", "name", "meant"),
    [
        ("hardware_profiles", "germany", "a site: `sites.NAME.preset`"),
        ("hardware_profiles", "vllm", "an engine: `pools.NAME.engine`"),
        ("hardware_profiles", "meta-llama/Llama-3.1-8B", "a model: `pools.NAME.model`"),
        ("hardware_profiles", "chiller", "a cooling preset: `sites.NAME.overhead`"),
        ("sites", "h100", "a hardware profile: `pools.NAME.device`"),
        ("models", "azure-2023-code", "a workload preset: `workload.streams.NAME.preset`"),
        ("models", "quickstart", "a scenario: `simfleet run NAME`"),
    ],
)
def test_a_name_of_another_kind_says_where_it_goes(kind, name, meant):
    with pytest.raises(LookupError) as caught:
        Library().path(kind, name)
    assert caught.value.args[0] == f"unknown {KINDS[kind]} `{name}`; `{name}` is {meant}"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("hardware_profiles", "nvidia-h200-sxm"),
        ("models", "llama-3.1-8b"),
        ("engines", "sglang"),
        ("sites", "germany"),
        ("cooling", "chiller"),
        ("workloads", "azure-2023-code"),
    ],
)
def test_a_place_is_a_key_of_a_scenario(kind, name):
    """What the messages say about where a name goes can be written there, and nothing else can."""
    things = PLACES[kind].split(".")[0].removesuffix("s")
    path = PLACES[kind].replace("NAME", {"pool": "chat", "site": "virginia", "workload": "chat"}[things])
    load("w1", overrides=[(path, name)])
    with pytest.raises(SpecError, match=f"unknown {KINDS[kind]} `zzzzz`"):
        load("w1", overrides=[(path, "zzzzz")])


def test_every_kind_has_a_place():
    assert set(PLACES) == set(KINDS)


def test_own_names_count_as_other_kinds(own):
    with pytest.raises(LookupError, match=r"`mine` is a model: `pools\.NAME\.model`$"):
        Library((own,)).path("sites", "mine")


def test_own_folders_come_first(own):
    assert Library().model("llama-3.1-8b").groups[0].count == 32
    library = Library((own,))
    assert library.model("llama-3.1-8b").groups[0].count == 16
    assert library.model("mine").name == "mine"
    assert "mine" in library.names("models")
    assert "qwen3-8b" in library.names("models")
    assert library.profile("my-gpu").name == "my-gpu"
    assert library.path("hardware_profiles", "nvidia-l4") == shipped("hardware_profiles") / "nvidia-l4.yaml"


def test_a_folder_may_hold_the_files_themselves(own):
    assert Library((own / "models",)).model("mine").name == "mine"


def test_the_environment_names_folders_too(own, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.setenv("SIMFLEET_PATH", os.pathsep.join([str(other), "", str(own)]))
    assert Library().model("mine").name == "mine"
    (other / "mine.yaml").write_text((own / "models" / "mine.yml").read_text().replace("name: mine", "name: first"))
    assert Library().model("mine").name == "first"
    assert Library((own,)).model("mine").name == "mine"


def test_a_folder_that_is_not_there_is_an_error(tmp_path, monkeypatch):
    with pytest.raises(SpecError, match=r"--path: no such folder: .*gone"):
        Library((tmp_path / "gone",))
    monkeypatch.setenv("SIMFLEET_PATH", str(tmp_path / "lost"))
    with pytest.raises(SpecError, match=r"SIMFLEET_PATH: no such folder: .*lost"):
        Library()


def test_a_broken_file_is_an_error_only_for_who_asks(own):
    library = Library((own,))
    with pytest.raises(LookupError, match="unknown hardware profile"):
        library.profile("anything")
    with pytest.raises(SpecError, match=r"broken\.yaml:2:1: a: duplicate key"):
        library.profile("broken")


def test_a_file_is_read_once_and_libraries_of_the_same_folders_are_equal(own):
    library = Library((own,))
    assert library.document("models", "mine") is library.document("models", "mine")
    assert library == Library((own,))
    assert library != Library()


def test_an_own_profile_in_a_scenario_of_ones_own(own):
    scenario = (
        (ROOT / "scenarios" / "w1.yaml")
        .read_text()
        .replace("nvidia-h100-sxm", "my-gpu")
        .replace("num_kv_blocks: 28000", "")
    )
    path = own / "scenarios" / "s.yaml"
    path.parent.mkdir()
    path.write_text(scenario)
    assert load("s", paths=[own]).pools["chat"].profile.name == "my-gpu"
    path.write_text(scenario.replace("my-gpu", "../hardware_profiles/my-gpu.yaml"))
    assert load(path).pools["chat"].profile.name == "my-gpu"
    profile = own / "hardware_profiles" / "my-gpu.yaml"
    lines = profile.read_text().splitlines()
    number = next(i for i, line in enumerate(lines, 1) if line.startswith("kind:"))
    profile.write_text("\n".join(lines).replace(lines[number - 1], "kind: gpuu", 1))
    with pytest.raises(SpecError) as caught:
        load(path)
    assert str(caught.value).startswith(
        f"{path.parent}/../hardware_profiles/my-gpu.yaml:{number}:7: kind: expected one of gpu"
    )
