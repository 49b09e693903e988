"""Early stopping: which epoch's weights to keep, as images tell that training never sees."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from featuregen.attacks import pgd
from featuregen.compute import FoldedModel
from featuregen.config import Training
from featuregen.data import ImageSource
from featuregen.errors import UserError
from featuregen.models import Classifier
from featuregen.runtime import SINGLE_PROCESS, DistInfo, RowRandom


def hold_out(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to train on and rows held out: that share of every class, which keeps at least one image to learn from."""
    own, random = labels.cpu(), RowRandom(seed, "held out")
    held = torch.zeros(len(own), dtype=torch.bool)
    for label in sorted(set(own.tolist())):
        members = (own == label).nonzero().flatten()
        count = min(max(1, round(share * len(members))), len(members) - 1)
        held[members[torch.from_numpy(random.permutation(label, len(members)))[:count]]] = True
    if not held.any():
        raise UserError(
            f"early_stop needs images to hold out, and the {len(labels)} given have one per class; give more of them, "
            "or leave early_stop out."
        )
    return (~held).nonzero().flatten(), held.nonzero().flatten()


class EarlyStopping:
    """The weights of the epoch with the smallest error on images that training never sees."""

    def __init__(
        self,
        model: Classifier,
        lean: FoldedModel | None,
        images: ImageSource,
        labels: Tensor,
        recipe: Training,
        seed: int,
        dist: DistInfo = SINGLE_PROCESS,
    ) -> None:
        self.others, held = hold_out(labels, recipe.held_out, seed)
        self._model, self._lean, self._recipe = model, lean, recipe
        self._images, self._labels = images[held.to(images.device)], labels[held.to(images.device)]
        self._random = RowRandom(seed, "held out attack")
        self._dist = dist
        self._best, self._error, self._weights = 0, math.inf, dict[str, Tensor]()

    def look(self, epoch: int) -> float:
        """The error now; the weights are put aside if it is the smallest so far."""
        # One process decides, or rounding could have some of them stop.
        error = 1 - int(self._dist.broadcast_object(self._standing())) / len(self._labels)
        if error < self._error:
            self._best, self._error = epoch, error
            self._weights = {name: tensor.clone() for name, tensor in self._model.state_dict().items()}
        return error

    def _standing(self) -> int:
        recipe, count = self._recipe, 0
        # The same starts in every epoch, so that nothing but the weights makes a difference.
        generator = self._random.torch_generator(0, self._images.device)
        if self._lean:
            self._lean.sync_weights()
        self._model.eval()
        for first in range(0, len(self._labels), recipe.batch_size):
            x, y = (part[first : first + recipe.batch_size] for part in (self._images, self._labels))
            right = _right(self._model, x, y)
            if recipe.early_stop == "adversarial" and recipe.attack:
                attacked = self._lean.net if self._lean else self._model
                right &= _right(self._model, pgd(attacked, x, y, recipe.attack, generator=generator), y)
            count += int(right.sum())
        return count

    def should_stop(self, epoch: int) -> bool:
        return 0 < self._recipe.patience <= epoch - self._best

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What has been seen so far, for `restore` after a stop."""
        return {"best": self._best, "error": self._error}, self._weights

    def restore(self, seen: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        self._best, self._error = seen["best"], seen["error"]
        self._weights = {name: tensor.to(self._images.device) for name, tensor in weights.items()}

    def settle(self) -> int:
        """Give the model its best weights back; the epoch they are from, counted from 1."""
        self._model.load_state_dict(self._weights)
        return self._best + 1


@torch.no_grad()
def _right(model: Classifier, x: Tensor, y: Tensor) -> Tensor:
    seen: Tensor = model(x).argmax(1)
    return seen == y
