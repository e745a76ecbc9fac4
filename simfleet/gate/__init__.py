"""Simulated service levels as gates: targets judged over seeds, and runs held against a baseline."""
