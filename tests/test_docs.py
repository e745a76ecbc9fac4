"""Docs that run: the README's printed result, every Python block, the notebook, links and pictures."""

import json
import re
from pathlib import Path

import pytest
from click import Context

from simfleet import load, simulate
from simfleet.cli import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text()


def test_printed_result_is_what_quickstart_prints() -> None:
    """If this fails, results have changed: say so in CHANGELOG.md and paste the new screen."""
    assert f"```\n{simulate(load('quickstart')).text().rstrip()}\n```" in README


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page: Path) -> None:
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(compile(block, page.name, "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("notebook", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_run(notebook: Path) -> None:
    names: dict[str, object] = {}
    for cell in json.loads(notebook.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), notebook.name, "exec"), names)


def test_commands_of_the_readme_exist() -> None:
    """Every `simfleet COMMAND` in a shell block is a command, with options that it has."""
    lines = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
    commands = [line.partition("#")[0].split() for line in lines if line.startswith("simfleet ")]
    assert len(commands) >= 6
    for words in commands:
        command = cli.get_command(Context(cli), words[1])
        if words[1] == "workload":
            command = command.commands[words[2]]
        options = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options


def test_metrics_page_defines_every_name_of_the_report() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    report = simulate(load("quickstart", overrides=[("horizon", "1 min"), ("warmup", "0 s")])).summary
    names = {
        *report["requests"],
        *report["latency"],
        *report["throughput"],
        *report["energy"],
        *report["cost"],
        *report["goodput"],
    }
    names -= {f"{kind}_tok_s_per_device" for kind in ("output", "input", "total")}
    assert {name for name in names if f"`{name}`" not in page} == set()
