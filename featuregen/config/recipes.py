"""Recipes that have a name: the paper's own, and one that gets as far in fewer steps."""

from __future__ import annotations

from typing import Any

from featuregen.config.schema import MISLABELLED

_FEATURES = {
    "paper": {"steps": 1000, "step_size": 0.1, "schedule": "constant", "momentum": 0.0},
    "fast": {"steps": 60, "step_size": 1.0, "schedule": "polyak", "momentum": 0.9},
}
_CLASSES = {
    "paper": {"steps": 100, "step_size": 0.1, "schedule": "constant", "momentum": 0.0, "norm": "l2", "eps": 0.5},
    "fast": {"steps": 30, "step_size": 0.2, "schedule": "cosine", "momentum": 0.75},
}
# Adversarial training: steps, and the length of each as a share of eps.
_TRAINING = {"paper": (7, 1 / 5), "fast": (3, 5 / 12)}
RECIPES = tuple(_FEATURES)


def recipe_values(name: str, kind: str) -> dict[str, Any]:
    """The settings a named recipe stands for, by their keys in a config."""
    table = _CLASSES if kind in MISLABELLED else _FEATURES
    return {f"synthesis.{kind}.{key}": value for key, value in table[name].items()}


def attack_values(name: str, eps: float) -> dict[str, Any]:
    """The same for the attack that the robust model is trained against, whose radius it leaves alone."""
    steps, share = _TRAINING[name]
    return {"sources.robust.attack.steps": steps, "sources.robust.attack.step_size": share * eps}
