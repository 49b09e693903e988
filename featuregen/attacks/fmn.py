"""The smallest change that reaches a goal: fast minimum-norm (Pintor et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from featuregen.attacks.problem import AttackProblem, where
from featuregen.compute import TINY, image_norms, steepest
from featuregen.config import FMN, Norm

# Of the radius, and of the radius by which it grows and shrinks, as in the paper but for what a step is measured by.
_FIRST_STEP, _LAST_STEP = 0.5, 0.02
_FIRST_SHRINK, _LAST_SHRINK = 0.05, 1e-3
_HARDEST = 0.05
_HALVINGS = 8


def reach(offset: Tensor, norm: Norm) -> Tensor:
    """The size of every image's change."""
    flat = offset.flatten(1)
    return flat.abs().amax(1) if norm == "linf" else flat.norm(dim=1)


def fmn(task: AttackProblem, settings: FMN) -> Tensor:
    """The ball around each image grows while its goal is not reached and shrinks while it is.

    Unlike in the paper, all the other classes pull to begin with and only the nearest at the end, pixels that the box
    holds back have no part in a step, and steps are measured by the radius: so the changes come out smaller. An image
    whose goal is never reached stays as it is.
    """
    return nearest(task, lambda part: _shortest(part, settings))


def _shortest(task: AttackProblem, settings: FMN) -> Tensor:
    images, norm = task.images, settings.norm
    offset, radius = torch.zeros_like(images), torch.full_like(images[:, 0, 0, 0], torch.inf)
    best, least, whole = images, radius, math.sqrt(images[0].numel())
    for step in range(settings.steps + 1):
        share = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        shrink = _LAST_SHRINK + (_FIRST_SHRINK - _LAST_SHRINK) * share
        length = _LAST_STEP + (_FIRST_STEP - _LAST_STEP) * share
        softness, x = max(1 - step / settings.steps, _HARDEST), images + offset
        _, gradient, logits = task.value_and_grad(x, partial(task.goal.soft_margin, softness=softness))
        size, there = reach(offset, norm), task.goal.clearly_reached(logits)
        shorter = there & (size < least)
        best, least = where(shorter, x, best), torch.where(shorter, size, least)
        gradient = gradient.masked_fill(keep_inside_box(x, gradient), 0)
        # Before the first success, a little further than the linear model says; afterwards in small steps.
        dual = gradient.flatten(1).norm(p=1 if norm == "linf" else 2, dim=1).clamp_min(TINY)
        grown = torch.where(least.isinf(), size + task.goal.margin(logits).abs() / dual, radius) * (1 + shrink)
        radius = torch.where(there, torch.minimum(radius * (1 - shrink), least), grown)
        reached = (radius if norm == "l2" else radius * whole).clamp_max(whole).view(-1, 1, 1, 1)
        offset = _within(offset - length * reached * steepest(gradient, "l2"), radius, norm)
        offset = (images + offset).clamp(0, 1) - images
    return best


def _within(offset: Tensor, radius: Tensor, norm: Norm) -> Tensor:
    limit = radius.view(-1, 1, 1, 1)
    if norm == "linf":
        return torch.minimum(torch.maximum(offset, -limit), limit)
    return offset * (limit / image_norms(offset).clamp_min(TINY)).clamp_max(1)


def nearest(task: AttackProblem, search: Callable[[AttackProblem], Tensor]) -> Tensor:
    """What a search finds for the images that still stand, drawn back towards these as far as the goal allows."""
    found, rows = task.images.clone(), task.unsolved()
    if len(rows):
        part = task[rows]
        found[rows] = shrink_to_boundary(part, search(part))
    return found


def keep_inside_box(x: Tensor, gradient: Tensor) -> Tensor:
    """The pixels that a step down the gradient cannot move, since they are at the border of the range."""
    return ((x <= 0) & (gradient > 0)) | ((x >= 1) & (gradient < 0))


def shrink_to_boundary(task: AttackProblem, found: Tensor) -> Tensor:
    """Each changed image halfway back to where it came from, again and again, as long as that reaches the goal."""
    change, near, far = found - task.images, torch.zeros_like(found[:, 0, 0, 0]), torch.ones_like(found[:, 0, 0, 0])
    for _ in range(_HALVINGS):
        middle = (near + far) / 2
        x = (task.images + middle.view(-1, 1, 1, 1) * change).clamp(0, 1)
        there = task.goal.clearly_reached(task.logits(x))
        found = where(there, x, found)
        near, far = torch.where(there, near, middle), torch.where(there, middle, far)
    return found
