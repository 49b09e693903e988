"""What an attack tries to reach: any class but the label, or a target class."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from featuregen.compute.optimize import TINY
from featuregen.errors import UserError

# Logits closer than this share of their size may compare the other way at another batch size.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class Criterion:
    """Misclassification of `classes`, one label per image, or with `targeted` classification as them.

    `towards` names one class per image that an untargeted search heads for; any other wrong class counts as well.
    """

    classes: Tensor
    targeted: bool = False
    towards: Tensor | None = None

    def __getitem__(self, rows: Tensor) -> Criterion:
        towards = None if self.towards is None else self.towards[rows]
        return replace(self, classes=self.classes[rows], towards=towards)

    def repeat(self, times: int) -> Criterion:
        """For batches that hold each image `times` times in a row."""
        return self[torch.arange(len(self.classes), device=self.classes.device).repeat_interleave(times)]

    def is_met(self, logits: Tensor) -> Tensor:
        return self.is_met_by(logits.argmax(1))

    def is_met_by(self, predicted: Tensor) -> Tensor:
        """The same from predicted classes."""
        same = predicted == self.classes
        return same if self.targeted else ~same

    def clearly_met(self, logits: Tensor) -> Tensor:
        """Met by more than rounding errors, for searches that end at the decision boundary."""
        ahead, behind = self._sides(logits)
        return behind - ahead > _ROUNDING * torch.maximum(ahead.abs(), behind.abs())

    def margin(self, logits: Tensor) -> Tensor:
        """Difference of the two logits that decide; negative where the criterion is met."""
        ahead, behind = self._sides(logits)
        return ahead - behind

    def _sides(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The logit that has to sink below the other, and that other."""
        of_class, best = _of(logits, self.classes), runner_up(logits, self.classes).values
        return (best, of_class) if self.targeted else (of_class, best)

    def soft_margin(self, logits: Tensor, softness: float) -> Tensor:
        """The margin with a soft maximum over all other classes; at softness 1 its gradient points as cross-entropy."""
        of_class = _of(logits, self.classes)
        others = logits.scatter(1, self.classes.view(-1, 1), -torch.inf).div(softness).logsumexp(1).mul(softness)
        return others - of_class if self.targeted else of_class - others

    def loss(self, logits: Tensor) -> Tensor:
        """Cross-entropy, with the sign that makes it grow towards the criterion."""
        # Taken from the softmax, it is zero in fp32 from 17 nats on, and a search could not tell near from far.
        margin = self.soft_margin(logits, 1)
        return -F.softplus(margin) if self.targeted else F.softplus(-margin)

    def dlr(self, logits: Tensor) -> Tensor:
        """Difference of logits ratio (Croce & Hein 2020), which does not depend on the scale of the logits.

        It is the targeted ratio where the criterion is targeted or has classes to go `towards`.
        """
        if logits.shape[1] < 3:
            raise UserError("the difference of logits ratio needs at least three classes; take the loss ce instead.")
        first, _, third, *rest = logits.topk(min(4, logits.shape[1]), 1).values.unbind(1)
        if self.towards is None and not self.targeted:
            return -self.margin(logits) / (first - third).clamp_min(TINY)
        fourth = rest[0] if rest else third
        scale = (first - (third + fourth) / 2).clamp_min(TINY)
        if self.towards is None:
            return -self.margin(logits) / scale
        return (_of(logits, self.towards) - _of(logits, self.classes)) / scale


def _of(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes.view(-1, 1)).squeeze(1)


def runner_up(logits: Tensor, classes: Tensor) -> torch.return_types.max:
    """The highest logit but that of `classes`, with its class."""
    return logits.scatter(1, classes.view(-1, 1), -torch.inf).max(1)
