"""Pictures, curves, tables and the pages that hold them, drawn from results that are already there."""
