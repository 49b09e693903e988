"""Random noise of the full radius: the baseline that every attack has to beat."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from featuregen.attacks.problem import AttackProblem, first_success
from featuregen.attacks.registry import register_attack
from featuregen.compute.optimize import Ball, image_norms, project
from featuregen.config.schema import Norm, bounded


@dataclass(frozen=True)
class Noise:
    """`tries` random perturbations of the full radius; in Linf, corners of the ball."""

    norm: Norm = "linf"
    eps: float = bounded(8 / 255, low=0)
    tries: int = bounded(10, low=1, high=100_000)


@register_attack(
    "noise", settings=Noise, meaning="random noise of the full radius: the baseline of every attack", threat="query"
)
def noise(problem: AttackProblem, settings: Noise) -> Tensor:
    """The first of `tries` perturbations that meets the criterion, else the one of highest loss."""

    def propose(left: AttackProblem, _: int, count: int) -> Tensor:
        shape = (count, *left.images.shape[1:])
        drawn = left.draws.signs(*shape) if settings.norm == "linf" else left.draws.normal(*shape)
        centre = left.images.repeat_interleave(count, 0)
        offset = drawn.flatten(0, 1).to(centre.dtype)
        scale = settings.eps if settings.norm == "linf" else settings.eps / image_norms(offset)
        return project(centre + offset * scale, Ball(settings.norm, settings.eps, centre))

    return first_success(problem, settings.tries, propose)
