"""The verbs: one function and one spec each."""
