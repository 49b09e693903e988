"""What an attack is after: any other class than an image's own, or a given one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from featuregen.compute import TINY
from featuregen.errors import UserError

# What lies nearer to the decision than this share of the logits, another batch size may decide the other way.
_LAST_BITS = 1e-5


@dataclass(frozen=True)
class Criterion:
    """`classes` are those to leave, or with `targeted` those to reach; one per image.

    `towards` are classes to leave them for. Any other will do as well: they only lead the search.
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

    def reached(self, logits: Tensor) -> Tensor:
        return self.met(logits.argmax(1))

    def met(self, seen: Tensor) -> Tensor:
        """Reached, as the class that is seen tells."""
        own = seen == self.classes
        return own if self.targeted else ~own

    def clearly_reached(self, logits: Tensor) -> Tensor:
        """Reached by more than the last bits of the logits, for searches that end at the decision's border."""
        ahead, behind = self._sides(logits)
        return behind - ahead > _LAST_BITS * torch.maximum(ahead.abs(), behind.abs())

    def margin(self, logits: Tensor) -> Tensor:
        """Below zero where the goal is reached: how far the wanted side of the decision lies behind the other."""
        ahead, behind = self._sides(logits)
        return ahead - behind

    def _sides(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The logit that has to sink below the other, and that other."""
        own, best = _of(logits, self.classes), runner_up(logits, self.classes).values
        return (best, own) if self.targeted else (own, best)

    def soft_margin(self, logits: Tensor, softness: float) -> Tensor:
        """The margin with all other classes in it, the likelier the more; at softness 1 it points as cross-entropy."""
        own = _of(logits, self.classes)
        others = logits.scatter(1, self.classes.view(-1, 1), -torch.inf).div(softness).logsumexp(1).mul(softness)
        return others - own if self.targeted else own - others

    def loss(self, logits: Tensor) -> Tensor:
        """Cross-entropy, larger the nearer the goal."""
        # Taken from the softmax, it is zero in fp32 from 17 nats on, and a search could not tell near from far.
        margin = self.soft_margin(logits, 1)
        return -F.softplus(margin) if self.targeted else F.softplus(-margin)

    def ratio(self, logits: Tensor) -> Tensor:
        """The difference of logits ratio (Croce & Hein 2020), larger the nearer the goal; their scale cancels out.

        With a class to reach or to go towards, in its targeted form.
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
