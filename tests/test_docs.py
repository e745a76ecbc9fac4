"""Docs that run: the README's printed result, every Python block, links and pictures."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from simfleet import load, simulate
from simfleet.cli import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
REFERENCES = sorted((ROOT / "docs" / "reference").glob("*.md"))
README = (ROOT / "README.md").read_text()


def test_printed_result_is_what_quickstart_prints() -> None:
    """If this fails, results have changed: say so in CHANGELOG.md and paste the new screen."""
    screen = CliRunner().invoke(cli, ["run", "quickstart"], catch_exceptions=False).stdout.rstrip()
    assert f"```\n{screen}\n```" in README
    assert screen == simulate(load("quickstart")).text().rstrip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page: Path) -> None:
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(compile(block, page.name, "exec"), names)


@pytest.mark.parametrize("page", [*PAGES, *REFERENCES], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


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
