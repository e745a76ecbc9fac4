"""The page about gates: its tables, files and commands are those of the program."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from click import Context

from simfleet.cli import cli
from simfleet.document import Document
from simfleet.gate.compare import Tolerances, read_tolerances, rules
from simfleet.gate.metrics import METRICS, groups_of
from simfleet.gate.targets import expressions, read_gate
from simfleet.scenario import load
from simfleet.spec import build

PAGE = (Path(__file__).parents[1] / "docs" / "ci.md").read_text()


def block(kind: str) -> str:
    (found,) = re.findall(rf"```yaml {kind}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


def test_the_table_has_every_metric() -> None:
    table = PAGE[PAGE.index("| metrics |") : PAGE.index("What each means")]
    names = set(
        re.findall(r"`(\w+)`", table.replace("`_per_device`", "").replace("`_per_mtok_output`, `_per_request`", ""))
    )
    expected = {
        re.sub(r"(?<=tok_s)_per_device$|(?<=grams_co2e|tres_water)_per_(mtok_output|request)$", "", name)
        for name in METRICS
    }
    assert expected <= names
    assert names - expected <= {
        "class",
        "pool",
        "model",
        "tenant",
        "scope",
        "stable",
        "backlogged",
        "overloaded",
        "g",
        "L",
    }
    for name, metric in METRICS.items():
        (line,) = [line for line in table.splitlines() if f"`{name}`" in line] or [""]
        assert all(statistic in line for statistic in metric.paths) or not line, name


def test_targets_and_sla_are_read() -> None:
    quickstart = load("quickstart", [("targets", "{}")])
    document = Document.from_text(block("targets"))
    asked = load("quickstart", [("targets", document.data["targets"])])
    assert len(expressions(document, asked.targets, groups_of(quickstart))) == 9


def test_sla_is_read(tmp_path: Path) -> None:
    (tmp_path / "chat.sla.yaml").write_text(block("sla"))
    gate = read_gate(str(tmp_path / "chat.sla.yaml"))
    assert (gate.seeds, gate.scenario.pools["h100"].replicas) == (6, 3)


def test_tolerances_are_read(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(block("tolerances"))
    found, document = read_tolerances(tmp_path / "t.yaml")
    assert len(rules(found, document, groups_of(load("quickstart")))) > len(build(Tolerances, document).metrics)


def commands() -> list[str]:
    shell = [line for part in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in part.splitlines()]
    steps = yaml.safe_load(block("workflow"))["jobs"]["check"]["steps"]
    return [line.partition("#")[0] for line in shell] + [step["run"] for step in steps if "run" in step]


@pytest.mark.parametrize("line", [line for line in commands() if line.startswith("simfleet ")])
def test_commands_have_these_options(line: str) -> None:
    words = shlex.split(line)
    command = cli.get_command(Context(cli), words[1])
    assert command is not None
    assert {word for word in words if word.startswith("--")} <= {
        name for parameter in command.params for name in parameter.opts
    }
