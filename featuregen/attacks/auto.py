"""Auto-PGD (Croce & Hein 2020): steps that halve themselves, on cross-entropy or the difference of logits ratio."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from featuregen.attacks.goals import Goal
from featuregen.attacks.pgd import random_in_ball
from featuregen.config import AutoPGD
from featuregen.optimize import Ball, fixed, project, steepest

_MOMENTUM, _RISES = 0.75, 0.75
Loss = Callable[[Tensor], Tensor]


def auto_pgd(
    model: nn.Module, images: Tensor, goal: Goal, settings: AutoPGD, generator: torch.Generator | None = None
) -> Tensor:
    """The best of `restarts` walks for each image: one that reaches the goal, else the one of highest loss."""
    with fixed(model):
        best, lost = images.clone(), goal.reached(model(images).float())
        for attempt in range(settings.restarts):
            rows = (~lost).nonzero().flatten()
            if not len(rows):
                break
            ball = Ball(settings.norm, settings.eps, images[rows])
            start = random_in_ball(ball, generator) if attempt or settings.random_start else images[rows]
            found, reached = _walk(model, start, goal[rows], ball, settings)
            better = reached | (torch.tensor(attempt == 0, device=reached.device))
            best[rows[better]] = found[better]
            lost[rows[reached]] = True
    return best


def checkpoints(steps: int) -> list[int]:
    """After which steps the length is reconsidered: at 22 % of them, then ever more often."""
    shares, gap = [0.0, 0.22], 0.22
    while shares[-1] < 1:
        gap = max(gap - 0.03, 0.06)
        shares.append(shares[-1] + gap)
    return sorted({round(share * steps) for share in shares if 0 < share < 1})


def _walk(model: nn.Module, start: Tensor, goal: Goal, ball: Ball, settings: AutoPGD) -> tuple[Tensor, Tensor]:
    def evaluate(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            pixels = x.detach().requires_grad_(True)
            logits = model(pixels).float()
            value = goal.loss(logits) if settings.loss == "ce" else dlr(logits, goal)
            (gradient,) = torch.autograd.grad(value.sum(), pixels)
        return value.detach(), gradient, goal.reached(logits.detach())

    ones = (-1, 1, 1, 1)
    value, gradient, reached = evaluate(start)
    x = before = best = start
    highest, best_gradient, success = value, gradient, start
    length = torch.full_like(value, 2 * ball.eps)
    rises, halved, highest_before = torch.zeros_like(value), torch.zeros_like(value, dtype=torch.bool), value
    marks, since = checkpoints(settings.steps), 0
    with torch.no_grad():
        for step in range(1, settings.steps + 1):
            ahead = project(x + length.view(ones) * steepest(gradient, ball.norm), ball)
            if step > 1:
                ahead = project(x + _MOMENTUM * (ahead - x) + (1 - _MOMENTUM) * (x - before), ball)
            before, x = x, ahead
            old = value
            value, gradient, now = evaluate(x)
            success = torch.where((now & ~reached).view(ones), x, success)
            reached = reached | now
            rises += value > old
            risen = value > highest
            best, best_gradient = torch.where(risen.view(ones), x, best), torch.where(risen.view(ones), gradient, best_gradient)
            highest = torch.maximum(value, highest)
            since += 1
            if step in marks:
                slow = (rises < _RISES * since) | (~halved & (highest <= highest_before))
                length = torch.where(slow, length / 2, length)
                x, gradient = torch.where(slow.view(ones), best, x), torch.where(slow.view(ones), best_gradient, gradient)
                value = torch.where(slow, highest, value)
                halved, highest_before = slow, highest
                rises, since = torch.zeros_like(rises), 0
    return torch.where(reached.view(ones), success, best), reached


def dlr(logits: Tensor, goal: Goal) -> Tensor:
    """Difference of logits ratio, which no scaling of the logits changes; targeted in its second form."""
    ordered = logits.sort(1, descending=True).values
    own = logits.gather(1, goal.classes.view(-1, 1)).squeeze(1)
    if not goal.targeted:
        other = torch.where(own == ordered[:, 0], ordered[:, 1], ordered[:, 0])
        return (other - own) / (ordered[:, 0] - ordered[:, 2]).clamp_min(1e-12)
    # Away from the class the model sees now, towards the one that is wanted.
    scale = ordered[:, 0] - 0.5 * (ordered[:, 2] + ordered[:, min(3, logits.shape[1] - 1)])
    return (own - ordered[:, 0]) / scale.clamp_min(1e-12)
