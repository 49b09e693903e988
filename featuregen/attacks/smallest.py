"""The smallest change that reaches a goal: fast minimum-norm (Pintor et al. 2021), and Szegedy's L-BFGS."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featuregen.attacks.goals import Goal
from featuregen.config import BoxedLBFGS, Smallest
from featuregen.optimize import TINY, fixed, image_norms

_FIRST_STEP, _LAST_STEP = 1.0, 0.01
_FIRST_SHRINK, _LAST_SHRINK = 0.05, 1e-3


def reach(offset: Tensor, norm: str) -> Tensor:
    """The size of every image's change."""
    flat = offset.flatten(1)
    return flat.abs().amax(1) if norm == "linf" else flat.norm(dim=1)


def smallest(
    model: nn.Module, images: Tensor, goal: Goal, settings: Smallest, generator: torch.Generator | None = None
) -> Tensor:
    """The ball around each image grows while its goal is not reached and shrinks while it is.

    An image whose goal is never reached stays as it is.
    """
    with fixed(model):
        offset, radius = torch.zeros_like(images), torch.full((len(images),), math.inf, device=images.device)
        best, least = images.clone(), radius.clone()
        for step in range(settings.steps + 1):
            share = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
            shrink = _LAST_SHRINK + (_FIRST_SHRINK - _LAST_SHRINK) * share
            length = _LAST_STEP + (_FIRST_STEP - _LAST_STEP) * share
            margin, gradient = _margin(model, images + offset, goal)
            with torch.no_grad():
                size, there = reach(offset, settings.norm), margin < 0
                shorter = there & (size < least)
                best = torch.where(shorter.view(-1, 1, 1, 1), images + offset, best)
                least = torch.where(shorter, size, least)
                # Before the first success, as far as the linear model says; afterwards in small steps.
                dual = gradient.flatten(1).norm(p=1 if settings.norm == "linf" else 2, dim=1).clamp_min(TINY)
                grown = torch.where(least.isinf(), size + margin / dual, radius * (1 + shrink))
                radius = torch.where(there, torch.minimum(radius * (1 - shrink), least), grown)
                offset = offset - length * gradient / image_norms(gradient).clamp_min(TINY)
                offset = _within(offset, radius, settings.norm)
                offset = (images + offset).clamp(0, 1) - images
    return best


def _margin(model: nn.Module, x: Tensor, goal: Goal) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        pixels = x.detach().requires_grad_(True)
        margin = goal.margin(model(pixels).float())
        (gradient,) = torch.autograd.grad(margin.sum(), pixels)
    return margin.detach(), gradient


def _within(offset: Tensor, radius: Tensor, norm: str) -> Tensor:
    limit = radius.view(-1, 1, 1, 1)
    if norm == "linf":
        return torch.minimum(torch.maximum(offset, -limit), limit)
    return offset * (limit / image_norms(offset).clamp_min(TINY)).clamp_max(1)


# Szegedy et al. 2014 -------------------------------------------------------------------------------


def boxed_lbfgs(
    model: nn.Module, images: Tensor, goal: Goal, settings: BoxedLBFGS, generator: torch.Generator | None = None
) -> Tensor:
    """min c·|r|² + loss(x + r, class) over the box, with the largest c that still reaches the class.

    Without a given class it is the one the model holds for the next likely. Every image has a search of its own, and all
    are evaluated together.
    """
    with fixed(model):
        classes = goal.classes if goal.targeted else _runner_up(model, images, goal.classes)
        wanted = Goal(classes, targeted=True)
        low = torch.zeros(len(images), device=images.device)
        high = torch.full_like(low, math.inf)
        weight = torch.full_like(low, settings.weight)
        best, least = images.clone(), high.clone()
        for _ in range(settings.searches):
            x = _minimised(model, images, classes, weight, settings.steps)
            with torch.no_grad():
                there, size = wanted.reached(model(x).float()), reach(x - images, "l2")
                shorter = there & (size < least)
                best = torch.where(shorter.view(-1, 1, 1, 1), x, best)
                least = torch.where(shorter, size, least)
                # Where the class is reached, distance may weigh more.
                low, high = torch.where(there, weight, low), torch.where(there, high, weight)
                weight = torch.where(high.isinf(), weight * 4, torch.where(low == 0, weight / 4, (low * high).sqrt()))
    return best


@torch.no_grad()
def _runner_up(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    return model(images).float().scatter(1, classes.view(-1, 1), -torch.inf).argmax(1)


def _minimised(model: nn.Module, images: Tensor, classes: Tensor, weight: Tensor, steps: int) -> Tensor:
    """Projected L-BFGS, image by image in its numbers and all together in its passes."""

    def evaluate(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            pixels = x.detach().requires_grad_(True)
            entropy = F.cross_entropy(model(pixels).float(), classes, reduction="none")
            value = weight * (pixels - images).flatten(1).square().sum(1) + entropy
            (gradient,) = torch.autograd.grad(value.sum(), pixels)
        return value.detach(), gradient

    x = images.clone()
    value, gradient = evaluate(x)
    memory: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(steps):
        # A pixel at its border that would leave the box does not count.
        held = ((x <= 0) & (gradient > 0)) | ((x >= 1) & (gradient < 0))
        free = gradient.masked_fill(held, 0)
        direction = _two_loops(free.flatten(1), memory).view_as(x).masked_fill(held, 0)
        x, value, gradient = _line_search(evaluate, x, value, gradient, direction, memory)
    return x


def _two_loops(gradient: Tensor, memory: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """-H·gradient by Nocedal's recursion; the first step has the length of one pixel's range at most."""
    q, alphas = gradient.clone(), []
    for s, y, inverse in reversed(memory):
        alpha = inverse * (s * q).sum(1)
        q -= alpha.unsqueeze(1) * y
        alphas.append(alpha)
    if memory:
        s, y, inverse = memory[-1]
        scale = torch.where(inverse > 0, 1 / (inverse * y.square().sum(1)).clamp_min(TINY), torch.ones_like(inverse))
        q *= scale.unsqueeze(1)
    else:
        q /= q.norm(dim=1, keepdim=True).clamp_min(1.0)
    for (s, y, inverse), alpha in zip(memory, reversed(alphas), strict=True):
        q += (alpha - inverse * (y * q).sum(1)).unsqueeze(1) * s
    return -q


_HALVINGS, _ENOUGH, _REMEMBERED = 6, 1e-4, 8


def _line_search(evaluate, x, value, gradient, direction, memory):  # type: ignore[no-untyped-def]
    length = torch.ones(len(x), 1, 1, 1, device=x.device)
    slope = (gradient * direction).flatten(1).sum(1)
    for _ in range(_HALVINGS):
        tried = (x + length * direction).clamp(0, 1)
        tried_value, tried_gradient = evaluate(tried)
        good = tried_value <= value + _ENOUGH * length.flatten() * slope
        if good.all():
            break
        length = torch.where(good.view(-1, 1, 1, 1), length, length / 2)
    keep = tried_value < value
    where = keep.view(-1, 1, 1, 1)
    new, new_gradient = torch.where(where, tried, x), torch.where(where, tried_gradient, gradient)
    s, y = (new - x).flatten(1), (new_gradient - gradient).flatten(1)
    product = (s * y).sum(1)
    # A pair without curvature says nothing and must not be divided by.
    memory.append((s, y, torch.where(product > 1e-10, 1 / product.clamp_min(1e-10), torch.zeros_like(product))))
    del memory[:-_REMEMBERED]
    return new, torch.where(keep, tried_value, value), new_gradient
