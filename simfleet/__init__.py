"""simfleet: simulate fleets of inference servers. `sf.simulate(sf.load("quickstart"), seed=1)`; the rest is on the result."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simfleet.document import SpecError
    from simfleet.gate.judge import check
    from simfleet.library import Library
    from simfleet.planning.plan import Plan, plan
    from simfleet.result import Result
    from simfleet.scenario import Scenario, load
    from simfleet.simulation import simulate
    from simfleet.sweeping.sweep import sweep

__all__ = ["Library", "Plan", "Result", "Scenario", "SpecError", "check", "load", "plan", "simulate", "sweep"]
__version__ = version("simfleet")

WHERE = {
    "Library": "library",
    "Plan": "planning.plan",
    "Result": "result",
    "Scenario": "scenario",
    "SpecError": "document",
    "check": "gate.judge",
    "load": "scenario",
    "plan": "planning.plan",
    "simulate": "simulation",
    "sweep": "sweeping.sweep",
}
"""Public name -> its module, imported when the name is asked for: the pytest plugin is loaded where nothing is simulated."""


def __getattr__(name: str) -> Any:
    if name not in WHERE:
        raise AttributeError(f"module `simfleet` has no `{name}`; there are: {', '.join(__all__)}")
    return getattr(import_module(f"simfleet.{WHERE[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
