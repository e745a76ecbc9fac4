"""The notebooks: each runs, is kept without outputs, and its page in the docs shows the cells that it has now."""

import re
from itertools import cycle
from pathlib import Path
from typing import Literal

import nbformat
import pytest

from simfleet import SpecError, load, simulate
from simfleet.serving.routing import Router
from simfleet.spec import Spec
from tests.notebooks import NOTEBOOKS, PAGES, executed, index, moved, page

MOST_BYTES = 60_000
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path) -> list[nbformat.NotebookNode]:
    return nbformat.read(path, as_version=4).cells


@each_notebook
def test_runs_and_ends_with_an_answer(path: Path) -> None:
    """One or two pictures, numbers at the end, and nothing on the error stream."""
    book = executed(path)
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    assert re.search(r"\d", book.cells[-1].outputs[-1].text)
    text, pictures = page(book, path.stem)
    assert 1 <= len(pictures) <= 2
    assert re.findall(r"!\[(.+)\]\((.+)\)", text) == re.findall(r"!\[(.+)\]\((.+)\)", stored(path))


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
    assert cells(path)[-1].cell_type == "code"


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
def test_pictures_are_small_and_described(path: Path) -> None:
    shown = re.findall(r"!\[(.*)\]\((.+)\)", stored(path))
    assert {file for _, file in shown} == {file.name for file in PAGES.glob(f"{path.stem}-*.png")}
    assert all(alt and (PAGES / file).stat().st_size < MOST_BYTES for alt, file in shown)


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
