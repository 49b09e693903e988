"""Early stopping: keep the weights of the epoch with the smallest error on images held out of the training set."""

from __future__ import annotations

import math
from typing import Annotated, Any

import msgspec
import torch
from torch import Tensor

from featuregen.attacks.pgd import pgd
from featuregen.compute.folding import FoldedModel
from featuregen.config.schema import Training
from featuregen.data.lazy import ImageSource
from featuregen.errors import UserError
from featuregen.models.classifier import Classifier
from featuregen.runtime.distributed import SINGLE_PROCESS, DistInfo
from featuregen.runtime.rng import RowRandom
from featuregen.training.resume import FiniteNumber, check_tensors


def hold_out(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to train on and rows to hold out: that share of every class, but never its last image."""
    labels, random = labels.cpu(), RowRandom(seed, "held out")
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in sorted(set(labels.tolist())):
        members = (labels == label).nonzero().flatten()
        count = min(max(1, round(share * len(members))), len(members) - 1)
        held_out[members[torch.from_numpy(random.permutation(label, len(members)))[:count]]] = True
    if not held_out.any():
        raise UserError(
            f"early_stop needs images to hold out, and the {len(labels)} given have one per class; give more of them, "
            "or leave early_stop out."
        )
    return (~held_out).nonzero().flatten(), held_out.nonzero().flatten()


class EarlyStopping:
    """Tracks the error of a model on held-out images, and keeps the weights of the best epoch."""

    def __init__(
        self,
        model: Classifier,
        folded: FoldedModel | None,
        images: ImageSource,
        labels: Tensor,
        recipe: Training,
        seed: int,
        dist: DistInfo = SINGLE_PROCESS,
    ) -> None:
        self.train_rows, rows = hold_out(labels, recipe.held_out, seed)
        rows = rows.to(images.device)
        self._images, self._labels = images[rows], labels[rows]
        self._model, self._folded, self._recipe, self._dist = model, folded, recipe, dist
        self._random = RowRandom(seed, "held out attack")
        self._best, self._error, self._weights = 0, math.inf, dict[str, Tensor]()

    def update(self, epoch: int) -> float:
        """The error after this epoch; if it is the smallest so far, the weights are kept."""
        # Rank 0 decides, or rounding could make only some ranks stop.
        error = 1 - int(self._dist.broadcast_object(self._count_correct())) / len(self._labels)
        if error < self._error:
            self._best, self._error = epoch, error
            self._weights = {name: tensor.clone() for name, tensor in self._model.state_dict().items()}
        return error

    def should_stop(self, epoch: int) -> bool:
        return 0 < self._recipe.patience <= epoch - self._best

    def restore_best(self) -> int:
        """Load the best weights into the model; returns their epoch, counted from 1."""
        self._model.load_state_dict(self._weights)
        return self._best + 1

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "error": self._error, "weights": self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["weights"]:
            check_tensors(state["weights"], self._model.state_dict())
            last = msgspec.Meta(ge=0, lt=self._recipe.epochs)
            msgspec.convert([state["best"], state["error"]], tuple[Annotated[int, last], FiniteNumber])
        self._best, self._error = (state["best"], state["error"]) if state["weights"] else (0, math.inf)
        self._weights = {name: tensor.to(self._images.device) for name, tensor in state["weights"].items()}

    def _count_correct(self) -> int:
        recipe, count = self._recipe, 0
        # The same random starts in every epoch, so that errors differ by the weights alone.
        generator = self._random.torch_generator(0, self._images.device)
        if self._folded:
            self._folded.sync_weights()
        self._model.eval()
        for first in range(0, len(self._labels), recipe.batch_size):
            x, y = (part[first : first + recipe.batch_size] for part in (self._images, self._labels))
            correct = _is_correct(self._model, x, y)
            if recipe.early_stop == "adversarial" and recipe.attack:
                attacked = self._folded.model if self._folded else self._model
                correct &= _is_correct(self._model, pgd(attacked, x, y, recipe.attack, generator=generator), y)
            count += int(correct.sum())
        return count


@torch.no_grad()
def _is_correct(model: Classifier, x: Tensor, y: Tensor) -> Tensor:
    predicted: Tensor = model(x).argmax(1)
    return predicted == y
