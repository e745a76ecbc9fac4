"""`simfleet check` and `simfleet compare` as CI jobs use them: exit codes, files, nothing else on stdout."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import xmlschema
from click.testing import CliRunner, Result

from simfleet.cli import cli
from simfleet.gate import judge
from tests.gates import OVERLOADED, SMALL

SEEDS = ("--seeds", "2", "--workers", "1")


def simfleet(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], catch_exceptions=False)


def scenario(tmp_path: Path, targets: str, name: str = "small.yaml") -> Path:
    path = tmp_path / name
    path.write_text(f"{SMALL}targets:\n{targets}")
    return path


@pytest.mark.parametrize(
    ("targets", "code", "said"),
    [
        ("  ttft: [p95 <= 100 s]\n  regime: [== stable]\n", 0, "small: kept (2 kept)"),
        ("  ttft: [p95 <= 1 us, p50 <= 100 s]\n", 1, "small: missed (1 missed, 1 kept)"),
        ("  ttft: [p99 <= 100 s, p50 <= 100 s]\n", 3, "small: cannot judge (1 cannot judge, 1 kept)"),
        ("  ttft: [p99 <= 100 s, p50 <= 1 us]\n", 1, "small: missed (1 missed, 1 cannot judge)"),
        ("  ttft: [p50 <= 100 s, {expect: p50 <= 1 us, level: warn}]\n", 0, "small: kept (1 missed, 1 kept)"),
    ],
)
def test_kept_missed_and_too_few_samples(tmp_path: Path, targets: str, code: int, said: str) -> None:
    found = simfleet("check", scenario(tmp_path, targets), *SEEDS)
    assert found.exit_code == code
    assert found.stdout.splitlines()[0] == said


@pytest.mark.parametrize("targets", ["  ttft: [p95 <= 1 W]\n", "  ttft: p95\n", "  ttft: [}\n"])
def test_a_broken_scenario_is_bad_input_with_its_line(tmp_path: Path, targets: str) -> None:
    path = scenario(tmp_path, targets)
    found = simfleet("check", path, *SEEDS)
    assert (found.exit_code, found.stdout) == (2, "")
    line = len(path.read_text().splitlines())
    assert found.stderr.startswith(f"{path}:{line}:")


def test_nothing_runs_before_all_scenarios_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "simulate", lambda *_, **__: pytest.fail("was run"))
    assert simfleet("check", scenario(tmp_path, "  regime: [== stable]\n"), "nope", *SEEDS).exit_code == 2


def test_an_overloaded_scenario_cannot_be_judged_unless_that_is_the_question(tmp_path: Path) -> None:
    crowded = ("--set", f"pools.chat.engine={OVERLOADED}")
    rest = scenario(tmp_path, "  rejected: ['>= 0']\n")
    assert simfleet("check", rest, *SEEDS, *crowded).exit_code == 3
    both = scenario(tmp_path, "  rejected: ['>= 0', '== 0']\n")
    assert simfleet("check", both, *SEEDS, *crowded).exit_code == 1
    regime = scenario(tmp_path, "  regime: ['== overloaded']\n")
    assert simfleet("check", regime, *SEEDS, *crowded).exit_code == 0


def test_a_simulation_error_has_its_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object, **__: object) -> None:
        raise RuntimeError("books do not balance")

    monkeypatch.setattr(judge, "simulate", breaks)
    found = simfleet("check", scenario(tmp_path, "  regime: [== stable]\n"), *SEEDS)
    assert found.exit_code == 4
    assert "simulation error: RuntimeError: books do not balance" in found.stdout


def test_files_and_formats(tmp_path: Path) -> None:
    path = scenario(tmp_path, "  ttft: [p95 <= 1 us]\n  regime: [== stable]\n")
    xml, summary = tmp_path / "junit.xml", tmp_path / "summary.md"
    found = simfleet("check", path, *SEEDS, "--junit", xml, "--summary", summary, "--annotate", "--format", "json")
    assert found.exit_code == 1
    assert json.loads(found.stdout)["verdict"] == "missed"
    assert found.stderr.startswith(
        f"::error file={path},line={len(SMALL.splitlines()) + 2},title=small%3A ttft p95::missed"
    )
    xmlschema.validate(xml, Path(__file__).with_name("junit.xsd"))
    assert summary.read_text().startswith("## ❌ Simulated service levels: missed\n")
    text = simfleet("check", path, *SEEDS, "--annotate")
    assert text.stdout.splitlines()[-1].startswith("::error file=")
    assert simfleet("check", path, *SEEDS, "--format", "md").stdout == summary.read_text()


def errors(path: Path) -> list[ElementTree.Element]:
    """The errors of a JUnit file that follows the schema."""
    xmlschema.validate(path, Path(__file__).with_name("junit.xsd"))
    return list(ElementTree.parse(path).iter("error"))


@pytest.mark.parametrize("command", ["check", "compare"])
def test_bad_input_is_an_error_in_the_files_too(tmp_path: Path, command: str) -> None:
    path = scenario(tmp_path, "  ttft: [p95 <= 1 W]\n" if command == "check" else "  ttft: 7\n")
    line = len(path.read_text().splitlines())
    written = ("--junit", tmp_path / "deep" / "j.xml", "--summary", tmp_path / "s.md", "--annotate")
    found = simfleet(command, *[path] * (1 + (command == "compare")), *SEEDS, *written)
    assert found.exit_code == 2
    (error,) = errors(tmp_path / "deep" / "j.xml")
    assert f"{path}:{line}:" in (error.text or "")
    assert f"{path}:{line}:" in error.get("message", "")
    assert error.get("type") == "bad input"
    assert (tmp_path / "s.md").read_text().startswith("## ⛔ Simulated service levels: bad input\n")
    assert found.stdout.startswith(f"::error file={path},line={line},title=")
    assert found.stderr.startswith(f"{path}:{line}:")


def test_every_bad_input_is_named_at_once(tmp_path: Path) -> None:
    good, bad = scenario(tmp_path, "  regime: [== stable]\n"), scenario(tmp_path, "  ttft: [p95 <= 1 W]\n", "bad.yaml")
    found = simfleet("check", good, bad, "nope", *SEEDS, "--junit", tmp_path / "j.xml")
    assert (found.exit_code, found.stdout, len(found.stderr.splitlines())) == (2, "", 2)
    assert [error.get("message", "").split(": ")[1].split(":")[0] for error in errors(tmp_path / "j.xml")] == [
        str(bad),
        "nope",
    ]


def test_a_simulation_error_is_an_error_for_warnings_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "simulate", lambda *_, **__: 1 / 0)
    path = scenario(tmp_path, "  regime: [{expect: == stable, level: warn}]\n")
    assert simfleet("check", path, *SEEDS, "--junit", tmp_path / "j.xml").exit_code == 4
    (error,) = errors(tmp_path / "j.xml")
    assert (error.get("type"), "division by zero" in error.get("message", "")) == ("simulation error", True)


def test_several_scenarios_are_suites_of_one_answer(tmp_path: Path) -> None:
    kept = scenario(tmp_path, "  regime: [== stable]\n")
    missed = scenario(tmp_path, "  ttft: [p95 <= 1 us]\n", "other.yaml")
    found = simfleet("check", kept, missed, *SEEDS, "--format", "json")
    assert found.exit_code == 1
    assert [suite["verdict"] for suite in json.loads(found.stdout)["suites"]] == ["kept", "missed"]


def test_an_sla_file_by_its_path(tmp_path: Path) -> None:
    scenario(tmp_path, "  regime: [== overloaded]\n")
    sla = tmp_path / "small.sla.yaml"
    sla.write_text("sha256: '00000000'\nseeds: 2\ntargets: {regime: [== stable]}\n")
    found = simfleet("check", sla, "--workers", "1")
    assert found.exit_code == 3
    assert "hash mismatch" in found.stdout
    sla.write_text("seeds: 2\ntargets: {regime: [== stable]}\n")
    assert simfleet("check", sla, "--workers", "1").exit_code == 0


def test_one_seed_is_refused(tmp_path: Path) -> None:
    assert simfleet("check", scenario(tmp_path, "  regime: [== stable]\n"), "--seeds", "1").exit_code == 2


# -- compare -------------------------------------------------------------------------------------------------------------


def test_a_baseline_is_written_kept_missed_and_written_again(tmp_path: Path) -> None:
    path, base = scenario(tmp_path, "  regime: [== stable]\n"), tmp_path / "base.json"
    written = simfleet("compare", base, path, "--update", *SEEDS)
    assert (written.exit_code, written.stdout) == (0, f"{base} written: seeds 0, 1\n")
    assert simfleet("compare", base, path, "--workers", "1").exit_code == 0
    slower = ("--set", "pools.chat.device=nvidia-l40s")
    found = simfleet(
        "compare", base, path, *slower, "--workers", "1", "--junit", tmp_path / "j.xml", "--format", "json"
    )
    assert found.exit_code == 1
    assert json.loads(found.stdout)["suites"][0]["changed"][1] == "pool chat: device: nvidia-h100-sxm -> nvidia-l40s"
    xmlschema.validate(tmp_path / "j.xml", Path(__file__).with_name("junit.xsd"))
    again = simfleet("compare", base, path, *slower, "--update", "--workers", "1")
    assert again.exit_code == 0
    assert f"{base} written: seeds 0, 1" in again.stdout
    assert simfleet("compare", base, path, *slower, "--workers", "1").exit_code == 0


def test_an_update_may_have_other_seeds(tmp_path: Path) -> None:
    path, base = scenario(tmp_path, "  regime: [== stable]\n"), tmp_path / "base.json"
    simfleet("compare", base, path, "--update", *SEEDS)
    more = simfleet("compare", base, path, "--update", "--seeds", "3", "--workers", "1", "--format", "json")
    assert json.loads(more.stdout)["suites"][0]["seeds"] == [0, 1]
    assert [report["seed"] for report in json.loads(base.read_text())["reports"]] == [0, 1, 2]
    assert simfleet("compare", base, path, "--update", *SEEDS, "--format", "json").exit_code == 0
    base.unlink()
    assert json.loads(simfleet("compare", base, path, "--update", *SEEDS, "--format", "json").stdout) == {
        "written": str(base)
    }


def test_a_simulation_error_of_compare_has_its_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = scenario(tmp_path, "  regime: [== stable]\n")
    monkeypatch.setattr(judge, "_report", lambda *_: 1 / 0)
    found = simfleet("compare", path, path, *SEEDS)
    assert found.exit_code == 4
    assert "against" in found.stdout
    assert "simulation error: ZeroDivisionError: division by zero" in found.stdout
    found = simfleet("compare", path, path, *SEEDS, "--junit", tmp_path / "j.xml")
    assert found.exit_code == 4
    (error,) = errors(tmp_path / "j.xml")
    assert error.get("message") == "simulation error: ZeroDivisionError: division by zero"


def test_two_reports_of_runs(tmp_path: Path) -> None:
    path = scenario(tmp_path, "  regime: [== stable]\n")
    for name, *changed in (("one",), ("two", "--set", "pools.chat.replicas=2")):
        (tmp_path / name).with_suffix(".json").write_text(simfleet("run", path, "--format", "json", *changed).stdout)
    assert simfleet("compare", tmp_path / "one.json", tmp_path / "one.json").exit_code == 0
    found = simfleet("compare", tmp_path / "one.json", tmp_path / "two.json")
    assert found.exit_code == 1
    assert found.stdout.splitlines()[2:4] == [
        "changed: pool chat: replicas: 1 -> 2",
        "seed 0, the same on both sides; one run has no interval",
    ]


def test_what_changed_is_listed_and_what_is_kept_is_counted(tmp_path: Path) -> None:
    """With the tolerance that judged; `--all` lists the rest below."""
    path = scenario(tmp_path, "  regime: [== stable]\n")
    same = simfleet("compare", path, path, *SEEDS).stdout.splitlines()
    number = int(same[-1].split()[0])
    assert same[-1] == f"  {number} rows kept within the tolerance, listed with --all"
    assert same[0].endswith(f"kept ({number} kept)")
    assert same[-2] == "tolerance: 1 % of the baseline for every metric compared, as no file of tolerances is given"
    more = ("compare", path, path, "--set", "pools.chat.replicas=2", *SEEDS)
    brief, whole = (simfleet(*more, *flags).stdout.splitlines() for flags in ((), ("--all",)))
    rows = [line.split()[0] for line in brief if line.startswith(("  missed", "  kept"))]
    assert rows == sorted(rows, key=("missed", "kept").index)
    assert all(line.endswith("better") for line in brief if line.startswith("  kept"))
    left_out = int(brief[-1].split()[0])
    assert left_out > 0
    tables = [[line.split() for line in lines if line.startswith("  ")] for lines in (brief, whole)]
    assert tables[1][: len(tables[0]) - 1] == tables[0][:-1]
    assert len(whole) == len(brief) - 1 + left_out
    marked = simfleet(*more, "--format", "md").stdout
    assert brief[-1].strip() in marked
    assert marked.count("| kept |") == rows.count("kept")
    listed = tmp_path / "t.yaml"
    listed.write_text("default: {rel: 3 %}\nmetrics: {usd_total: {rel: 10 %}}\n")
    told = simfleet("compare", path, path, *SEEDS, "--tolerance", listed).stdout
    assert f"tolerance: as {listed} says; metrics that it does not list: 3 % of the baseline" in told


def test_two_scenarios_are_run_with_the_same_seeds(tmp_path: Path) -> None:
    path = scenario(tmp_path, "  regime: [== stable]\n")
    found = simfleet("compare", path, path, "--seeds", "3", "--workers", "1", "--format", "json")
    suite = json.loads(found.stdout)["suites"][0]
    assert (found.exit_code, suite["seeds"], suite["changed"]) == (0, [0, 1, 2], [])


@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        (("nope.json", "quickstart"), "nope.json: no such file; `simfleet compare nope.json SCENARIO --update`"),
        (("quickstart", "quickstart", "--update"), "--update writes to a .json file"),
        (("a.json", "a.json", "--set", "horizon=1 s"), "--set and --variant change a scenario"),
        (("a.json", "a.json", "--tolerance", "nope.yaml"), "no such file"),
        (("quickstart", "nope"), "unknown scenario `nope`"),
    ],
)
def test_bad_input_of_compare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], phrase: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.json").write_text(simfleet("run", scenario(tmp_path, "  regime: [== stable]\n"), "--format", "json").stdout)
    found = simfleet("compare", *arguments)
    assert (found.exit_code, found.stdout) == (2, "")
    assert phrase in found.stderr


def test_validate_reads_targets_too() -> None:
    wrong = ["validate", "quickstart", "--set", 'targets={"ttftt": ["p95 <= 1 s"]}']
    result = CliRunner().invoke(cli, wrong)
    assert result.exit_code == 2
    assert "ttft" in result.stderr
    assert CliRunner().invoke(cli, ["validate", "quickstart"]).exit_code == 0
