"""The kinds of dataset: source model, objective, start and stored label of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from featuregen.config import ATTACKED, KINDS


@dataclass(frozen=True)
class Kind:
    """One row of the paper's Table of sets."""

    source: Literal["robust", "standard"]
    pull: Literal["features", "class"]
    start: Literal["image", "noise", "self"]
    label: Literal["true", "random", "next"]
    meaning: str


_RULES = {
    "robust": Kind(
        "robust", "features", "image", "true", "the robust model's features of x, painted over another image"
    ),
    "nonrobust": Kind(
        "standard", "features", "image", "true", "the standard model's features of x, over another image"
    ),
    "robust-noise": Kind("robust", "features", "noise", "true", "the robust model's features of x, painted over noise"),
    "nonrobust-noise": Kind("standard", "features", "noise", "true", "the standard model's features of x, over noise"),
    "rand": Kind("standard", "class", "self", "random", "x, nudged until the standard model sees a random class"),
    "det": Kind("standard", "class", "self", "next", "x, nudged until the standard model sees the class after its own"),
}
RULES: dict[str, Kind] = {kind: _RULES[kind] for kind in KINDS}


def meaning_of(kind: str) -> str:
    """What a set of that kind holds; nothing for one that is not known."""
    if kind == ATTACKED:
        return "adversarial examples, with true labels"
    return RULES[kind].meaning if kind in RULES else ""
