"""The smallest change in L2 by L-BFGS inside the box (Szegedy et al. 2014)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from featuregen.attacks.fmn import keep_inside_box, nearest, reach
from featuregen.attacks.problem import AttackProblem, where
from featuregen.config import BoxedLBFGS

# Of the search for a weight: how far it jumps until one weight is too large and one is not.
_JUMP = 4.0
_REMEMBERED, _FLAT = 8, 1e-6
_BACKTRACKS, _ENOUGH, _STILL = 8, 1e-4, 1e-6
# Of rows of images: their objective and its gradient.
Evaluate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def boxed_lbfgs(task: AttackProblem, settings: BoxedLBFGS) -> Tensor:
    """min c·|r|² + cross-entropy(x + r, goal) over the box, with the largest c that still reaches the goal.

    Without a given class the goal is any but the image's own, so that the walk is free to choose: towards the next
    likely one alone, changes came out 9 % larger. Every image has a search of its own, and all are evaluated together.
    An image whose goal is never reached stays as it is.
    """
    return nearest(task, lambda part: _searched(part, settings))


def _searched(task: AttackProblem, settings: BoxedLBFGS) -> Tensor:
    images, goal = task.images, task.goal
    low = torch.zeros_like(images[:, 0, 0, 0])
    high = torch.full_like(low, torch.inf)
    weight, best, least = torch.full_like(low, settings.weight), images, high
    for _ in range(settings.searches):
        x = minimised(task, weight, settings.steps)
        there, size = goal.clearly_reached(task.logits(x)), reach(x - images, "l2")
        shorter = there & (size < least)
        best, least = where(shorter, x, best), torch.where(shorter, size, least)
        # Where the goal is reached, distance may weigh more.
        low, high = torch.where(there, weight, low), torch.where(there, high, weight)
        middle = torch.where(low == 0, weight / _JUMP, (low * high).sqrt())
        weight = torch.where(high.isinf(), weight * _JUMP, middle)
    return best


def minimised(task: AttackProblem, weight: Tensor, steps: int) -> Tensor:
    """weight·|x - image|² + cross-entropy(x, goal), by projected L-BFGS from the image on."""

    def evaluate(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        offset, goal, heavy = x - task.images[rows], task.goal[rows], weight[rows]
        # Of the goal against all else: with a class to reach, its cross-entropy.
        values, gradient, _ = task.value_and_grad(x, lambda logits: F.softplus(goal.soft_margin(logits, 1)))
        values = values + heavy * offset.flatten(1).square().sum(1)
        return values, gradient + 2 * heavy.view(-1, 1, 1, 1) * offset

    found, rows = task.images.clone(), torch.arange(len(task), device=task.images.device)
    at, memory = _Place(found, *evaluate(found, rows)), _Memory()
    for _ in range(steps):
        # Pixels that the box holds back are left out of the step, as Bertsekas (1982) does it.
        held = keep_inside_box(at.x, at.gradient)
        direction = memory.downhill(at.gradient.masked_fill(held, 0)).masked_fill(held, 0)
        ahead, moved = _line_search(evaluate, at, rows, direction)
        memory.add(ahead.x - at.x, ahead.gradient - at.gradient)
        found[rows] = ahead.x
        going = moved & (at.value - ahead.value > _STILL * ahead.value)
        at, rows, memory = ahead[going], rows[going], memory[going]
        if not len(rows):
            break
    return found


@dataclass(frozen=True)
class _Place:
    x: Tensor
    value: Tensor
    gradient: Tensor

    def __getitem__(self, rows: Tensor) -> _Place:
        return _Place(self.x[rows], self.value[rows], self.gradient[rows])


def _line_search(evaluate: Evaluate, at: _Place, rows: Tensor, direction: Tensor) -> tuple[_Place, Tensor]:
    """Along each direction, bent by the box, half as far until it is lower by enough; and who got lower."""
    x, value, gradient = at.x.clone(), at.value.clone(), at.gradient.clone()
    moved, length = torch.zeros_like(value, dtype=torch.bool), 1.0
    for _ in range(_BACKTRACKS):
        left = (~moved).nonzero().flatten()
        if not len(left):
            break
        old = at[left]
        tried = (old.x + length * direction[left]).clamp(0, 1)
        new_value, new_gradient = evaluate(tried, rows[left])
        promised = (old.gradient * (tried - old.x)).flatten(1).sum(1)
        lower = (new_value < old.value) & (new_value <= old.value + _ENOUGH * promised)
        there = left[lower]
        x[there], value[there], gradient[there], moved[there] = (
            tried[lower],
            new_value[lower],
            new_gradient[lower],
            True,
        )
        length /= 2
    return _Place(x, value, gradient), moved


class _Memory:
    """The last steps of every image and how the gradient changed on them (Nocedal 1980)."""

    def __init__(self, pairs: Sequence[tuple[Tensor, Tensor, Tensor]] = (), scale: Tensor | None = None) -> None:
        self._pairs = list(pairs)
        self._scale = scale

    def __getitem__(self, rows: Tensor) -> _Memory:
        pairs = [(s[rows], y[rows], inverse[rows]) for s, y, inverse in self._pairs]
        return _Memory(pairs, None if self._scale is None else self._scale[rows])

    def add(self, step: Tensor, change: Tensor) -> None:
        s, y = step.flatten(1), change.flatten(1)
        product, squared = (s * y).sum(1), y.square().sum(1)
        # A pair without curvature says nothing and must not be divided by.
        says = product > _FLAT * s.norm(dim=1) * squared.sqrt()
        inverse = torch.where(says, 1 / product, torch.zeros_like(product))
        assert self._scale is not None
        self._scale = torch.where(says, product / squared, self._scale)
        self._pairs = [*self._pairs, (s, y, inverse)][-_REMEMBERED:]

    def downhill(self, gradient: Tensor) -> Tensor:
        """Minus the gradient, stretched by what is known of the curvature."""
        q, alphas = gradient.flatten(1), []
        if self._scale is None:
            # Of nothing known, a step no longer than one pixel's range.
            self._scale = 1 / q.norm(dim=1).clamp_min(1)
        for s, y, inverse in reversed(self._pairs):
            alpha = inverse * (s * q).sum(1)
            q = q - alpha.unsqueeze(1) * y
            alphas.append(alpha)
        q = q * self._scale.unsqueeze(1)
        for (s, y, inverse), alpha in zip(self._pairs, reversed(alphas), strict=True):
            q = q + (alpha - inverse * (y * q).sum(1)).unsqueeze(1) * s
        return -q.view_as(gradient)
