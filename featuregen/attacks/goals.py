"""What an attack is after: any other class than an image's own, or a given one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Goal:
    """`classes` are those to leave, or with `targeted` those to reach; one per image."""

    classes: Tensor
    targeted: bool = False

    def __getitem__(self, rows: Tensor) -> Goal:
        return Goal(self.classes[rows], self.targeted)

    def repeat(self, times: int) -> Goal:
        """For batches that hold each image `times` times in a row."""
        return Goal(self.classes.repeat_interleave(times), self.targeted)

    def reached(self, logits: Tensor) -> Tensor:
        seen = logits.argmax(1) == self.classes
        return seen if self.targeted else ~seen

    def margin(self, logits: Tensor) -> Tensor:
        """Below zero where the goal is reached: how far the wanted side of the decision lies behind the other."""
        own = logits.gather(1, self.classes.view(-1, 1)).squeeze(1)
        others = logits.scatter(1, self.classes.view(-1, 1), -torch.inf).amax(1)
        return others - own if self.targeted else own - others

    def loss(self, logits: Tensor) -> Tensor:
        """Cross-entropy, larger the nearer the goal."""
        entropy = F.cross_entropy(logits, self.classes, reduction="none")
        return -entropy if self.targeted else entropy
