"""Recipes with a name: the paper's, and a fast one that reaches the same quality in fewer steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from featuregen.config.kinds import KINDS

RecipeName = Literal["paper", "fast"]
RECIPES: tuple[str, ...] = get_args(RecipeName)
_FEATURES = {
    "paper": {"steps": 1000, "step_size": 0.1, "schedule": "constant", "momentum": 0.0},
    "fast": {"steps": 60, "step_size": 1.0, "schedule": "polyak", "momentum": 0.9},
}
_CLASSES = {
    "paper": {"steps": 100, "step_size": 0.1, "schedule": "constant", "momentum": 0.0, "norm": "l2", "eps": 0.5},
    "fast": {"steps": 30, "step_size": 0.2, "schedule": "cosine", "momentum": 0.75},
}
# Adversarial training: the attack's steps, and its step size as a fraction of eps.
_TRAINING = {"paper": (7, 1 / 5), "fast": (3, 5 / 12)}


@dataclass(frozen=True)
class NamedRecipe:
    """A recipe with a name, and what it replaces: the synthesis of `kinds` (None: of all), the robust training."""

    name: RecipeName
    kinds: tuple[str, ...] | None = None
    training: bool = False


def recipe_values(name: str, kind: str) -> dict[str, Any]:
    """The synthesis settings of a named recipe, by their keys in a config."""
    features = kind not in KINDS or KINDS[kind].objective == "features"
    table = _FEATURES if features else _CLASSES
    return {f"synthesis.{kind}.{key}": value for key, value in table[name].items()}


def attack_values(name: str, eps: float) -> dict[str, Any]:
    """The settings of the attack that the robust model is trained against, by their keys; eps stays as it is."""
    steps, fraction = _TRAINING[name]
    return {"sources.robust.attack.steps": steps, "sources.robust.attack.step_size": fraction * eps}
