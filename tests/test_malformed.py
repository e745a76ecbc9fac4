"""What users get wrong: every input here must end in one clear message with its line, exit code 2, and no traceback."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from simfleet.cli import cli
from simfleet.document import Document, Mark, SpecError, overlay
from simfleet.scenario import load

GOOD = """\
name: test
horizon: 1 min
workload:
  classes:
    chat: {ttft: 1 s, target: 0.9}
  streams:
    - name: chat
      model: llama-3.1-8b
      class: chat
      arrival: {rate: 5 /s}
      tokens:
        input: {dist: constant, value: 500}
        output: {dist: uniform, low: 10, high: 90}
sites:
  here: {preset: us-virginia, network_latency: {east: 10 ms}}
pools:
  chat:
    site: here
    model: llama-3.1-8b
    device: nvidia-h100-sxm
    replicas: 2
"""

# name -> (old text, new text, line of the message, part of the message)
CASES = {
    "unknown key": ("replicas: 2", "replica: 2", 21, "unknown key; did you mean `replicas`?"),
    "unknown top key": ("horizon:", "horizont:", 2, "did you mean `horizon`?"),
    "duplicate key": ("    replicas: 2", "    replicas: 2\n    replicas: 3", 22, "duplicate key, first on line 21"),
    "zero replicas": ("replicas: 2", "replicas: 0", 21, "expected at least 1, got `0`"),
    "negative replicas": ("replicas: 2", "replicas: -3", 21, "got `-3`"),
    "fraction of a replica": ("replicas: 2", "replicas: 2.5", 21, "got `2.5`"),
    "words for a number": ("replicas: 2", "replicas: two", 21, "got `two`"),
    "missing unit": ("horizon: 1 min", "horizon: 60", 2, "expected seconds with a unit"),
    "unknown unit": ("horizon: 1 min", "horizon: 1 minute", 2, "did you mean `min`?"),
    "bits as bytes": ("ttft: 1 s", "ttft: 1 Gbit", 5, "expected seconds"),
    "zero horizon": ("horizon: 1 min", "horizon: 0 s", 2, "above 0"),
    "negative time": ("ttft: 1 s", "ttft: -1 s", 5, "above 0"),
    "NaN": ("value: 500", "value: .nan", 12, "expected a finite number"),
    "infinite": ("target: 0.9", "target: .inf", 5, "expected a finite number"),
    "share above one": ("target: 0.9", "target: 9", 5, "expected a share from 0 to 1"),
    "unknown device": ("device: nvidia-h100-sxm", "device: nvidia-h100-xsm", 20, "did you mean `nvidia-h100-sxm`?"),
    "unknown model": ("    model: llama-3.1-8b\n    device", "    model: lama-3.1-8b\n    device", 19, "did you mean `llama-3.1-8b`?"),
    "model without a pool": ("      model: llama-3.1-8b", "      model: qwen3-8b", 8, "no pool serves `qwen3-8b`"),
    "unknown class": ("class: chat", "class: chats", 9, "did you mean `chat`?"),
    "unknown site": ("site: here", "site: there", 18, "unknown site `there`; did you mean `here`?"),
    "unknown preset": ("preset: us-virginia", "preset: us-virgina", 15, "did you mean `us-virginia`?"),
    "unknown region": ("class: chat", "region: eats", 9, "did you mean `east`?"),
    "unknown kind": ("dist: uniform", "dist: unifrom", 13, "did you mean `uniform`?"),
    "missing key": ("    model: llama-3.1-8b\n    device", "    device", 17, "missing"),
    "no arrivals": ("      arrival: {rate: 5 /s}\n", "", 7, "expected"),
    "bounds crossed": ("low: 10, high: 90", "low: 90, high: 10", 13, "high"),
    "zero tokens": ("value: 500", "value: 0", 12, "at least 1"),
    "no end": ("horizon: 1 min\n", "", 6, "never ends by itself"),
    "does not fit": ("8b\n    device: nvidia-h100-sxm", "70b\n    device: nvidia-h100-sxm", 19, "does not fit"),
    "too many devices": ("replicas: 2", "tensor_parallel: 16", 21, "at most 8, the scale-up domain"),
    "uneven devices": ("replicas: 2", "tensor_parallel: 3", 21, "expected a divisor of the 32 attention heads"),
    "missing precision": ("replicas: 2", "precision: fp4", 21, "has no nvfp4 arithmetic; it has:"),
    "unknown precision": ("replicas: 2", "precision: fp7", 21, "got `fp7`"),
    "budget below seats": ("replicas: 2", "engine: {token_budget: 8}", 21, "token_budget: expected at least max_sequences (256), got 8"),
    "price without unit": ("replicas: 2", "cost: {kind: rent, price: 2.5}", 21, "expected dollars per hour with a unit"),
    "unknown routing": ("pools:", "routing: {kind: round_robbin}\npools:", 16, "did you mean `round_robin`?"),
    "warm-up too long": ("horizon: 1 min", "horizon: 1 min\nwarmup: 2 min", 3, "expected less than the horizon"),
    "missing trace": ("      arrival: {rate: 5 /s}", "      trace: {file: nowhere.csv, format: azure-2023}", 10, "nowhere.csv"),
    "anchor of nothing": ("replicas: 2", "replicas: *two", 21, "unknown alias `*two`"),
    "tab": ("    replicas: 2", "\treplicas: 2", 21, "expected spaces, got a tab"),
    "unclosed brace": ("value: 500}", "value: 500", 13, "not YAML"),
    "unknown tag": ("replicas: 2", "replicas: !!python/object:os.system 2", 21, "got the YAML tag"),
    "two documents": ("sites:", "---\nsites:", 14, "expected one document, got a second one"),
    "merge key": ("    replicas: 2", "    <<: {replicas: 2}", 21, "merge keys"),
    "yes for true": ("horizon: 1 min", "horizon: 1 min\ndrain: yes", 3, "expected true or false, got `yes`"),
    "quoted number": ("replicas: 2", 'replicas: "2"', 21, "expected a whole number, got `2`"),
    "number for a name": ("name: test", "name: 7", 1, "expected text, got `7`"),
    "stream named twice": (
        "sites:", "    - {name: chat, model: llama-3.1-8b, preset: azure-2023-code}\nsites:", 14, "another stream is named `chat`"
    ),
    "no offer": ("device: nvidia-h100-sxm", "device: nvidia-grace-cpu", 17, "no rental offer is known for `nvidia-grace-cpu`"),
    "no fp8": ("h100-sxm\n    replicas: 2", "a100-sxm-80gb\n    precision: fp8", 21, "has no fp8 arithmetic; it has: "),
    "a list for a mapping": ("{preset: us-virginia, network_latency: {east: 10 ms}}", "[1]", 15, "expected a mapping"),
    "empty section": ("  chat:\n    site: here\n" + GOOD[GOOD.rindex("    model") :], "", 16, "expected a mapping, got `nothing`"),
    "no pools at all": (GOOD[GOOD.index("pools") :], "", 1, "pools: missing, expected a mapping"),
    "unknown workload preset": ("arrival: {rate: 5 /s}", "preset: azure-2023-cod", 10, "did you mean `azure-2023-code`?"),
    "profile file missing": ("device: nvidia-h100-sxm", "device: ./mine.yaml", 0, "mine.yaml: no such file"),
    "too deep": ("replicas: 2", "replicas: " + "[" * 3000, 21, "at most 50 levels"),
    "a list": (GOOD, "- a\n- b\n", 1, "expected a mapping of keys to values, got a list"),
    "nothing": (GOOD, "", 1, "got nothing"),
    "not YAML at all": (GOOD, "%PDF-1.4 {{{", 1, "not YAML"),
    "a mapping for a list": (GOOD[GOOD.index("    - name") : GOOD.index("sites")], "    chat: {rate: 5}\n", 6, "expected"),
    "alias bomb": (GOOD, "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{name}: &{name} [{', '.join(['*' + before] * 10)}]\n" for before, name in zip("abcdefg", "bcdefgh", strict=True)
    ), 5, "aliases expanded, got more"),
}  # fmt: skip


def write(folder: Path, case: str) -> tuple[Path, int, str]:
    old, new, line, message = CASES[case]
    assert old in GOOD
    path = folder / "scenario.yaml"
    path.write_text(GOOD.replace(old, new, 1))
    return path, line, message


def place(path: Path, line: int) -> str:
    return f"{path}:{line}:" if line else f"{path.parent}/"


def test_the_good_one_is_good(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(GOOD)
    assert load(path).pools["chat"].replicas == 2


@pytest.mark.parametrize("case", CASES)
def test_message_names_line_and_reason(case: str, tmp_path: Path) -> None:
    path, line, message = write(tmp_path, case)
    with pytest.raises(SpecError) as caught:
        load(path)
    assert any(problem.mark.line == line and message in str(problem) for problem in caught.value.problems), str(
        caught.value
    )
    assert all(str(problem).startswith(place(path, line).partition(":")[0]) for problem in caught.value.problems)


@pytest.mark.parametrize("command", ["run", "validate"])
@pytest.mark.parametrize("case", CASES)
def test_exit_code_is_2_without_traceback(case: str, command: str, tmp_path: Path) -> None:
    path, line, message = write(tmp_path, case)
    result = CliRunner().invoke(cli, [command, str(path)])
    assert result.exit_code == 2
    assert place(path, line) in result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "80 GB", "1 s", "-1 s", "1e300 s", "5 /s", "constant", "chat", "w1", "llama-3.1-8b", "x/y", "a.yaml", "nul\0"])
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["kind", "preset", "name", "rate", "x"]), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
PLACES = [".".join(map(str, location)) for location in Document.from_text(GOOD).marks if location]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(PLACES), anything)
def test_whatever_is_put_in_place_of_a_value_is_a_scenario_or_a_spec_error(place: str, value: Any) -> None:
    document = overlay(Document.from_text(GOOD), place, value, {(): Mark("here")})
    try:
        scenario = load(document.data)
    except SpecError as error:
        assert len(error.problems) >= 1  # noqa: PT017
    else:
        assert scenario.pools


def test_all_problems_at_once(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(GOOD.replace("replicas: 2", "replicas: 0").replace("1 min", "60").replace("h100", "h1000"))
    with pytest.raises(SpecError) as caught:
        load(path)
    assert [problem.mark.line for problem in caught.value.problems] == [2, 20, 21]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "quickstrt"], "did you mean `quickstart`?"),
        (["run", "no/such/file.yaml"], "no such file"),
        (["validate", "."], "expected a YAML file"),
        (["run", "w1", "--set", "pools.chat.replicas"], "expects PATH=VALUE"),
        (["run", "w1", "--set", "pools.chatt.replicas=2"], "did you mean `chat`?"),
        (["run", "w1", "--set", "pools.chat.replicas=0"], "--set: pools.chat.replicas: expected at least 1, got `0`"),
        (["run", "w1", "--set", "workload.streams.caht.count=2"], "did you mean `chat`?"),
        (["run", "w1", "--variant", "huge"], "unknown variant `huge`; the scenario has none"),
        (["run", "w1", "--path", "nowhere-at-all"], "nowhere-at-all"),
        (["run", "w1", "--requests", "csv"], "--requests needs --out"),
        (["run", "w1", "--seed", "-1"], "-1 is not in the range"),
        (["profiles", "h1000"], "unknown hardware profile `h1000`"),
    ],
)
def test_command_line_mistakes(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_binary_and_latin_files(tmp_path: Path) -> None:
    for content in (b"\x00\x01\x02", "name: caf\xe9\n".encode("latin-1")):
        path = tmp_path / "scenario.yaml"
        path.write_bytes(content)
        result = CliRunner().invoke(cli, ["validate", str(path)])
        assert result.exit_code == 2
        assert str(path) in result.stderr
