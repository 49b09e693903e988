"""Four attacks one after the other, each on the images that are left, as AutoAttack does it (Croce & Hein 2020)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from featuregen.attacks.apgd import apgd
from featuregen.attacks.fmn import fmn
from featuregen.attacks.problem import AttackProblem
from featuregen.attacks.result import clip_exact
from featuregen.attacks.square import square
from featuregen.compute import Ball
from featuregen.config import APGD, FMN, Ensemble, Square

Part = Callable[[AttackProblem, Ensemble], Tensor]


def ensemble(task: AttackProblem, settings: Ensemble) -> Tensor:
    """An image that no part moves over the decision within the ball stays as it is."""
    found, rows = task.images.clone(), task.unsolved()
    for part in (_entropy, _ratio, _shortest, _squares):
        if not len(rows):
            break
        left = task[rows]
        ball = Ball(settings.norm, settings.eps, left.images)
        tried = clip_exact(part(left, settings), ball)
        lost = left.goal.reached(left.logits(tried))
        found[rows[lost]] = tried[lost]
        rows = rows[~lost]
    return found


def _entropy(task: AttackProblem, settings: Ensemble) -> Tensor:
    return apgd(task, APGD(settings.norm, settings.eps, settings.steps))


def _ratio(task: AttackProblem, settings: Ensemble) -> Tensor:
    """Towards the class that is wanted, or each of the likeliest others in turn.

    Two classes have no ratio of differences, and the other parts do without it.
    """
    logits = task.logits(task.images)
    found, rows = task.images.clone(), torch.arange(len(task), device=logits.device)
    if logits.shape[1] < 3:
        return found
    chosen = APGD(settings.norm, settings.eps, settings.steps, loss="dlr")
    if task.goal.targeted:
        return apgd(task, chosen)
    others = logits.scatter(1, task.goal.classes.view(-1, 1), -torch.inf).argsort(1, descending=True)
    for towards in others[:, : min(settings.classes, logits.shape[1] - 1)].unbind(1):
        left = task[rows]
        found[rows] = apgd(replace(left, goal=replace(left.goal, towards=towards[rows])), chosen)
        rows = rows[~left.goal.reached(left.logits(found[rows]))]
        if not len(rows):
            break
    return found


def _shortest(task: AttackProblem, settings: Ensemble) -> Tensor:
    """What lies beyond the ball is drawn back into it, and may well hold there."""
    return fmn(task, FMN(settings.norm, settings.steps))


def _squares(task: AttackProblem, settings: Ensemble) -> Tensor:
    return square(task, Square(settings.norm, settings.eps, settings.queries))
