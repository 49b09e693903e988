"""The settings of every attack. Pixels go from 0 to 1, radii and shifts are measured in that and in pixels' widths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from featuregen.config.schema import Norm, bounded

_EPS = 8 / 255


@dataclass(frozen=True)
class FGSM:
    """One step as long as the radius."""

    norm: Norm = "linf"
    eps: float = bounded(_EPS, low=0)


@dataclass(frozen=True)
class PGD:
    """Projected gradient steps. `step_size` 0 means 2.5 · eps / steps; restarts start at random places."""

    norm: Norm = "linf"
    eps: float = bounded(_EPS, low=0)
    steps: int = bounded(20, low=1)
    step_size: float = bounded(0.0, low=0)
    random_start: bool = False
    restarts: int = bounded(1, low=1)
    momentum: float = bounded(0.0, low=0, high=0.999)


@dataclass(frozen=True)
class APGD:
    """Steps that halve themselves, on cross-entropy or the difference of logits ratio."""

    norm: Norm = "linf"
    eps: float = bounded(_EPS, low=0)
    steps: int = bounded(100, low=1)
    restarts: int = bounded(1, low=1)
    random_start: bool = True
    loss: Literal["ce", "dlr"] = "ce"


@dataclass(frozen=True)
class FMN:
    """The smallest change in `norm` that reaches the goal, in so many gradient steps."""

    norm: Norm = "l2"
    steps: int = bounded(100, low=1)


@dataclass(frozen=True)
class BoxedLBFGS:
    """The smallest change in L2: `searches` weights of distance against loss from `weight` on, `steps` for each."""

    steps: int = bounded(30, low=1)
    searches: int = bounded(10, low=1)
    weight: float = bounded(1.0, above=0)


@dataclass(frozen=True)
class Pixels:
    """Differential evolution of the places and colours of so many pixels."""

    pixels: int = bounded(1, low=1, high=1000)
    population: int = bounded(100, low=4)
    generations: int = bounded(100, low=0)


@dataclass(frozen=True)
class Spatial:
    """Rotations of up to `degrees` and shifts of up to `pixels`: a grid, or so many random ones.

    The grid has `angles` rotations and `shifts` shifts along each axis; it is taken where `tries` is 0.
    """

    degrees: float = bounded(30.0, low=0, high=180)
    pixels: float = bounded(3.0, low=0)
    angles: int = bounded(31, low=1)
    shifts: int = bounded(5, low=1)
    tries: int = bounded(0, low=0)


@dataclass(frozen=True)
class Square:
    """Random squares of change; `share` is the part of the image that the first ones cover."""

    norm: Norm = "linf"
    eps: float = bounded(_EPS, low=0)
    queries: int = bounded(5000, low=1)
    share: float = bounded(0.8, above=0, high=1)


@dataclass(frozen=True)
class Noise:
    """So many random changes of the ball's full radius; in Linf its corners."""

    norm: Norm = "linf"
    eps: float = bounded(_EPS, low=0)
    tries: int = bounded(10, low=1)


@dataclass(frozen=True)
class Ensemble:
    """Auto-PGD on cross-entropy, auto-PGD towards `classes` likely classes, the smallest change, and squares."""

    norm: Norm = "linf"
    eps: float = bounded(_EPS, low=0)
    steps: int = bounded(100, low=1)
    classes: int = bounded(9, low=1)
    queries: int = bounded(5000, low=1)


@dataclass(frozen=True)
class GradientMasking:
    """Of the checks for masked gradients: the ball, the steps of a white box, and the queries of a black one."""

    norm: Norm = "linf"
    eps: float = bounded(_EPS, above=0)
    steps: int = bounded(40, low=1)
    queries: int = bounded(1000, low=1)


@dataclass(frozen=True)
class FoolboxSmallest:
    """One of Foolbox's that looks for a small change. `steps` 0 leaves their number to the table of attacks."""

    steps: int = bounded(0, low=0)


@dataclass(frozen=True)
class FoolboxL1:
    """One of Foolbox's in an L1 ball."""

    eps: float = bounded(10.0, low=0)
    steps: int = bounded(0, low=0)


@dataclass(frozen=True)
class FoolboxL2:
    """One of Foolbox's in an L2 ball."""

    norm: Literal["l2"] = "l2"
    eps: float = bounded(0.5, low=0)
    steps: int = bounded(0, low=0)


@dataclass(frozen=True)
class FoolboxLinf:
    """One of Foolbox's in a Linf ball."""

    norm: Literal["linf"] = "linf"
    eps: float = bounded(_EPS, low=0)
    steps: int = bounded(0, low=0)
