"""Looking up and registering kinds of dataset."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal

from numpy.typing import NDArray
from torch import Tensor

from featuregen.compute.optimize import Objective
from featuregen.config.kinds import ATTACKED, KINDS, Kind, registered_kind
from featuregen.config.loader import did_you_mean
from featuregen.errors import UserError
from featuregen.models.classifier import Classifier

# Of the source model, the base images of a batch and the labels to store: what an image of the batch should minimise.
ObjectiveRule = Callable[[Classifier, Tensor, Tensor], Objective]
# Of the base images' labels and the number of classes: the labels to store, row by row.
LabelRule = Callable[[NDArray[Any], int], NDArray[Any]]
_PAPER = frozenset(KINDS)
_CHOICES = {
    "source": ("robust", "standard"),
    "objective": ("features", "class"),
    "start": ("image", "noise", "self"),
    "label": ("true", "random", "next"),
}


def register_kind(
    name: str,
    *,
    source: Literal["robust", "standard"],
    objective: Literal["features", "class"] | ObjectiveRule,
    start: Literal["image", "noise", "self"],
    label: Literal["true", "random", "next"] | LabelRule,
    meaning: str,
) -> Kind:
    """Add a kind of dataset, whose recipe is then read from `synthesis.NAME` of a config.

    Registering a name again replaces it, except the name of a kind of the paper. A file of such a kind can be read
    without this; `verify` checks its labels and starts where the kind is registered.

    Args:
        name: The name to call it by: letters, digits and hyphens.
        source: Which source model the images are optimised on.
        objective: "features" to match the source's features of the base image, "class" to have it predict the stored
            label, or a function of (model, images, labels) that returns a function from images to one number each,
            which the optimisation makes small. `images` are the base images, `labels` the labels to store.
        start: Where an image starts: another training "image", "noise", or the base image it"self".
        label: The label to store: the "true" one, a "random" one, the "next" class, or a function of (true labels,
            number of classes), int64 arrays, that decides each row by itself.
        meaning: What such an image shows, in half a line.

    Returns:
        The kind, as `featuregen.config.kinds.KINDS` holds it.

    Example:
        >>> import featuregen as fg
        >>> kind = fg.register_kind(
        ...     "det-robust", source="robust", objective="class", start="self", label="next",
        ...     meaning="x, perturbed until the robust model predicts the class after its own",
        ... )
        >>> config = fg.load_config("digits", ["synthesis.det-robust={norm: l2, eps: 2}"])
        >>> config.synthesis["det-robust"].eps
        2.0
    """
    if name in _PAPER or name == ATTACKED:
        raise UserError(f"'{name}' is a kind of featuregen's; register yours by another name.")
    if not re.fullmatch(r"[a-z0-9-]+", name):
        raise UserError(f"'{name}' cannot name a kind; use lower-case letters, digits and hyphens.")
    kind = Kind(name, source, objective, start, label, meaning)
    for field, choices in _CHOICES.items():
        value = getattr(kind, field)
        if value not in choices and not (callable(value) and field in ("objective", "label")):
            raise UserError(f"kind {name}: {field} is {value!r}; {did_you_mean(value, choices)}")
    KINDS[name] = kind
    return kind


def find_kind(name: str) -> Kind:
    if name not in KINDS:
        raise UserError(f"'{name}' is no kind of dataset; {did_you_mean(name, KINDS)}")
    return KINDS[name]


def meaning_of(name: str) -> str:
    """What an image of that kind shows; nothing for a kind that is not registered."""
    kind = registered_kind(name)
    return kind.meaning if kind else ""
