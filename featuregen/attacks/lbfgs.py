"""The smallest perturbation in L2 by box-constrained L-BFGS (Szegedy et al. 2014)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from featuregen.attacks.fmn import blocked_by_range, minimal_perturbation, perturbation_size
from featuregen.attacks.problem import AttackProblem, where_images
from featuregen.attacks.registry import register_attack
from featuregen.config.schema import bounded

# The factor between weights until one is too large and one is not.
_WEIGHT_FACTOR = 4.0
_HISTORY, _LEAST_CURVATURE = 8, 1e-6
_BACKTRACKS, _ARMIJO, _TOLERANCE = 8, 1e-4, 1e-6
# The objective and its gradient at images, of which the rows are given.
Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class BoxedLBFGS:
    """`searches` weights of distance against loss are tried, from `weight` on, with `steps` steps for each."""

    steps: int = bounded(30, low=1)
    searches: int = bounded(10, low=1)
    weight: float = bounded(1.0, above=0)


@register_attack("lbfgs", settings=BoxedLBFGS, meaning="minimal perturbation in L2 (Szegedy et al. 2014)")
def boxed_lbfgs(problem: AttackProblem, settings: BoxedLBFGS) -> Tensor:
    """min c·|r|² + cross-entropy(x + r) over [0, 1], with the largest c at which the criterion is still met.

    Untargeted, the loss holds all other classes: towards the next likely one alone, perturbations came out 9 % larger.
    Every image has its own weight and line search, and all are evaluated together.
    """
    return minimal_perturbation(problem, lambda left: _search(left, settings))


def _search(problem: AttackProblem, settings: BoxedLBFGS) -> Tensor:
    images, criterion = problem.images, problem.criterion
    low = torch.zeros_like(images[:, 0, 0, 0])
    high = torch.full_like(low, torch.inf)
    weight, best, best_size = torch.full_like(low, settings.weight), images, high
    for _ in range(settings.searches):
        x = minimise(problem, weight, settings.steps)
        met, size = criterion.clearly_met(problem.logits(x)), perturbation_size(x - images, "l2")
        smaller = met & (size < best_size)
        best, best_size = where_images(smaller, x, best), torch.where(smaller, size, best_size)
        # Where the criterion is met, distance may weigh more.
        low, high = torch.where(met, weight, low), torch.where(met, high, weight)
        middle = torch.where(low == 0, weight / _WEIGHT_FACTOR, (low * high).sqrt())
        weight = torch.where(high.isinf(), weight * _WEIGHT_FACTOR, middle)
    return best


def minimise(problem: AttackProblem, weight: Tensor, steps: int) -> Tensor:
    """The images that minimise weight·|x - image|² + cross-entropy, by projected L-BFGS from each image."""

    def objective(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        offset, criterion, weights = x - problem.images[rows], problem.criterion[rows], weight[rows]
        # The criterion against all else; targeted, this is cross-entropy.
        values, gradient, _ = problem.value_and_grad(x, lambda logits: F.softplus(criterion.soft_margin(logits, 1)))
        values = values + weights * offset.flatten(1).square().sum(1)
        return values, gradient + 2 * weights.view(-1, 1, 1, 1) * offset

    result, rows = problem.images.clone(), torch.arange(len(problem), device=problem.images.device)
    at, history = _Iterate(result, *objective(result, rows)), _History()
    for _ in range(steps):
        # Pixels that a step would push out of [0, 1] are left out of it (Bertsekas 1982).
        blocked = blocked_by_range(at.x, at.gradient)
        direction = history.direction(at.gradient.masked_fill(blocked, 0)).masked_fill(blocked, 0)
        ahead, moved = _line_search(objective, at, rows, direction)
        history.add(ahead.x - at.x, ahead.gradient - at.gradient)
        result[rows] = ahead.x
        going = moved & (at.value - ahead.value > _TOLERANCE * ahead.value)
        at, rows, history = ahead[going], rows[going], history[going]
        if not len(rows):
            break
    return result


@dataclass(frozen=True)
class _Iterate:
    """Images with the objective and its gradient there."""

    x: Tensor
    value: Tensor
    gradient: Tensor

    def __getitem__(self, rows: Tensor) -> _Iterate:
        return _Iterate(self.x[rows], self.value[rows], self.gradient[rows])


def _line_search(objective: Objective, at: _Iterate, rows: Tensor, direction: Tensor) -> tuple[_Iterate, Tensor]:
    """Halve each step, clipped to [0, 1], until the objective is low enough (Armijo); and which rows got there."""
    x, value, gradient = at.x.clone(), at.value.clone(), at.gradient.clone()
    moved, length = torch.zeros_like(value, dtype=torch.bool), 1.0
    for _ in range(_BACKTRACKS):
        left = (~moved).nonzero().flatten()
        if not len(left):
            break
        before = at[left]
        new_x = (before.x + length * direction[left]).clamp(0, 1)
        new_value, new_gradient = objective(new_x, rows[left])
        expected = (before.gradient * (new_x - before.x)).flatten(1).sum(1)
        lower = (new_value < before.value) & (new_value <= before.value + _ARMIJO * expected)
        done = left[lower]
        x[done], value[done], gradient[done] = new_x[lower], new_value[lower], new_gradient[lower]
        moved[done] = True
        length /= 2
    return _Iterate(x, value, gradient), moved


class _History:
    """The last steps of every image and how the gradient changed on them (Nocedal 1980)."""

    def __init__(self, pairs: Sequence[tuple[Tensor, Tensor, Tensor]] = (), scale: Tensor | None = None) -> None:
        self._pairs = list(pairs)
        self._scale = scale

    def __getitem__(self, rows: Tensor) -> _History:
        pairs = [(s[rows], y[rows], inverse[rows]) for s, y, inverse in self._pairs]
        return _History(pairs, None if self._scale is None else self._scale[rows])

    def add(self, step: Tensor, change: Tensor) -> None:
        s, y = step.flatten(1), change.flatten(1)
        product, squared = (s * y).sum(1), y.square().sum(1)
        # A pair without curvature tells nothing and must not be divided by.
        curved = product > _LEAST_CURVATURE * s.norm(dim=1) * squared.sqrt()
        inverse = torch.where(curved, 1 / product, torch.zeros_like(product))
        if self._scale is not None:
            self._scale = torch.where(curved, product / squared, self._scale)
        self._pairs = [*self._pairs, (s, y, inverse)][-_HISTORY:]

    def direction(self, gradient: Tensor) -> Tensor:
        """Minus the gradient times the inverse Hessian that the pairs approximate."""
        q, alphas = gradient.flatten(1), []
        if self._scale is None:
            # Without pairs, a step no longer than one pixel's range.
            self._scale = 1 / q.norm(dim=1).clamp_min(1)
        for s, y, inverse in reversed(self._pairs):
            alpha = inverse * (s * q).sum(1)
            q = q - alpha.unsqueeze(1) * y
            alphas.append(alpha)
        q = q * self._scale.unsqueeze(1)
        for (s, y, inverse), alpha in zip(self._pairs, reversed(alphas), strict=True):
            q = q + (alpha - inverse * (y * q).sum(1)).unsqueeze(1) * s
        return -q.view_as(gradient)
