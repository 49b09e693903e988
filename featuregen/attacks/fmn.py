"""Fast minimum-norm (Pintor et al. 2021): the smallest perturbation that meets the criterion, in L2 or Linf."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from featuregen.attacks.problem import AttackProblem, where_images
from featuregen.attacks.registry import register_attack
from featuregen.compute.optimize import TINY, image_norms, steepest
from featuregen.config.schema import Norm, bounded

# Step sizes and changes of the radius, as shares of the radius, which the paper takes of the first step.
_FIRST_STEP, _LAST_STEP = 0.5, 0.02
_FIRST_SHRINK, _LAST_SHRINK = 0.05, 1e-3
_LOWEST_SOFTNESS = 0.05
_BISECTIONS = 8


@dataclass(frozen=True)
class FMN:
    """The norm to minimise, and the number of gradient steps."""

    norm: Norm = "l2"
    steps: int = bounded(100, low=1)


def perturbation_size(perturbation: Tensor, norm: Norm) -> Tensor:
    """The norm of every image's perturbation, (N,)."""
    flat = perturbation.flatten(1)
    return flat.abs().amax(1) if norm == "linf" else flat.norm(dim=1)


@register_attack("smallest", settings=FMN, meaning="minimal perturbation in L2 or Linf (FMN, Pintor et al. 2021)")
def fmn(problem: AttackProblem, settings: FMN) -> Tensor:
    """The ball around each image grows until the criterion is met in it and shrinks while it is.

    Three changes to the paper make perturbations smaller: the loss begins with all other classes and ends with the
    nearest alone, steps leave out pixels that they would push out of [0, 1], and step sizes are shares of the radius.
    """
    return minimal_perturbation(problem, lambda left: _search(left, settings))


def _search(problem: AttackProblem, settings: FMN) -> Tensor:
    images, norm, criterion = problem.images, settings.norm, problem.criterion
    offset, radius = torch.zeros_like(images), torch.full_like(images[:, 0, 0, 0], torch.inf)
    best, best_size, diagonal = images, radius, math.sqrt(images[0].numel())
    for step in range(settings.steps + 1):
        annealed = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        shrink = _LAST_SHRINK + (_FIRST_SHRINK - _LAST_SHRINK) * annealed
        step_size = _LAST_STEP + (_FIRST_STEP - _LAST_STEP) * annealed
        softness, x = max(1 - step / settings.steps, _LOWEST_SOFTNESS), images + offset
        _, gradient, logits = problem.value_and_grad(x, partial(criterion.soft_margin, softness=softness))
        size, met = perturbation_size(offset, norm), criterion.clearly_met(logits)
        smaller = met & (size < best_size)
        best, best_size = where_images(smaller, x, best), torch.where(smaller, size, best_size)
        gradient = gradient.masked_fill(blocked_by_range(x, gradient), 0)
        # Before the first success, a little further than the linear model says; afterwards in small steps.
        dual = gradient.flatten(1).norm(p=1 if norm == "linf" else 2, dim=1).clamp_min(TINY)
        grown = torch.where(best_size.isinf(), size + criterion.margin(logits).abs() / dual, radius) * (1 + shrink)
        radius = torch.where(met, torch.minimum(radius * (1 - shrink), best_size), grown)
        in_l2 = (radius if norm == "l2" else radius * diagonal).clamp_max(diagonal).view(-1, 1, 1, 1)
        offset = _clip(offset - step_size * in_l2 * steepest(gradient, "l2"), radius, norm)
        offset = (images + offset).clamp(0, 1) - images
    return best


def _clip(offset: Tensor, radius: Tensor, norm: Norm) -> Tensor:
    """Each perturbation within the radius of its image."""
    limit = radius.view(-1, 1, 1, 1)
    if norm == "linf":
        return torch.minimum(torch.maximum(offset, -limit), limit)
    return offset * (limit / image_norms(offset).clamp_min(TINY)).clamp_max(1)


def minimal_perturbation(problem: AttackProblem, search: Callable[[AttackProblem], Tensor]) -> Tensor:
    """A search run on the unsolved images, each result drawn back towards its image; unsolved ones stay unchanged."""
    best, rows = problem.images.clone(), problem.unsolved()
    if len(rows):
        left = problem[rows]
        best[rows] = shrink_to_boundary(left, search(left))
    return best


def blocked_by_range(x: Tensor, gradient: Tensor) -> Tensor:
    """The pixels that a step down the gradient would push out of [0, 1]."""
    return ((x <= 0) & (gradient > 0)) | ((x >= 1) & (gradient < 0))


def shrink_to_boundary(problem: AttackProblem, adversarial: Tensor) -> Tensor:
    """A bisection between each image and its adversarial image for the nearest point that meets the criterion."""
    best, change = adversarial, adversarial - problem.images
    near, far = torch.zeros_like(best[:, 0, 0, 0]), torch.ones_like(best[:, 0, 0, 0])
    for _ in range(_BISECTIONS):
        middle = (near + far) / 2
        x = (problem.images + middle.view(-1, 1, 1, 1) * change).clamp(0, 1)
        met = problem.criterion.clearly_met(problem.logits(x))
        best = where_images(met, x, best)
        near, far = torch.where(met, near, middle), torch.where(met, middle, far)
    return best
