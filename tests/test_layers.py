"""Imports only go down, and heavy libraries stay in their rooms (docs/architecture.md draws it)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "simfleet"
LAYERS = (
    ("cli",), ("planning",), ("gate", "sweeping"), ("calibration", "sensitivity"), ("evidence",), ("simulation",), ("timeline",), ("metering",), ("result",), ("page",), ("report",),
    ("run",), ("scenario",), ("pool",), ("library", "serving"), ("facility",), ("hardware",), ("workload",), ("series",), ("records", "streams", "signals"), ("spec", "terminal"),
    ("document",), ("units", "intervals"),
)  # fmt: skip
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
ROOMS = {
    "simpy": ("serving", "simulation"),
    "pandas": ("result", "report", "evidence", "calibration", "gate", "planning", "sweeping"),
    "matplotlib": ("report.plots", "evidence", "planning"),
    "yaml": ("document",),
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def imports(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    dotted = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    for name in imports(path):
        first, _, rest = name.partition(".")
        if first == "simfleet" and rest:
            mine, theirs = dotted.split(".")[0], rest.split(".")[0]
            assert theirs == mine or RANK[theirs] > RANK[mine], f"{dotted} imports {name}"
        if first in ROOMS:
            assert dotted.startswith(ROOMS[first]), f"{dotted} imports {first}"


def test_rooms_are_small() -> None:
    """At most seven files in a room, no room in a room."""
    for room in [path for path in PACKAGE.iterdir() if path.is_dir() and path.name not in ("library", "__pycache__")]:
        assert len([path for path in room.glob("*.py") if path.name != "__init__.py"]) <= 7, room.name
        assert not [path for path in room.iterdir() if path.is_dir() and path.name != "__pycache__"], room.name


def test_validate_needs_no_heavy_library() -> None:
    """The command line starts without pandas, scipy, matplotlib or rich."""
    code = "import sys, simfleet.cli; print(sorted({'pandas', 'scipy', 'matplotlib', 'rich'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
