"""A package of somebody else: one plug of each kind, forty lines each, known only by its entry points."""
