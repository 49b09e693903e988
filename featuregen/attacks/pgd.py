"""Projected gradient descent, L2 and Linf; one step of it is FGSM."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featuregen.attacks.criterion import Criterion
from featuregen.attacks.problem import at_least_single
from featuregen.compute import Ball, frozen_eval, image_norms, move_pixels, step_sizes
from featuregen.config import Attack
from featuregen.runtime import RowDraws, autocast

Draw = Callable[..., Tensor]


def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    *,
    targets: Tensor | None = None,
    generator: torch.Generator | RowDraws | None = None,
    precision: str = "fp32",
    momentum: float = 0.0,
) -> Tensor:
    """Images within the attack's ball that the model should get wrong, or call `targets` where given.

    With restarts, each image keeps its best attempt: one that the model gets wrong (or calls the target) before any
    that it does not, then the one of highest loss (lowest, towards a target). With `momentum`, a step also repeats that
    share of what the step before it changed.
    """
    goal = Criterion(labels) if targets is None else Criterion(targets, targeted=True)
    ascend = targets is None

    def logits(x: Tensor) -> Tensor:
        with autocast(x.device, precision):
            seen: Tensor = model(x)
        return at_least_single(seen)

    def loss(x: Tensor) -> Tensor:
        return F.cross_entropy(logits(x), goal.classes, reduction="none")

    if attack.eps == 0:
        return images.detach().clone()
    ball = Ball(attack.norm, attack.eps, images)
    sizes = step_sizes(attack.step_size or 2.5 * attack.eps / attack.steps, attack.steps, "constant")
    with frozen_eval(model):
        best: Tensor | None = None
        for attempt in range(attack.restarts):
            # The first attempt starts at the image itself unless asked otherwise, so restarts only ever add strength.
            wander = attack.random_start or attempt > 0
            start = random_in_ball(ball, generator) if wander else images
            found = move_pixels(start, loss, sizes=sizes, norm=attack.norm, ball=ball, ascend=ascend, momentum=momentum)
            if attack.restarts == 1:
                return found
            with torch.no_grad():
                seen = logits(found)
            there, gain = goal.reached(seen), goal.loss(seen)
            if best is None:
                best, best_there, best_gain = found, there, gain
                continue
            better = (there & ~best_there) | ((there == best_there) & (gain > best_gain))
            best = torch.where(better.view(-1, 1, 1, 1), found, best)
            best_gain, best_there = torch.where(better, gain, best_gain), there | best_there
    assert best is not None
    return best


def random_in_ball(ball: Ball, generator: torch.Generator | RowDraws | None = None) -> Tensor:
    """A point drawn evenly from each image's ball, clamped to [0, 1]."""
    centre = ball.centre
    uniform, normal = _drawing(centre, generator)
    if ball.norm == "linf":
        offset = (uniform(*centre.shape[1:]) * 2 - 1) * ball.eps
        return (centre + offset).clamp(0, 1)
    direction = normal(*centre.shape[1:])
    radius = uniform(1, 1, 1)
    radius = ball.eps * radius ** (1 / centre[0].numel())
    return (centre + direction * radius / image_norms(direction)).clamp(0, 1)


def _drawing(like: Tensor, generator: torch.Generator | RowDraws | None) -> tuple[Draw, Draw]:
    """Uniform and standard normal numbers, so many for each image."""
    if isinstance(generator, RowDraws):
        return generator.uniform, generator.normal

    def uniform(*shape: int) -> Tensor:
        return torch.rand((len(like), *shape), generator=generator, device=like.device)

    def normal(*shape: int) -> Tensor:
        return torch.randn((len(like), *shape), generator=generator, device=like.device)

    return uniform, normal
