"""Random changes of the same size: what an attack has to beat."""

from __future__ import annotations

from torch import Tensor

from featuregen.attacks.problem import AttackProblem, first_success
from featuregen.compute import Ball, image_norms, project
from featuregen.config import Noise


def noise(task: AttackProblem, settings: Noise) -> Tensor:
    """The first of `tries` changes of the full radius (in Linf, corners) that reaches the goal, else the worst."""

    def change(part: AttackProblem, _: int, count: int) -> Tensor:
        shape = (count, *part.images.shape[1:])
        drawn = part.draws.signs(*shape) if settings.norm == "linf" else part.draws.normal(*shape)
        centre = part.images.repeat_interleave(count, 0)
        offset = drawn.flatten(0, 1).to(centre.dtype)
        size = settings.eps if settings.norm == "linf" else settings.eps / image_norms(offset)
        return project(centre + offset * size, Ball(settings.norm, settings.eps, centre))

    return first_success(task, settings.tries, change)
