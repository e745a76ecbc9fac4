"""What must hold of a notebook besides that it runs to its end. `pytest notebooks` runs them all, by nbmake."""

import re
from typing import Any

import nbmake.pytest_items
from nbmake.nb_result import NotebookError, NotebookResult
from nbmake.nb_run import NotebookRun


def fault(cells: list[Any]) -> tuple[int, str] | None:
    """The first cell that has shown what it should not, and what that is."""
    answer = ""
    for index, cell in enumerate(cells):
        outputs = cell.get("outputs", [])
        for output in outputs:
            if output.get("name") == "stderr":
                return index, f"on the error stream: {output.text}"
            answer = output.get("text", "")
        pictures = sum("image/png" in output.get("data", {}) for output in outputs)
        if pictures != ("alt" in cell.metadata):
            return index, f"{pictures} pictures; a cell has one if its metadata have `alt`, which describes it"
    return None if re.search(r"\d", answer) else (len(cells) - 1, "the last that is printed has no number")


class StrictRun(NotebookRun):
    """nbmake's run of a notebook, failed also where `fault` finds one."""

    def execute(self) -> NotebookResult:
        result = super().execute()
        found = None if result.error else fault(result.nb.cells)
        if found is None:
            return result
        index, why = found
        return NotebookResult(result.nb, NotebookError(why, f"{result.nb.cells[index].source}\n\n{why}", index))


# nbmake offers no hook after a run; tests/test_notebooks.py fails if this has lost its effect.
nbmake.pytest_items.NotebookRun = StrictRun
