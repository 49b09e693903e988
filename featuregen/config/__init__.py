"""Frozen, typed settings: read from YAML, overridden by key=value, checked against bounds."""
