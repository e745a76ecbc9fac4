"""Which assumption moves an answer most: every input that a scenario uses, moved one at a time, and the answer each time.

    from simfleet import load
    from simfleet.sensitivity import explain
    print(explain(load("quickstart"), "energy").text())

How far an input is moved follows how good it is: see `inputs.RANGES`, and docs/sensitivity.md.
"""

from simfleet.sensitivity.answers import Explained, Row, explain, simulations

__all__ = ["Explained", "Row", "explain", "simulations"]
