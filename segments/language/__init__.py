"""The words of the rule language: its tree, its fields and events, and how values are read."""
