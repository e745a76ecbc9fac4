"""Every shell line of README and docs: `sh` blocks are run in a folder that holds the files of the page; `sh data` with a few rows of the
measurements and one step of a fit, where they are at hand; `sh cluster` on a scheduler and two workers of this machine.

A page's files are its blocks that begin with `# name.yaml` or are labelled with a name (`csv name.csv`). Shipped scenarios are cut to
minutes. A line's exit code is the one in its comment (`# exit code 1`), else 0; verdicts that a page does not tell may be either.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import click
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from simfleet import load, simulate
from simfleet.calibration import tune
from simfleet.cli import cli
from simfleet.document import overlay, read
from tests.references import FOLDER, commands, pages
from tests.test_sweep_workers import cluster

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
}
LABELS = ("", "data", "cluster")
"""Second words of `sh` blocks: what their lines need."""
DATA = ROOT.parent / "shared" / "data"
LIKE = {"measured-runs.csv": "blis_vllm_serving.csv", "runs-with-watts.csv": "mlenergy_v3_llm.csv"}
"""A reader's own file -> measurements of the same kind."""
OTHERS = (
    "python3 -m venv",
    "pip install",
    ". .venv/bin/activate",
    ".venv/bin/",
    ".ci/run",
    "dask ",
    "pytest ",
    "python -m tests.",
)
"""Beginnings of lines that are not simfleet's. They are not run here."""
VERDICTS = ("check", "compare")
SCREENS = ("docs/tutorial.md", "docs/how-to.md")
"""Pages whose printed results are held against what the command before them prints, numbers aside."""
SHORT: dict[str, dict[str, Any]] = {
    "quickstart": {
        "horizon": "1 min",
        "warmup": "0 s",
        "targets": {"regime": ["== stable"], "ttft{class=chat}": ["p95 <= 2 s"]},
    },
    "azure-conversation": {
        "horizon": "20 s",
        "workload.streams.conversation.arrival": {"rate": "2 /s"},
        "variants": {},
    },
    "w8": {"workload.streams.chat.count": 500},
}
"""Shipped scenarios as the pages' commands find them here."""


class Block(NamedTuple):
    """A fenced block: `sh`, `yaml` ... and what stands behind it; `before` is what stands between it and the last one."""

    language: str
    label: str
    text: str
    before: str


