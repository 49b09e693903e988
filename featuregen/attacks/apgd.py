"""Auto-PGD (Croce & Hein 2020): steps that halve themselves, on cross-entropy or the difference of logits ratio."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from featuregen.attacks.pgd import random_in_ball
from featuregen.attacks.problem import AttackProblem, where
from featuregen.compute import Ball, project, steepest
from featuregen.config import APGD

_MOMENTUM, _RISES = 0.75, 0.75


def apgd(task: AttackProblem, settings: APGD) -> Tensor:
    """The best of `restarts` walks for each image: one that reaches the goal, else the one of highest loss.

    An image whose goal is reached is left alone from then on.
    """
    found, rows = task.images.clone(), task.unsolved()
    gain = torch.full((len(task),), -torch.inf, device=found.device, dtype=found.dtype)
    for attempt in range(settings.restarts):
        if not len(rows):
            break
        part = task[rows]
        ball = Ball(settings.norm, settings.eps, part.images)
        wander = settings.random_start or attempt > 0
        tried, loss, reached = _walk(part, random_in_ball(ball, part.draws) if wander else part.images, settings)
        better = reached | (loss > gain[rows])
        found[rows[better]], gain[rows[better]] = tried[better], loss[better]
        rows = rows[~reached]
    return found


def checkpoints(steps: int) -> set[int]:
    """After which steps the length is reconsidered: at 22 % of them, then ever more often."""
    # In whole per cent, since sums of fractions end a last bit above 70 % and would be rounded up to the next step.
    shares, gap = [22], 22
    while shares[-1] < 100:
        gap = max(gap - 3, 6)
        shares.append(shares[-1] + gap)
    return {math.ceil(share * steps / 100) for share in shares}


@dataclass
class _State:
    """Where every image of a walk is, and what it remembers."""

    task: AttackProblem
    row: Tensor
    x: Tensor
    before: Tensor
    gradient: Tensor
    value: Tensor
    best: Tensor
    best_gradient: Tensor
    highest: Tensor
    highest_before: Tensor
    length: Tensor
    rises: Tensor
    halved: Tensor

    def __getitem__(self, rows: Tensor) -> _State:
        return _State(*(getattr(self, field.name)[rows] for field in fields(self)))

    def learn(self, value: Tensor, gradient: Tensor) -> None:
        self.rises = self.rises + (value > self.value)
        risen = value > self.highest
        self.best, self.best_gradient = where(risen, self.x, self.best), where(risen, gradient, self.best_gradient)
        self.highest, self.value, self.gradient = torch.maximum(value, self.highest), value, gradient

    def reconsider(self, since: int) -> None:
        """Where the loss rose too seldom, or its best stayed although the length did, go on from the best with half."""
        slow = (self.rises < _RISES * since) | (~self.halved & (self.highest <= self.highest_before))
        self.length = torch.where(slow, self.length / 2, self.length)
        self.x, self.gradient = where(slow, self.best, self.x), where(slow, self.best_gradient, self.gradient)
        self.value = torch.where(slow, self.highest, self.value)
        self.halved, self.highest_before, self.rises = slow, self.highest, torch.zeros_like(self.rises)

    def advance(self, settings: APGD, first: bool) -> None:
        ball = Ball(settings.norm, settings.eps, self.task.images)
        ahead = project(self.x + self.length.view(-1, 1, 1, 1) * steepest(self.gradient, ball.norm), ball)
        if not first:
            ahead = project(self.x + _MOMENTUM * (ahead - self.x) + (1 - _MOMENTUM) * (self.x - self.before), ball)
        self.before, self.x = self.x, ahead


def _initial_state(task: AttackProblem, start: Tensor, settings: APGD) -> _State:
    number = torch.full((len(task),), torch.inf, device=start.device, dtype=start.dtype)
    return _State(
        task=task,
        row=torch.arange(len(task), device=start.device),
        x=start,
        before=start,
        gradient=torch.zeros_like(start),
        value=number,
        best=start,
        best_gradient=torch.zeros_like(start),
        highest=-number,
        highest_before=-number,
        length=torch.full_like(number, 2 * settings.eps),
        rises=torch.zeros_like(number),
        halved=torch.zeros_like(number, dtype=torch.bool),
    )


def _walk(task: AttackProblem, start: Tensor, settings: APGD) -> tuple[Tensor, Tensor, Tensor]:
    """The first image on the way that reached the goal, else the one of highest loss; that loss; and who reached it."""
    at, marks, marked = _initial_state(task, start, settings), checkpoints(settings.steps), 0
    found, loss, reached = start.clone(), at.highest.clone(), at.halved.clone()
    for step in range(settings.steps + 1):
        goal = at.task.goal
        value, gradient, logits = at.task.value_and_grad(at.x, goal.loss if settings.loss == "ce" else goal.ratio)
        there = goal.reached(logits)
        if there.any():
            found[at.row[there]], reached[at.row[there]] = at.x[there], True
            at, value, gradient = at[~there], value[~there], gradient[~there]
            if not len(at.row):
                break
        at.learn(value, gradient)
        if step in marks:
            at.reconsider(step - marked)
            marked = step
        if step < settings.steps:
            at.advance(settings, first=step == 0)
    found[at.row], loss[at.row] = at.best, at.highest
    return found, loss, reached
