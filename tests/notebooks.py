"""The notebooks run and written as pages: `python -m tests.notebooks [NAME...]` writes docs/notebooks/, pictures and all."""

import base64
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = ROOT / "docs" / "notebooks"
COLOURS = 64
LONGEST_S = 120
"""A cell that takes longer has hung."""
SETUP = """
%config InlineBackend.print_figure_kwargs = {"bbox_inches": None, "metadata": {"Software": None}}
import matplotlib, pandas
matplotlib.rcParams["figure.dpi"] = 144
pandas.set_option("display.width", 130, "display.max_columns", 20)
"""
"""Run before a notebook: pictures finer than a screen, and the same bytes from the same run."""


def executed(path: Path) -> Any:
    """The notebook with its outputs, run in a kernel of this Python. Raises CellExecutionError where a cell fails."""
    book = nbformat.read(path, as_version=4)
    book.cells.insert(0, nbformat.v4.new_code_cell(SETUP))
    NotebookClient(
        book, timeout=LONGEST_S, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    ).execute()
    del book.cells[0]
    return book


def page(book: Any, name: str) -> tuple[str, dict[str, bytes]]:
    """An executed notebook as Markdown, and its pictures by file name."""
    pictures: dict[str, bytes] = {}
    title, *parts = [part for cell in book.cells for part in _parts(cell, name, pictures)]
    note = f"*What [notebooks/{name}.ipynb](../../notebooks/{name}.ipynb) shows when it is run.*"
    head, _, rest = title.partition("\n")
    return "\n\n".join([head, note, rest.strip(), *parts]) + "\n", pictures


def _parts(cell: Any, name: str, pictures: dict[str, bytes]) -> list[str]:
    """A cell and what came out of it."""
    if cell.cell_type == "markdown":
        return [moved(cell.source)]
    shown = [_shown(output, name, cell.metadata.get("alt", ""), pictures) for output in cell.outputs]
    return [f"```python\n{cell.source}\n```", *shown]


def moved(markdown: str) -> str:
    """The text of a notebook with its links as they lead from the pages."""
    return markdown.replace("](../docs/", "](../")


def _shown(output: Any, name: str, alt: str, pictures: dict[str, bytes]) -> str:
    """One output: its picture, which `alt` describes, or its text."""
    data = output.get("data", {})
    if "image/png" not in data:
        return f"```text\n{str(output.get('text') or data['text/plain']).rstrip()}\n```"
    file = f"{name}-{len(pictures) + 1}.png"
    pictures[file] = _smaller(base64.b64decode(data["image/png"]))
    return f"![{alt}]({file})"


def _smaller(png: bytes) -> bytes:
    """A picture in as few colours as a plot needs, which takes a third of the bytes."""
    written = BytesIO()
    Image.open(BytesIO(png)).convert("RGB").quantize(COLOURS).save(written, "PNG", optimize=True)
    return written.getvalue()


def index() -> str:
    """The page that leads to the others: the title of each notebook and its question."""
    lines = [
        "# Notebooks",
        "",
        "Each asks one question and answers it within half a minute on two cores. The pages show what comes out. Open the notebooks themselves where simfleet",
        "is installed, in Jupyter or any editor that knows them; `pytest notebooks` runs them all.",
        "",
    ]
    for path in NOTEBOOKS:
        title, _, text = nbformat.read(path, as_version=4).cells[0].source.partition("\n")
        question = text.strip().split("**")[1].replace("\n", " ")
        lines.append(f"- [{title.removeprefix('# ')}]({path.stem}.md): {question}")
    return "\n".join(lines) + "\n"


def write(path: Path) -> None:
    """Run a notebook and write its page."""
    text, pictures = page(executed(path), path.stem)
    for old in PAGES.glob(f"{path.stem}-*.png"):
        old.unlink()
    (PAGES / f"{path.stem}.md").write_text(text, encoding="utf-8")
    for file, content in pictures.items():
        (PAGES / file).write_bytes(content)


if __name__ == "__main__":
    PAGES.mkdir(exist_ok=True)
    for notebook in NOTEBOOKS:
        if not sys.argv[1:] or notebook.stem in sys.argv[1:]:
            print(notebook.stem)
            write(notebook)
    (PAGES / "README.md").write_text(index(), encoding="utf-8")
