"""`pytest --simfleet folder/`: one test for each target, in a pytest of its own."""

import pytest

from simfleet.gate import judge
from tests.gates import SMALL

pytest_plugins = ["pytester"]
PLAIN = ("-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov")


@pytest.fixture
def folder(pytester: pytest.Pytester) -> pytest.Pytester:
    """A folder with a scenario of four targets, an SLA file with one, and YAML of another kind."""
    targets = "  ttft: [p95 <= 100 s, p95 <= 1 us, p99 <= 100 s, {expect: p50 <= 1 us, level: warn}]\n"
    scenarios = pytester.mkdir("scenarios")
    (scenarios / "small.yaml").write_text(f"{SMALL}targets:\n{targets}")
    (scenarios / "small.sla.yaml").write_text("targets: {regime: [== stable]}\n")
    (scenarios / "other.yaml").write_text("on: push\n")
    return pytester


def test_one_item_for_each_target(folder: pytest.Pytester) -> None:
    found = folder.runpytest_inprocess(*PLAIN, "--simfleet", "--simfleet-seeds", "2", "-v", "-rs", "scenarios")
    found.assert_outcomes(passed=2, failed=2, skipped=1)
    found.stdout.fnmatch_lines(
        [
            "*small.sla.yaml::regime == stable PASSED*",
            "*small.yaml::ttft p95 <= 100 s PASSED*",
            "*small.yaml::ttft p95 <= 1 us FAILED*",
            "missed: ttft p95: wanted <= 1 us, got *",
            "cannot judge: ttft p99: wanted <= 100 s, got n/a; 420 samples with seed 0, 2,000 are needed*",
            "SKIPPED * missed (warning): ttft p50: wanted <= 1 us*",
        ]
    )
    found.stdout.no_fnmatch_line("*Traceback*")


def test_nothing_is_collected_without_the_option(folder: pytest.Pytester) -> None:
    assert folder.runpytest_inprocess(*PLAIN, "scenarios").ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_items_are_chosen_by_name(folder: pytest.Pytester) -> None:
    found = folder.runpytest_inprocess(*PLAIN, "--simfleet", "--simfleet-seeds", "2", "-k", "regime", "scenarios")
    found.assert_outcomes(passed=1, deselected=4)


def test_a_broken_scenario_is_an_error_with_its_line(folder: pytest.Pytester) -> None:
    path = folder.path / "scenarios" / "small.yaml"
    path.write_text(path.read_text() + "  e2e: [p95 <= 1 W]\n")
    found = folder.runpytest_inprocess(*PLAIN, "--simfleet", "scenarios")
    found.assert_outcomes(errors=1)
    found.stdout.fnmatch_lines([f"*small.yaml:{len(SMALL.splitlines()) + 3}:*expected seconds*got the unit `W`*"])


def test_a_run_that_breaks_fails_every_target(folder: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object, **__: object) -> None:
        raise RuntimeError("books do not balance")

    monkeypatch.setattr(judge, "simulate", breaks)
    found = folder.runpytest_inprocess(*PLAIN, "--simfleet", "scenarios")
    found.assert_outcomes(failed=4, skipped=1)
    found.stdout.fnmatch_lines(["simulation error: RuntimeError: books do not balance"])
