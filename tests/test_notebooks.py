"""The notebooks: each is kept without outputs, and its page in the docs shows the cells that it has now. nbmake runs them."""

import re
import runpy
import shutil
import subprocess
import sys
from itertools import cycle
from pathlib import Path
from typing import Literal

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_output

from simfleet import SpecError, load, simulate
from simfleet.serving.routing import Router
from simfleet.spec import Spec
from tests.notebooks import NOTEBOOKS, PAGES, index, moved

MOST_BYTES = 60_000
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path) -> list[nbformat.NotebookNode]:
    return nbformat.read(path, as_version=4).cells


@each_notebook
def test_is_kept_without_outputs(path: Path) -> None:
    code = [cell for cell in cells(path) if cell.cell_type == "code"]
    assert code
    assert {(len(cell.outputs), cell.execution_count) for cell in code} == {(0, None)}


@each_notebook
def test_asks_one_question_and_answers_it(path: Path) -> None:
    texts = [cell.source for cell in cells(path) if cell.cell_type == "markdown"]
    assert re.match(r"# \d\. .+\n\n\*\*[^*]+\?\*\*", texts[0])
    assert sum("## The answer" in text for text in texts) == 1


@each_notebook
def test_ends_by_holding_what_its_text_says(path: Path) -> None:
    assert cells(path)[-1].cell_type == "code"
    assert re.search(r"^assert ", cells(path)[-1].source, re.MULTILINE)
    assert "assert " not in "".join(cell.source for cell in cells(path)[:-1])


# -- what nbmake does not ask, and notebooks/conftest.py does -------------------------------------------------------------

STRICT = NOTEBOOKS[0].with_name("conftest.py")
ANSWER = new_output("stream", text="1 J")
PICTURE = new_output("display_data", {"image/png": ""})


def ran(*outputs: nbformat.NotebookNode, **metadata: str) -> nbformat.NotebookNode:
    return new_code_cell(outputs=list(outputs), metadata=metadata)


@pytest.mark.parametrize(
    ("run", "index", "why"),
    [
        ([ran(PICTURE, alt="a line"), ran(ANSWER), ran()], None, ""),
        ([ran(), ran(new_output("stream", name="stderr", text="old")), ran(ANSWER)], 1, "error stream: old"),
        ([ran(PICTURE), ran(ANSWER)], 0, "1 pictures"),
        ([ran(ANSWER), ran(alt="a line"), ran(ANSWER)], 1, "0 pictures"),
        ([ran(ANSWER), ran(new_output("stream", text="well"))], 1, "no number"),
        ([ran(ANSWER), ran(new_output("execute_result", {"text/plain": "2"})), ran()], 2, "no number"),
        ([ran()], 0, "no number"),
    ],
)
def test_a_fault_is_found(
    run: list[nbformat.NotebookNode], index: int | None, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbmake.pytest_items.NotebookRun", None)
    found = runpy.run_path(str(STRICT))["fault"](run)
    assert (found is None) if index is None else (found[0] == index and why in found[1])


def test_a_fault_fails_the_notebook(tmp_path: Path) -> None:
    """Though it runs to its end."""
    book = nbformat.v4.new_notebook(cells=[new_code_cell("import warnings\nwarnings.warn('old')\nprint(1)")])
    nbformat.write(book, tmp_path / "warns.ipynb")
    shutil.copy(STRICT, tmp_path)
    command = [sys.executable, "-m", "pytest", "--nbmake", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 1, run.stdout
    assert "on the error stream: " in run.stdout
    assert "UserWarning: old" in run.stdout


# -- pages ----------------------------------------------------------------------------------------------------------------


def stored(path: Path) -> str:
    return (PAGES / f"{path.stem}.md").read_text()


@each_notebook
def test_page_has_the_cells_of_the_notebook(path: Path) -> None:
    """If this fails: `python -m tests.notebooks`."""
    title, *rest = cells(path)
    head, _, text = title.source.partition("\n")
    wanted = [head, moved(text.strip())]
    wanted += [moved(c.source) if c.cell_type == "markdown" else f"```python\n{c.source}\n```" for c in rest]
    shown, at = stored(path), 0
    for source in wanted:
        assert source in shown[at:], source
        at = shown.index(source, at) + len(source)
    assert shown.count("```python") == sum(cell.cell_type == "code" for cell in rest)


@each_notebook
def test_page_has_the_pictures_and_the_answer(path: Path) -> None:
    """One or two pictures, where the notebook has them, small and described; numbers at the end."""
    described = [cell.metadata.alt for cell in cells(path) if cell.metadata.get("alt")]
    shown = re.findall(r"!\[(.*)\]\((.+)\)", stored(path))
    assert 1 <= len(described) <= 2
    assert shown == [(alt, f"{path.stem}-{number}.png") for number, alt in enumerate(described, 1)]
    assert {file for _, file in shown} == {file.name for file in PAGES.glob(f"{path.stem}-*.png")}
    assert all((PAGES / file).stat().st_size < MOST_BYTES for _, file in shown)
    assert re.search(r"\d", re.findall(r"```text\n(.+?)```", stored(path), re.DOTALL)[-1])


def test_index_lists_all_notebooks() -> None:
    assert (PAGES / "README.md").read_text() == index()
    assert {file.stem for file in PAGES.glob("*.md")} == {"README", *(path.stem for path in NOTEBOOKS)}


@pytest.mark.parametrize("file", sorted(PAGES.glob("*.md")), ids=lambda file: file.stem)
def test_links_of_pages_lead_somewhere(file: Path) -> None:
    for target in links(file.read_text()):
        assert target.startswith("https://") or (file.parent / target).exists(), target


@each_notebook
def test_links_of_notebooks_lead_somewhere(path: Path) -> None:
    for target in links("\n".join(cell.source for cell in cells(path) if cell.cell_type == "markdown")):
        assert target.startswith("https://") or (path.parent / target).exists(), target


def links(markdown: str) -> list[str]:
    """Where a page leads, code left out."""
    return re.findall(r"\]\(([^)#\s]+)[^)]*\)", re.sub(r"```.*?```", "", markdown, flags=re.DOTALL))


# -- a policy of one's own ------------------------------------------------------------------------------------------------


class InTurn(Spec):
    """Round robin, written by a user."""

    kind: Literal["in_turn"] = "in_turn"

    def router(self, replicas, rng):
        return Router(cycle(replicas))


class NotAPolicy(Spec):
    pass


def test_a_policy_of_ones_own_does_what_it_says() -> None:
    """An instance routes as the shipped policy that it imitates, to the bit, and is told apart from it in the report."""
    scenario = load("quickstart", {"horizon": "2 min", "warmup": "0 s"})
    shipped, own = (simulate(scenario.replace("routing", policy)) for policy in ({"kind": "round_robin"}, InTurn()))
    assert own.requests.equals(shipped.requests)
    assert own.summary["scenario"]["sha256"] != shipped.summary["scenario"]["sha256"]
    assert "in_turn" in own.html()


def test_a_policy_without_a_router_is_refused() -> None:
    with pytest.raises(SpecError, match="routing"):
        load("quickstart").replace("routing", NotAPolicy())