def blocks(text: str) -> Iterator[Block]:
    end = 0
    for match in re.finditer(r"^```(\w*) ?([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Block(match[1], match[2], match[3], text[end : match.start()])
        end = match.end()


def lines(block: Block) -> list[str]:
    """Commands of a shell block, with their comments."""
    whole = block.text.replace("\\\n", " ")
    return [part.strip() for line in whole.splitlines() for part in line.split("&&") if part.strip()]


def parsed(line: str) -> tuple[list[str], click.Context]:
    """The words behind `simfleet`, and the command's context. Fails for an unknown command, option or value."""
    words = shlex.split(line, comments=True)[1:]
    group: click.Group = cli
    depth = 1
    while isinstance(command := group.get_command(click.Context(group), words[depth - 1]), click.Group):
        group, depth = command, depth + 1
    assert command is not None, f"no such command: {line}"
    try:
        return words, command.make_context(words[depth - 1], words[depth:])
    except click.ClickException as error:
        pytest.fail(f"{line}\n{error.format_message()}")


@pytest.mark.parametrize("name", PAGES)
def test_lines_are_known(name: str) -> None:
    """Commands and options exist; what is not simfleet's is one of a few other programs, with modules that are there."""
    for block in blocks(PAGES[name].read_text()):
        if block.language != "sh":
            continue
        assert block.label in LABELS, block.label
        for line in lines(block):
            if line.startswith("simfleet "):
                parsed(line)
            else:
                assert line.startswith(OTHERS), line
            for module in re.findall(r"python -m (tests\.\w+)", line):
                assert find_spec(module), line


def _page_files(text: str) -> Iterator[tuple[str, str]]:
    for block in blocks(text):
        if block.language == "yaml" and (match := re.match(r"# ([\w.-]+\.yaml)\n", block.text)):
            yield match[1], block.text
        elif block.language == "csv" and block.label:
            yield block.label, block.text


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: shipped scenarios cut short, and files that pages name without showing them."""
    (tmp_path / "scenarios").mkdir()
    for name, changes in SHORT.items():
        short = read(ROOT / "scenarios" / f"{name}.yaml")
        for path, value in changes.items():
            short = overlay(short, path, value, {})
        (tmp_path / "scenarios" / f"{name}.yaml").write_text(yaml.safe_dump(dict(short.data), sort_keys=False))
    own = dict(_page_files(PAGES["docs/tutorial.md"].read_text()))["helpdesk.yaml"]
    (tmp_path / "my-scenario.yaml").write_text(
        own.replace("horizon: 5 min", "horizon: 20 s").replace("rate: 12 /s", "rate: 2 /s")
    )
    for name, content in _page_files(PAGES["docs/how-to.md"].read_text()):
        (tmp_path / name).write_text(content)
    profile = next(block for block in blocks(PAGES["docs/hardware.md"].read_text()) if "\nvendor:" in block.text)
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "acme-x1.yaml").write_text(profile.text)
    monkeypatch.setenv("SIMFLEET_PATH", str(tmp_path / "scenarios"))
    monkeypatch.setenv("SIMFLEET_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


RUN = [name for name, path in PAGES.items() if any(
    block.language == "sh" and not block.label and "simfleet " in block.text for block in blocks(path.read_text())
)]  # fmt: skip


@pytest.mark.parametrize("name", RUN)
def test_commands_run(name: str, folder: Path) -> None:
    text = PAGES[name].read_text()
    for file, content in _page_files(text):
        (folder / file).write_text(content)
    for path in (Path("results/a"), Path("results/b"), Path("baseline")):
        path.mkdir(parents=True)
        (path / "report.json").write_text(simulate(load("quickstart")).json())
    printed = ""
    for block in blocks(text):
        if block.language == "yaml" and (match := re.match(r"# ([\w.-]+\.yaml), at the end\n", block.text)):
            with (folder / match[1]).open("a") as file_:
                file_.write(block.text)
        elif block.language == "sh" and not block.label:
            for line in lines(block):
                if line.startswith("simfleet "):
                    printed = _run(line)
        elif not block.language and name in SCREENS and not block.before.strip():
            _same_screen(block.text, printed)


def labelled(label: str) -> list[str]:
    """Lines of all blocks of a label, each once."""
    found = [line for path in PAGES.values() for block in blocks(path.read_text()) if (block.language, block.label) == ("sh", label) for line in lines(block)]  # fmt: skip
    return list(dict.fromkeys(found))


@pytest.mark.skipif(not DATA.is_dir(), reason="the measured runs (../shared/data) are not here")
@pytest.mark.parametrize("line", labelled("data"))
def test_data_commands_run(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a row of each model, device and engine; a fit makes one step."""
    monkeypatch.setattr(tune, "tune", partial(tune.tune, evaluations=1))
    for name in re.findall(r"[\w-]+\.csv", line):
        (file,) = DATA.glob(f"*/calibration/{LIKE.get(name, name)}")
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
        alike = [key for key in ("hardware", "model", "engine", "gpu_model", "model_id") if key in table]
        (table if "--power" in line else table.groupby(alike).head(1)).to_csv(folder / name, index=False)
    assert "median" in _run(line)


@pytest.mark.filterwarnings("default")
def test_cluster_commands_run(folder: Path) -> None:
    """Sweeps on a real cluster of this machine; programs of the cluster have the options that are shown."""
    with cluster(folder) as (address, _):
        for line in labelled("cluster"):
            if line.startswith("simfleet "):
                assert "replicas" in _run(line.replace("SCHEDULER:8786", address))
            else:
                words = shlex.split(line, comments=True)
                shown = subprocess.run([sys.executable, "-m", *words[:2], "--help"], capture_output=True, text=True, check=True).stdout  # fmt: skip
                assert all(word in shown for word in words if word.startswith("--")), line


@contextmanager
def untraced() -> Iterator[None]:
    """Without the measurement of coverage, which makes simulations four times as slow; other tests cover what runs here."""
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(tracer)


def _run(line: str) -> str:
    """Run a line with one process; its exit code is as its comment says."""
    words, context = parsed(line)
    if any(parameter.name == "workers" for parameter in context.command.params) and "--workers" not in words:
        words += ["--workers", "1"]
    with untraced():
        done = CliRunner().invoke(cli, words)
    stated = re.search(r"#.*exit code (\d)", line)
    wanted = {int(stated[1])} if stated else {0, 1, 3} if words[0] in VERDICTS else {0}
    assert done.exit_code in wanted, f"{line}\nexit code {done.exit_code}\n{done.output[-3000:]}\n{done.exception!r}"
    return done.output


def _same_screen(shown: str, printed: str) -> None:
    """Every line of a page's screen is printed, in this order; between `...` nothing is left out."""
    found = [_masked(line) for line in printed.splitlines()]
    at = 0
    for part in re.split(r"^\.\.\.\n", shown, flags=re.MULTILINE):
        wanted = [_masked(line) for line in part.splitlines()]
        here = next((i for i in range(at, len(found)) if found[i : i + len(wanted)] == wanted), None)
        assert here is not None, f"not printed:\n{part}\nprinted:\n{printed}"
        at = here + len(wanted)


def _masked(line: str) -> str:
    """Without numbers, their units, and the width of columns."""
    line = re.sub(r"\b[0-9a-f]{12}\b", "HASH", line)
    line = re.sub(r"[-+]?\d[\d.,]*( (ns|us|ms|s|W|kW|MW)\b)?", "N", line)
    return re.sub(r"\s+", " ", line).strip()


def test_a_screen_that_differs_is_found() -> None:
    _same_screen("a  1.5 ms kept\n...\nc\n", "head\na 900 us kept\nb\nc\n")
    for shown in ("a 1.5 ms missed\n", "c\n...\na 1 ms kept\n", "a 1 ms kept\nc\n"):
        with pytest.raises(AssertionError, match="not printed"):
            _same_screen(shown, "head\na 900 us kept\nb\nc\n")


@pytest.mark.parametrize("name", PAGES)
def test_whole_scenarios_are_valid(name: str, folder: Path) -> None:
    text = PAGES[name].read_text()
    for file, content in _page_files(text):
        (folder / file).write_text(content)
    for number, block in enumerate(blocks(text)):
        if block.language == "yaml" and {"\nworkload:", "\npools:"} <= set(re.findall(r"\n\w+:", "\n" + block.text)):
            path = folder / f"block-{number}.yaml"
            path.write_text(block.text)
            assert load(path).pools


@pytest.mark.parametrize("name", pages())
def test_references_are_up_to_date(name: str) -> None:
    """If this fails, run `python -m tests.references`."""
    assert (FOLDER / name).read_text() == pages()[name]


def test_references_are_complete() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(pages())
    text = pages()["commands.md"]
    assert {f"simfleet {name}" for name in ("run", "check", "sweep", "plan", "workload describe")} <= dict(
        commands()
    ).keys()
    assert all(f"\n## {name}\n" in text for name in dict(commands()))


def sections(text: str) -> list[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^##+ (.*)$", text, re.M)]


@pytest.mark.parametrize("path", [*PAGES.values(), *(FOLDER / name for name in pages())], ids=lambda path: path.name)
def test_links_into_pages_lead_to_sections(path: Path) -> None:
    text = path.read_text()
    for page, anchor in re.findall(r"\]\(([\w./-]*\.md|)#([^)]*)\)", text):
        assert anchor in sections((path.parent / page).read_text() if page else text), f"{page}#{anchor}"
    assert path.parent != FOLDER or len(set(sections(text))) == len(sections(text)) > 5


def test_the_index_has_every_page() -> None:
    text = PAGES["docs/index.md"].read_text()
    names = [
        *(path.name for path in PAGES.values() if path.parent.name == "docs"),
        *(f"reference/{name}" for name in pages()),
    ]
    assert [name for name in names if f"]({name})" not in text and name != "index.md"] == []
