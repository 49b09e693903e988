"""Projected gradient descent (Madry et al. 2018), targeted or not, in L2 and Linf; one step of it is FGSM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featuregen.attacks.criterion import Criterion
from featuregen.attacks.problem import AttackProblem, at_least_float32
from featuregen.attacks.registry import register_attack
from featuregen.compute.optimize import Ball, frozen_eval, image_norms, move_pixels, step_sizes
from featuregen.config.schema import PGD, Norm, bounded
from featuregen.runtime.device import autocast
from featuregen.runtime.rng import RowDraws

Draw = Callable[..., Tensor]


@dataclass(frozen=True)
class FGSM:
    """One step as long as the radius."""

    norm: Norm = "linf"
    eps: float = bounded(8 / 255, low=0)


@dataclass(frozen=True)
class PGDSettings(PGD):
    """Projected gradient steps, with momentum; restarts after the first begin at random places."""

    norm: Norm = "linf"
    eps: float = bounded(8 / 255, low=0)
    momentum: float = bounded(0.0, low=0, high=0.999)


def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    settings: PGD,
    *,
    targets: Tensor | None = None,
    generator: torch.Generator | RowDraws | None = None,
    precision: str = "fp32",
    momentum: float = 0.0,
) -> Tensor:
    """Images within the ball that the model should misclassify, or classify as `targets`.

    With restarts, each image keeps its best attempt: one that meets the criterion before any that does not, then the
    one of highest loss (lowest, towards a target). With `momentum`, a step repeats that share of the step before it.
    """
    criterion = Criterion(labels) if targets is None else Criterion(targets, targeted=True)

    def logits(x: Tensor) -> Tensor:
        with autocast(x.device, precision):
            output: Tensor = model(x)
        return at_least_float32(output)

    def loss(x: Tensor) -> Tensor:
        return F.cross_entropy(logits(x), criterion.classes, reduction="none")

    if settings.eps == 0:
        return images.detach().clone()
    ball = Ball(settings.norm, settings.eps, images)
    sizes = step_sizes(settings.step_size or 2.5 * settings.eps / settings.steps, settings.steps, "constant")
    with frozen_eval(model):
        best = images
        for attempt in range(settings.restarts):
            # The first attempt starts at the image itself unless asked otherwise, so restarts only ever add strength.
            start = random_in_ball(ball, generator) if settings.random_start or attempt > 0 else images
            x = move_pixels(
                start, loss, sizes=sizes, norm=settings.norm, ball=ball, ascend=targets is None, momentum=momentum
            )
            if settings.restarts == 1:
                return x
            with torch.no_grad():
                output = logits(x)
            met, attempt_loss = criterion.is_met(output), criterion.loss(output)
            if attempt == 0:
                best, best_met, best_loss = x, met, attempt_loss
                continue
            better = (met & ~best_met) | ((met == best_met) & (attempt_loss > best_loss))
            best = torch.where(better.view(-1, 1, 1, 1), x, best)
            best_loss, best_met = torch.where(better, attempt_loss, best_loss), met | best_met
    return best


@register_attack(
    "fgsm", settings=FGSM, meaning="one step along the gradient, of its sign in Linf (Goodfellow et al. 2015)"
)
def _run_fgsm(problem: AttackProblem, settings: FGSM) -> Tensor:
    return _run_pgd(problem, PGDSettings(settings.norm, settings.eps, steps=1, step_size=settings.eps))


@register_attack("pgd", settings=PGDSettings, meaning="projected gradient steps (Madry et al. 2018)")
def _run_pgd(problem: AttackProblem, settings: PGDSettings) -> Tensor:
    classes = problem.criterion.classes
    return pgd(
        problem.model,
        problem.images,
        classes,
        settings,
        targets=classes if problem.criterion.targeted else None,
        generator=problem.draws,
        momentum=settings.momentum,
    )


def random_in_ball(ball: Ball, generator: torch.Generator | RowDraws | None = None) -> Tensor:
    """A point drawn uniformly from each image's ball, clamped to [0, 1]."""
    centre = ball.centre
    uniform, normal = _draws(centre, generator)
    if ball.norm == "linf":
        offset = (uniform(*centre.shape[1:]) * 2 - 1) * ball.eps
        return (centre + offset).clamp(0, 1)
    direction = normal(*centre.shape[1:])
    radius = uniform(1, 1, 1)
    radius = ball.eps * radius ** (1 / centre[0].numel())
    return (centre + direction * radius / image_norms(direction)).clamp(0, 1)


def _draws(like: Tensor, generator: torch.Generator | RowDraws | None) -> tuple[Draw, Draw]:
    """Functions that draw uniform and standard normal numbers for each image."""
    if isinstance(generator, RowDraws):
        return generator.uniform, generator.normal

    def uniform(*shape: int) -> Tensor:
        return torch.rand((len(like), *shape), generator=generator, device=like.device)

    def normal(*shape: int) -> Tensor:
        return torch.randn((len(like), *shape), generator=generator, device=like.device)

    return uniform, normal
