"""Projected gradient descent, L2 and Linf; one step of it is FGSM."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featuregen.config import Attack
from featuregen.optimize import Ball, fixed, image_norms, move_pixels, step_sizes
from featuregen.runtime import autocast


def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    *,
    targets: Tensor | None = None,
    generator: torch.Generator | None = None,
    precision: str = "fp32",
) -> Tensor:
    """Images within the attack's ball that the model should get wrong, or call `targets` where given.

    With restarts, each image keeps its best attempt: the one of highest loss (lowest, towards a target).
    """
    goal = labels if targets is None else targets
    ascend = targets is None

    def loss(x: Tensor) -> Tensor:
        with autocast(x.device, precision):
            logits = model(x)
        return F.cross_entropy(logits.float(), goal, reduction="none")

    if attack.eps == 0:
        return images.detach().clone()
    ball = Ball(attack.norm, attack.eps, images)
    sizes = step_sizes(attack.step_size or 2.5 * attack.eps / attack.steps, attack.steps, "constant")
    with fixed(model):
        best: Tensor | None = None
        for attempt in range(attack.restarts):
            # The first attempt starts at the image itself unless asked otherwise, so restarts only ever add strength.
            wander = attack.random_start or attempt > 0
            start = random_in_ball(ball, generator) if wander else images
            found = move_pixels(start, loss, sizes=sizes, norm=attack.norm, ball=ball, ascend=ascend)
            if attack.restarts == 1:
                return found
            with torch.no_grad():
                gain = loss(found) if ascend else -loss(found)
                if best is None:
                    best, best_gain = found, gain
                else:
                    better = gain > best_gain
                    best = torch.where(better.view(-1, 1, 1, 1), found, best)
                    best_gain = torch.maximum(gain, best_gain)
    assert best is not None
    return best


def random_in_ball(ball: Ball, generator: torch.Generator | None = None) -> Tensor:
    """A point drawn evenly from each image's ball, clamped to [0, 1]."""
    centre = ball.centre
    if ball.norm == "linf":
        offset = (torch.rand(centre.shape, generator=generator, device=centre.device) * 2 - 1) * ball.eps
        return (centre + offset).clamp(0, 1)
    direction = torch.randn(centre.shape, generator=generator, device=centre.device)
    radius = torch.rand((len(centre), 1, 1, 1), generator=generator, device=centre.device)
    radius = ball.eps * radius ** (1 / centre[0].numel())
    return (centre + direction * radius / image_norms(direction)).clamp(0, 1)
