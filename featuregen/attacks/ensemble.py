"""Four attacks in a row, each on the images that are left: modelled on AutoAttack, and not the same as it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from featuregen.attacks.apgd import APGD, apgd
from featuregen.attacks.fmn import FMN, fmn
from featuregen.attacks.problem import AttackProblem
from featuregen.attacks.registry import register_attack
from featuregen.attacks.result import clip_exact
from featuregen.attacks.square import Square, square
from featuregen.compute.optimize import Ball
from featuregen.config.schema import Norm, bounded


@dataclass(frozen=True)
class Ensemble:
    """Auto-PGD on cross-entropy, auto-PGD towards `classes` likely classes, FMN, and Square with `queries` queries."""

    norm: Norm = "linf"
    eps: float = bounded(8 / 255, low=0)
    steps: int = bounded(100, low=1)
    classes: int = bounded(9, low=1)
    queries: int = bounded(5000, low=1)


@register_attack("ensemble", settings=Ensemble, meaning="auto-PGD on two losses, FMN, then Square; not AutoAttack")
def ensemble(problem: AttackProblem, settings: Ensemble) -> Tensor:
    """After AutoAttack (Croce & Hein 2020), with FMN in place of FAB. An unsolved image stays unchanged."""
    best, rows = problem.images.clone(), problem.unsolved()
    members: tuple[Callable[[AttackProblem, Ensemble], Tensor], ...] = (_apgd_ce, _apgd_dlr, _fmn, _square)
    for member in members:
        if not len(rows):
            break
        left = problem[rows]
        x = clip_exact(member(left, settings), Ball(settings.norm, settings.eps, left.images))
        met = left.criterion.is_met(left.logits(x))
        best[rows[met]] = x[met]
        rows = rows[~met]
    return best


def _apgd_ce(problem: AttackProblem, settings: Ensemble) -> Tensor:
    return apgd(problem, APGD(settings.norm, settings.eps, settings.steps))


def _apgd_dlr(problem: AttackProblem, settings: Ensemble) -> Tensor:
    """Towards the target class, or each of the likeliest other classes in turn.

    Two classes have no difference of logits ratio, and the other members do without it.
    """
    logits = problem.logits(problem.images)
    best, rows = problem.images.clone(), torch.arange(len(problem), device=logits.device)
    if logits.shape[1] < 3:
        return best
    on_dlr = APGD(settings.norm, settings.eps, settings.steps, loss="dlr")
    if problem.criterion.targeted:
        return apgd(problem, on_dlr)
    others = logits.scatter(1, problem.criterion.classes.view(-1, 1), -torch.inf).argsort(1, descending=True)
    for towards in others[:, : min(settings.classes, logits.shape[1] - 1)].unbind(1):
        left = problem[rows]
        best[rows] = apgd(replace(left, criterion=replace(left.criterion, towards=towards[rows])), on_dlr)
        rows = rows[~left.criterion.is_met(left.logits(best[rows]))]
        if not len(rows):
            break
    return best


def _fmn(problem: AttackProblem, settings: Ensemble) -> Tensor:
    """What ends beyond the ball is clipped to it, and may still meet the criterion there."""
    return fmn(problem, FMN(settings.norm, settings.steps))


def _square(problem: AttackProblem, settings: Ensemble) -> Tensor:
    return square(problem, Square(settings.norm, settings.eps, settings.queries))
