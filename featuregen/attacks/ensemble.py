"""Four attacks one after the other, each on the images that are left, as AutoAttack does it (Croce & Hein 2020)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from featuregen.attacks.auto import auto_pgd
from featuregen.attacks.goals import Goal
from featuregen.attacks.smallest import reach, smallest
from featuregen.attacks.square import square
from featuregen.config.attacks import AutoPGD, Ensemble, Smallest, Square
from featuregen.optimize import fixed

Part = Callable[[Tensor, Goal], Tensor]


def ensemble(
    model: nn.Module, images: Tensor, goal: Goal, settings: Ensemble, generator: torch.Generator | None = None
) -> Tensor:
    found = images.clone()
    with fixed(model), torch.no_grad():
        rows = (~goal.reached(model(images).float())).nonzero().flatten()
    for part in _parts(model, settings, generator):
        if not len(rows):
            break
        tried = part(images[rows], goal[rows])
        with fixed(model), torch.no_grad():
            lost = goal[rows].reached(model(tried).float())
        inside = reach(tried - images[rows], settings.norm) <= settings.eps * (1 + 1e-6) + 1e-7
        lost &= inside
        found[rows[lost]] = tried[lost]
        rows = rows[~lost]
    return found


def _parts(model: nn.Module, settings: Ensemble, generator: torch.Generator | None) -> Iterator[Part]:
    ball = {"norm": settings.norm, "eps": settings.eps}

    def entropy(x: Tensor, goal: Goal) -> Tensor:
        return auto_pgd(model, x, goal, AutoPGD(**ball, steps=settings.steps, loss="ce"), generator)

    def ratio(x: Tensor, goal: Goal) -> Tensor:
        chosen = AutoPGD(**ball, steps=settings.steps, loss="dlr")
        if goal.targeted:
            return auto_pgd(model, x, goal, chosen, generator)
        return _by_targets(model, x, goal, settings.targets, lambda part, aim: auto_pgd(model, part, aim, chosen, generator))

    def shortest(x: Tensor, goal: Goal) -> Tensor:
        return smallest(model, x, goal, Smallest(settings.norm, settings.steps), generator)

    def squares(x: Tensor, goal: Goal) -> Tensor:
        return square(model, x, goal, Square(**ball, queries=settings.queries), generator)

    yield from (entropy, ratio, shortest, squares)


def _by_targets(model: nn.Module, images: Tensor, goal: Goal, count: int, run: Part) -> Tensor:
    """Towards each of the next likely classes in turn, on the images that are left."""
    with fixed(model), torch.no_grad():
        logits = model(images).float().scatter(1, goal.classes.view(-1, 1), -torch.inf)
    likely = logits.argsort(1, descending=True)[:, : min(count, logits.shape[1] - 1)]
    found, rows = images.clone(), torch.arange(len(images), device=images.device)
    for place in range(likely.shape[1]):
        tried = run(images[rows], Goal(likely[rows, place], targeted=True))
        with fixed(model), torch.no_grad():
            lost = goal[rows].reached(model(tried).float())
        found[rows[lost]] = tried[lost]
        rows = rows[~lost]
        if not len(rows):
            break
    return found
