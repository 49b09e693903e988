"""Random changes of the same size: what an attack has to beat."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from featuregen.attacks.goals import Goal
from featuregen.config.attacks import Noise
from featuregen.optimize import Ball, fixed, image_norms, project


def noise(
    model: nn.Module, images: Tensor, goal: Goal, settings: Noise, generator: torch.Generator | None = None
) -> Tensor:
    """The worst of `tries` changes drawn evenly from the ball's border, clamped to [0, 1]."""
    ball = Ball(settings.norm, settings.eps, images)
    best, gain = images.clone(), torch.full((len(images),), -torch.inf, device=images.device)
    lost = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    with fixed(model), torch.no_grad():
        for _ in range(settings.tries):
            tried = project(images + _border(ball, generator), ball)
            logits = model(tried).float()
            reached, loss = goal.reached(logits), goal.loss(logits)
            better = (reached & ~lost) | ((reached == lost) & (loss > gain))
            best = torch.where(better.view(-1, 1, 1, 1), tried, best)
            gain, lost = torch.where(better, loss, gain), lost | reached
    return best


def _border(ball: Ball, generator: torch.Generator | None) -> Tensor:
    if ball.norm == "linf":
        drawn = torch.randint(0, 2, ball.centre.shape, generator=generator, device=ball.centre.device)
        return ball.eps * (drawn * 2 - 1).to(ball.centre.dtype)
    drawn = torch.randn(ball.centre.shape, generator=generator, device=ball.centre.device)
    return ball.eps * drawn / image_norms(drawn)
