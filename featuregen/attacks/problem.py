"""What an attack works on, and the steps that several attacks share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from featuregen.attacks.criterion import Criterion
from featuregen.runtime.rng import RowDraws

# Of a problem, the number of tries so far and the number wanted: that many candidates of each image, image by image.
Propose = Callable[["AttackProblem", int, int], Tensor]


@dataclass(frozen=True)
class AttackProblem:
    """A frozen model in eval mode, images in [0, 1], a criterion for each, and random numbers keyed by image.

    `problem[rows]` is the same problem for some images. At most `max_batch` images should go through the model at once.
    """

    model: nn.Module
    images: Tensor
    criterion: Criterion
    draws: RowDraws
    max_batch: int

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Tensor) -> AttackProblem:
        return replace(self, images=self.images[rows], criterion=self.criterion[rows], draws=self.draws[rows])

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        return at_least_float32(self.model(x))

    def unsolved(self) -> Tensor:
        """The rows whose image itself does not meet the criterion."""
        return (~self.criterion.is_met(self.logits(self.images))).nonzero().flatten()

    def value_and_grad(self, x: Tensor, objective: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """An objective of the logits, one value per image, its gradient with respect to `x`, and the logits."""
        with torch.enable_grad():
            pixels = x.detach().requires_grad_(True)
            logits = at_least_float32(self.model(pixels))
            values = objective(logits)
            (gradient,) = torch.autograd.grad(values.sum(), pixels)
        return values.detach(), gradient, logits.detach()


def at_least_float32(logits: Tensor) -> Tensor:
    """Sums of half-precision numbers are too coarse."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def where_images(mask: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """torch.where with one flag per image."""
    return torch.where(mask.view(-1, 1, 1, 1), yes, no)


def first_success(problem: AttackProblem, tries: int, propose: Propose) -> Tensor:
    """For every image the first of `tries` candidates that meets the criterion, else the one of highest loss.

    A solved image is not tried again, and batches are filled with more tries of the others.
    """
    rows, done = problem.unsolved(), 0
    best = problem.images.clone()
    best_loss = torch.full((len(problem),), -torch.inf, device=best.device)
    while len(rows) and done < tries:
        left, count = problem[rows], min(tries - done, max(1, problem.max_batch // len(rows)))
        candidates = propose(left, done, count)
        logits, criterion = problem.logits(candidates), left.criterion.repeat(count)
        met = criterion.is_met(logits).view(-1, count)
        loss, worst = criterion.loss(logits).view(-1, count).float().max(1)
        solved = met.any(1)
        # argmax of bytes: the first True.
        chosen = torch.where(solved, met.byte().argmax(1), worst)
        better = solved | (loss > best_loss[rows])
        picked = candidates.view(len(rows), count, *candidates.shape[1:])[better, chosen[better]]
        best[rows[better]] = picked
        best_loss[rows] = torch.maximum(best_loss[rows], loss)
        rows, done = rows[~solved], done + count
    return best
