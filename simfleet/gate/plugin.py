"""A pytest plugin: `pytest --simfleet scenarios/` has a test for each target of each scenario and SLA file in the folder."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from simfleet.gate.judge import Row, Suite
    from simfleet.gate.targets import Gate

# The simulator is imported where it is needed: pytest loads this file in every project that has simfleet installed.
FAR = (".yaml", ".yml")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Nothing is collected without --simfleet."""
    group = parser.getgroup("simfleet", "simulated service levels")
    group.addoption(
        "--simfleet", action="store_true", help="Test the targets of the scenarios and SLA files collected."
    )
    group.addoption("--simfleet-seeds", type=int, default=None, help="Repetitions, at least 2; the SLA file's, or 4.")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """A scenario, or an SLA file; other YAML is left alone."""
    if file_path.suffix not in FAR or not parent.config.getoption("--simfleet"):
        return None
    from simfleet.gate.targets import is_gate  # noqa: PLC0415

    file: GateFile | None = GateFile.from_parent(parent, path=file_path) if is_gate(file_path) else None
    return file


class GateFile(pytest.File):
    """One file; its scenario is simulated once, when the first of its targets is tested."""

    gate: Gate

    def collect(self) -> Iterable[pytest.Item]:
        from simfleet.gate.targets import read_gate  # noqa: PLC0415

        self.gate = read_gate(str(self.path))
        for number, target in enumerate(self.gate.targets):
            yield TargetItem.from_parent(self, name=str(target), number=number)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Bad input as `simfleet validate` says it, without a traceback."""
        from simfleet.document import SpecError  # noqa: PLC0415

        return str(excinfo.value) if isinstance(excinfo.value, SpecError) else super().repr_failure(excinfo)

    @cached_property
    def suite(self) -> Suite:
        """The answer to all targets."""
        from simfleet.gate.judge import check  # noqa: PLC0415

        return check(self.gate, self.config.getoption("--simfleet-seeds"))


class NotKept(Exception):  # noqa: N818 - an outcome, not an error of the program
    """A target that was missed or could not be judged."""


class TargetItem(pytest.Item):
    """One target: fails unless it is kept; at level `warn` it is skipped with the message."""

    def __init__(self, *, number: int, **given: Any) -> None:
        super().__init__(**given)
        self.number = number

    def runtest(self) -> None:
        file: Any = self.parent
        suite: Suite = file.suite
        row: Row = suite.rows[self.number]
        message = f"simulation error: {suite.broken}" if suite.broken else row.message
        if row.state != "kept" and row.level == "warn":
            pytest.skip(message)
        if row.state != "kept":
            raise NotKept("\n".join([message, *suite.facts]))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        return str(excinfo.value) if isinstance(excinfo.value, NotKept) else super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        file: Any = self.parent
        mark = file.gate.targets[self.number].mark
        return self.path, mark.line - 1 if mark.line else None, self.name
