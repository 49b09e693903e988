"""Recipes with a name: the paper's, and a fast one that reaches the same quality in fewer steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from featuregen.config.kinds import KINDS, MISLABELLED
from featuregen.config.schema import Config, Training

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


def fresh_recipe(config: Config, kind: str) -> Training:
    """The recipe of the models trained on a kind; without an entry in `fresh` it is that of the standard source."""
    return config.fresh.get(kind, config.sources.standard)


def source_recipe(config: Config, role: str) -> tuple[Training, str | None]:
    """How the `robust` or the `standard` source model is trained, and the file it is imported from, if any."""
    sources = config.sources
    if role == "robust":
        return sources.robust, sources.robust_from
    return sources.standard, sources.standard_from


def source_seeds(config: Config) -> int:
    """The number of models per source recipe that a table shows."""
    return config.sources.seeds or config.evaluation.seeds


def source_models(config: Config, which: str) -> int:
    """The number of models per source recipe that are trained: the label audit needs a second standard one."""
    audited = which == "standard" and any(kind in MISLABELLED for kind in config.synthesis)
    return max(2 if audited else 1, source_seeds(config))
