"""The settings of every attack by its name. `norm` and `eps` where an attack lives in a ball; sizes in pixels of [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from featuregen.config.settings import Norm, _limits


@dataclass(frozen=True)
class FGSM:
    """One step of the length of the radius."""

    norm: Norm = "linf"
    eps: float = _limits(8 / 255, above=0)


@dataclass(frozen=True)
class Noise:
    """The worst of `tries` random changes on the ball's border."""

    norm: Norm = "linf"
    eps: float = _limits(8 / 255, above=0)
    tries: int = _limits(10, low=1)


@dataclass(frozen=True)
class Pixels:
    """Differential evolution of the places and colours of `pixels` pixels."""

    pixels: int = _limits(1, low=1, high=1000)
    population: int = _limits(400, low=4)
    generations: int = _limits(100, low=0)


@dataclass(frozen=True)
class Spatial:
    """Up to `degrees` of rotation and `pixels` of shift: a grid of `angles` × `shifts`², or `tries` random ones (0: grid)."""

    degrees: float = _limits(30.0, low=0, high=180)
    pixels: float = _limits(3.0, low=0)
    angles: int = _limits(31, low=1)
    shifts: int = _limits(5, low=1)
    tries: int = _limits(0, low=0)


@dataclass(frozen=True)
class Smallest:
    """The smallest change in `norm` that reaches the goal, in `steps` gradient steps."""

    norm: Norm = "l2"
    steps: int = _limits(100, low=1)


@dataclass(frozen=True)
class BoxedLBFGS:
    """Szegedy's smallest change in L2: `searches` weights of distance against loss, `steps` of L-BFGS for each."""

    steps: int = _limits(30, low=1)
    searches: int = _limits(10, low=1)
    weight: float = _limits(1.0, above=0)


@dataclass(frozen=True)
class AutoPGD:
    norm: Norm = "linf"
    eps: float = _limits(8 / 255, above=0)
    steps: int = _limits(100, low=1)
    restarts: int = _limits(1, low=1)
    random_start: bool = True
    loss: Literal["ce", "dlr"] = "ce"


@dataclass(frozen=True)
class Square:
    """`share` is the part of the image that the first squares cover."""

    norm: Norm = "linf"
    eps: float = _limits(8 / 255, above=0)
    queries: int = _limits(5000, low=1)
    share: float = _limits(0.8, above=0, high=1)


@dataclass(frozen=True)
class Ensemble:
    """As strong as AutoAttack: auto-PGD on two losses, the smallest change, and squares, each on what is left."""

    norm: Norm = "linf"
    eps: float = _limits(8 / 255, above=0)
    steps: int = _limits(100, low=1)
    targets: int = _limits(9, low=1)
    queries: int = _limits(5000, low=1)


@dataclass(frozen=True)
class FoolboxAttack:
    """An attack of Foolbox's by its name here. `eps` 0 asks for the smallest change, where it can find one."""

    eps: float = _limits(0.0, low=0)
    steps: int = _limits(0, low=0)
