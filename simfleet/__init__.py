"""simfleet: simulate fleets of inference servers. `sf.simulate(sf.load("quickstart"), seed=1)`; the rest is on the result."""

from importlib.metadata import version

from simfleet.document import SpecError
from simfleet.library import Library
from simfleet.result import Result
from simfleet.scenario import Scenario, load
from simfleet.simulation import simulate

__all__ = ["Library", "Result", "Scenario", "SpecError", "load", "simulate"]
__version__ = version("simfleet")
