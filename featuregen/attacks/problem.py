"""What every attack of the table is given, and what several of them do alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from featuregen.attacks.criterion import Criterion
from featuregen.runtime import RowDraws

# Images, image after image: what so many further tries make of these rows.
Change = Callable[["AttackProblem", int, int], Tensor]


@dataclass(frozen=True)
class AttackProblem:
    """Images with their goals, a model in eval mode, and random numbers; `at_once` images fit into one pass."""

    model: nn.Module
    images: Tensor
    goal: Criterion
    draws: RowDraws
    max_batch: int

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Tensor) -> AttackProblem:
        return replace(self, images=self.images[rows], goal=self.goal[rows], draws=self.draws[rows])

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        return at_least_single(self.model(x))

    def unsolved(self) -> Tensor:
        """The rows whose goal is not reached by the image itself."""
        return (~self.goal.reached(self.logits(self.images))).nonzero().flatten()

    def value_and_grad(self, x: Tensor, objective: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """An objective of the logits, its gradient, and the logits."""
        with torch.enable_grad():
            pixels = x.detach().requires_grad_(True)
            logits = at_least_single(self.model(pixels))
            values = objective(logits)
            (gradient,) = torch.autograd.grad(values.sum(), pixels)
        return values.detach(), gradient, logits.detach()


def at_least_single(logits: Tensor) -> Tensor:
    """Sums of halves are too coarse."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def where(rows: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Whole images by one flag each."""
    return torch.where(rows.view(-1, 1, 1, 1), yes, no)


def first_success(task: AttackProblem, tries: int, change: Change) -> Tensor:
    """For every image the first of `tries` changes that reaches its goal, else the one of highest loss.

    An image whose goal is reached is left alone from then on, and the passes are filled with more tries of the others.
    """
    rows, done = task.unsolved(), 0
    found = task.images.clone()
    gain = torch.full((len(task),), -torch.inf, device=found.device)
    while len(rows) and done < tries:
        part, count = task[rows], min(tries - done, max(1, task.max_batch // len(rows)))
        moved = change(part, done, count)
        logits, goals = task.logits(moved), part.goal.repeat(count)
        there = goals.reached(logits).view(-1, count)
        loss, best = goals.loss(logits).view(-1, count).float().max(1)
        lost = there.any(1)
        # argmax of bytes: the first True.
        chosen = torch.where(lost, there.byte().argmax(1), best)
        better = lost | (loss > gain[rows])
        picked = moved.view(len(rows), count, *moved.shape[1:])[better, chosen[better]]
        found[rows[better]] = picked
        gain[rows] = torch.maximum(gain[rows], loss)
        rows, done = rows[~lost], done + count
    return found
