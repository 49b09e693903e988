"""Auto-PGD (Croce & Hein 2020): PGD whose step sizes adapt, on cross-entropy or the difference of logits ratio."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from featuregen.attacks.pgd import random_in_ball
from featuregen.attacks.problem import AttackProblem, where_images
from featuregen.attacks.registry import register_attack
from featuregen.compute.optimize import Ball, project, steepest
from featuregen.config.schema import Norm, bounded

_MOMENTUM = 0.75
# The share of steps that must raise the loss, or the step size is halved.
_RHO = 0.75


@dataclass(frozen=True)
class APGD:
    """`loss` is cross-entropy or the difference of logits ratio; each restart takes `steps` steps."""

    norm: Norm = "linf"
    eps: float = bounded(8 / 255, low=0)
    steps: int = bounded(100, low=1)
    restarts: int = bounded(1, low=1, high=10_000)
    random_start: bool = True
    loss: Literal["ce", "dlr"] = "ce"


@register_attack("auto-pgd", settings=APGD, meaning="projected gradient steps of adaptive size (Croce & Hein 2020)")
def apgd(problem: AttackProblem, settings: APGD) -> Tensor:
    """The best of `restarts` runs for each image: one that meets the criterion, else the one of highest loss.

    A solved image is not attacked again.
    """
    best, rows = problem.images.clone(), problem.unsolved()
    best_loss = torch.full((len(problem),), -torch.inf, device=best.device, dtype=best.dtype)
    for attempt in range(settings.restarts):
        if not len(rows):
            break
        left = problem[rows]
        ball = Ball(settings.norm, settings.eps, left.images)
        start = random_in_ball(ball, left.draws) if settings.random_start or attempt > 0 else left.images
        x, loss, met = _attempt(left, start, settings)
        better = met | (loss > best_loss[rows])
        best[rows[better]], best_loss[rows[better]] = x[better], loss[better]
        rows = rows[~met]
    return best


def checkpoints(steps: int) -> set[int]:
    """After which steps the step size is reconsidered: at 22 % of them, then ever more often."""
    # In whole per cent, since sums of fractions end a last bit above 70 % and would be rounded up to the next step.
    shares, gap = [22], 22
    while shares[-1] < 100:
        gap = max(gap - 3, 6)
        shares.append(shares[-1] + gap)
    return {math.ceil(share * steps / 100) for share in shares}


@dataclass
class _State:
    """The iterate of every image, and what the rules for its step size remember."""

    problem: AttackProblem
    row: Tensor
    x: Tensor
    previous: Tensor
    gradient: Tensor
    loss: Tensor
    best: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    best_loss_at_checkpoint: Tensor
    step_size: Tensor
    rises: Tensor
    halved: Tensor

    def __getitem__(self, rows: Tensor) -> _State:
        return _State(*(getattr(self, field.name)[rows] for field in fields(self)))

    def record(self, loss: Tensor, gradient: Tensor) -> None:
        """Take the loss and gradient at the iterate."""
        self.rises = self.rises + (loss > self.loss)
        risen = loss > self.best_loss
        self.best = where_images(risen, self.x, self.best)
        self.best_gradient = where_images(risen, gradient, self.best_gradient)
        self.best_loss, self.loss, self.gradient = torch.maximum(loss, self.best_loss), loss, gradient

    def halve(self, steps: int) -> None:
        """Restart from the best iterate with half the step size, where few of the last `steps` raised the loss.

        The same where the best loss stayed since the last checkpoint although the step size did as well.
        """
        slow = (self.rises < _RHO * steps) | (~self.halved & (self.best_loss <= self.best_loss_at_checkpoint))
        self.step_size = torch.where(slow, self.step_size / 2, self.step_size)
        self.x = where_images(slow, self.best, self.x)
        self.gradient = where_images(slow, self.best_gradient, self.gradient)
        self.loss = torch.where(slow, self.best_loss, self.loss)
        self.halved, self.best_loss_at_checkpoint, self.rises = slow, self.best_loss, torch.zeros_like(self.rises)

    def step(self, settings: APGD, first: bool) -> None:
        ball = Ball(settings.norm, settings.eps, self.problem.images)
        x = project(self.x + self.step_size.view(-1, 1, 1, 1) * steepest(self.gradient, ball.norm), ball)
        if not first:
            x = project(self.x + _MOMENTUM * (x - self.x) + (1 - _MOMENTUM) * (self.x - self.previous), ball)
        self.previous, self.x = self.x, x


def _initial_state(problem: AttackProblem, start: Tensor, settings: APGD) -> _State:
    infinite = torch.full((len(problem),), torch.inf, device=start.device, dtype=start.dtype)
    return _State(
        problem=problem,
        row=torch.arange(len(problem), device=start.device),
        x=start,
        previous=start,
        gradient=torch.zeros_like(start),
        loss=infinite,
        best=start,
        best_gradient=torch.zeros_like(start),
        best_loss=-infinite,
        best_loss_at_checkpoint=-infinite,
        step_size=torch.full_like(infinite, 2 * settings.eps),
        rises=torch.zeros_like(infinite),
        halved=torch.zeros_like(infinite, dtype=torch.bool),
    )


def _attempt(problem: AttackProblem, start: Tensor, settings: APGD) -> tuple[Tensor, Tensor, Tensor]:
    """The first iterate that meets the criterion, else the one of highest loss; its loss; and where it is met."""
    state, marks, last_mark = _initial_state(problem, start, settings), checkpoints(settings.steps), 0
    found, loss, met = start.clone(), state.best_loss.clone(), state.halved.clone()
    for step in range(settings.steps + 1):
        criterion = state.problem.criterion
        objective = criterion.loss if settings.loss == "ce" else criterion.dlr
        value, gradient, logits = state.problem.value_and_grad(state.x, objective)
        now = criterion.is_met(logits)
        if now.any():
            found[state.row[now]], met[state.row[now]] = state.x[now], True
            state, value, gradient = state[~now], value[~now], gradient[~now]
            if not len(state.row):
                break
        state.record(value, gradient)
        if step in marks:
            state.halve(step - last_mark)
            last_mark = step
        if step < settings.steps:
            state.step(settings, first=step == 0)
    found[state.row], loss[state.row] = state.best, state.best_loss
    return found, loss, met
