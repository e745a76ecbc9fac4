"""Answers for planners: sweeps over many scenarios, and the cheapest fleet that keeps every target."""
