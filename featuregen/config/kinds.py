"""The kinds of dataset: source model, objective, start and stored label of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

# The kind of a file of adversarial examples, which an attack makes and no synthesis.
ATTACKED = "attacked"


@dataclass(frozen=True)
class Kind:
    """One kind of dataset. Where objective or label is a function, `register_kind` says what it takes."""

    name: str
    source: Literal["robust", "standard"]
    objective: Literal["features", "class"] | Callable[..., Any]
    start: Literal["image", "noise", "self"]
    label: Literal["true", "random", "next"] | Callable[..., Any]
    meaning: str

    def labels_of(self, true: Any, classes: int) -> Any:
        """The labels to store for images of these classes, an integer array, unless they are drawn at random."""
        if callable(self.label):
            # A label of -1 is unknown. A copy, since a user's function may change what it is given.
            return self.label(true.clip(0), classes)
        return (true + 1) % classes if self.label == "next" else true


# Those of the paper, to which `register_kind` adds.
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "robust", "robust", "features", "image", "true",
            "the robust model's features of x, optimised from another image",
        ),
        Kind(
            "nonrobust", "standard", "features", "image", "true",
            "the standard model's features of x, optimised from another image",
        ),
        Kind(
            "robust-noise", "robust", "features", "noise", "true",
            "the robust model's features of x, optimised from noise",
        ),
        Kind(
            "nonrobust-noise", "standard", "features", "noise", "true",
            "the standard model's features of x, optimised from noise",
        ),
        Kind(
            "rand", "standard", "class", "self", "random",
            "x, perturbed until the standard model predicts a random class",
        ),
        Kind(
            "det", "standard", "class", "self", "next",
            "x, perturbed until the standard model predicts the class after its own",
        ),
    )
}  # fmt: skip
# Those of the paper whose labels are wrong on purpose, which `reproduce` audits.
MISLABELLED = ("rand", "det")
_ADVERSARIAL = Kind(ATTACKED, "standard", "class", "self", "true", "adversarial examples, with true labels")


def registered_kind(name: str) -> Kind | None:
    """The kind of a file's rows; None if this process does not know it and so cannot say what its rows must be."""
    return _ADVERSARIAL if name == ATTACKED else KINDS.get(name)
