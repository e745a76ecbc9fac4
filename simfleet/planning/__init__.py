"""How many of which: the cheapest fleet that keeps every target."""
