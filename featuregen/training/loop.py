"""The training loop: standard training, or adversarial training when the recipe names an attack."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypedDict, Unpack

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featuregen.attacks.pgd import pgd
from featuregen.compute.folding import FoldedModel
from featuregen.compute.grouped import GroupedEnsemble, supports_grouping
from featuregen.config.schema import Training, check_training
from featuregen.data.lazy import ImageSource
from featuregen.errors import UserError
from featuregen.models.classifier import Classifier
from featuregen.runtime.console import progress
from featuregen.runtime.device import ComputeSpec, autocast
from featuregen.runtime.distributed import SINGLE_PROCESS, DistInfo
from featuregen.runtime.rng import RowRandom, seeded
from featuregen.training.augment import augment
from featuregen.training.data_parallel import (
    average_batch_norms,
    backward,
    check_equal_shares,
    check_same_epoch,
    data_parallel,
    rank_rng,
    rank_seed,
    reseed_rank,
)
from featuregen.training.early_stopping import EarlyStopping
from featuregen.training.optimizer import make_optimizer, set_learning_rate
from featuregen.training.resume import FiniteNumber, TrainingState, check_fits, rng_state, set_rng_state


@dataclass(frozen=True)
class Epoch:
    """Loss and accuracy on the training batches; `error` is that on held-out images, if the recipe holds out any."""

    loss: FiniteNumber
    accuracy: FiniteNumber
    error: FiniteNumber | None = None


@dataclass(frozen=True)
class TrainingLog:
    """Every epoch of a training, measured on the batches as trained on (augmented, attacked).

    The weights are those after epoch `kept`, counted from 1; `ended` says why the last epoch was the last.
    """

    epochs: tuple[Epoch, ...]
    seconds: float
    kept: int
    ended: str

    @property
    def train_accuracy(self) -> float:
        return self.epochs[self.kept - 1].accuracy


class TrainOptions(TypedDict, total=False):
    """What decides how a training runs, but is no part of its recipe."""

    compute: ComputeSpec | None
    title: str
    state_file: TrainingState | None
    dist: DistInfo


def train(
    model: Classifier,
    images: ImageSource,
    labels: Tensor,
    recipe: Training,
    *,
    seed: int = 0,
    **options: Unpack[TrainOptions],
) -> TrainingLog:
    """Train a model in place, on the device of the images; it ends in eval mode.

    Args:
        model: The classifier to train.
        images: (N, C, H, W) in [0, 1], a tensor or a source that loads rows when they are needed.
        labels: (N,) class indices, on the same device.
        recipe: Epochs, batch size, optimizer, augmentation, attack, early stopping.
        seed: Decides the order of the rows, augmentation, dropout and random starts.
        **options: `compute`: precision and convolution of the attack. `title`: names the training in messages.
            `state_file`: resume from this file and save to it. `dist`: the ranks of torchrun, which share every batch.

    Returns:
        Loss and accuracy of every epoch.

    Raises:
        UserError: The recipe contradicts itself, or the loss is no longer finite.

    Example:
        >>> import featuregen as fg
        >>> digits = fg.load_images("digits")
        >>> model = fg.build_model("convnet", digits.image_shape, classes=10, width=4)
        >>> recipe = fg.Training(epochs=2, batch_size=64, lr=0.1)
        >>> log = fg.train(model, digits.train.images_tensor(), digits.train.labels_tensor(), recipe)
        >>> len(log.epochs), log.epochs[1].loss < log.epochs[0].loss
        (2, True)
    """
    return train_many([model], images, labels, recipe, seeds=[seed], **options)[0]


def train_many(
    models: Sequence[Classifier],
    images: ImageSource,
    labels: Tensor,
    recipe: Training,
    *,
    seeds: Sequence[int],
    **options: Unpack[TrainOptions],
) -> list[TrainingLog]:
    """Train several models on the same images: as a grouped ensemble if they are small, else one after the other."""
    check_training(recipe, "the recipe")
    dist = options.get("dist", SINGLE_PROCESS)
    if len(models) > 1 and (dist.world_size > 1 or not can_group(models[0].architecture, recipe)):
        if options.get("state_file"):
            raise ValueError("Models that are trained one after the other need a TrainingState each.")
        pairs = zip(models, seeds, strict=True)
        return [train(model, images, labels, recipe, seed=seed, **options) for model, seed in pairs]
    # Dropout draws from the global generator.
    with seeded(rank_seed(seeds[0], dist), images.device):
        logs = TrainingRun(models, images, labels, recipe, seeds, **options).run()
    for model in models:
        model.eval()
        model.record = {}
    return logs


def can_group(architecture: str, recipe: Training) -> bool:
    """Whether several seeds can train as one grouped ensemble.

    Not with random starts, which all models would draw from one generator, nor with early stopping, which keeps
    another epoch of each.
    """
    random_starts = recipe.attack is not None and (recipe.attack.random_start or recipe.attack.restarts > 1)
    return supports_grouping(architecture) and not random_starts and recipe.early_stop == "none"


class TrainingRun:
    """A training in progress: all that changes from step to step, and can be saved and loaded between epochs."""

    def __init__(
        self,
        models: Sequence[Classifier],
        images: ImageSource,
        labels: Tensor,
        recipe: Training,
        seeds: Sequence[int],
        *,
        compute: ComputeSpec | None = None,
        title: str = "training",
        state_file: TrainingState | None = None,
        dist: DistInfo = SINGLE_PROCESS,
    ) -> None:
        self.started = time.perf_counter()
        self.images, self.labels, self.recipe, self.seeds = images, labels, recipe, seeds
        self.title, self.state_file, self.dist, self.device = title, state_file, dist, images.device
        self.compute = compute or ComputeSpec(self.device)
        self.count = len(models)
        self.network: nn.Module = GroupedEnsemble(models) if self.count > 1 else models[0]
        self.optimizer = make_optimizer(self.network, recipe)
        self.network.to(memory_format=torch.channels_last)
        self.replica = data_parallel(self.network, dist)
        single = self.network if isinstance(self.network, Classifier) else None
        self.folded = FoldedModel(single, self.compute) if recipe.attack and single else None
        self.stopping = None
        if recipe.early_stop != "none":
            self.stopping = EarlyStopping(models[0], self.folded, images, labels, recipe, seeds[0], dist)
        self.train_rows = self.stopping.train_rows if self.stopping else torch.arange(len(images))
        self.batch_size = min(recipe.batch_size, len(self.train_rows))
        check_equal_shares(self.batch_size, dist, title)
        self.epochs: list[list[Epoch]] = [[] for _ in models]

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict()["state"],
            "random": rng_state(self.device),
            "epochs": [[asdict(epoch) for epoch in epochs] for epochs in self.epochs],
            "seconds": time.perf_counter() - self.started,
            "early_stopping": self.stopping.state_dict() if self.stopping else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epochs = msgspec.convert(state["epochs"], list[list[Epoch]])
        done = len(self.epochs[0]) if self.epochs else 0
        if [len(epochs) for epochs in self.epochs] != [done] * self.count or done >= self.recipe.epochs:
            raise ValueError(f"it is not the state of {self.count} models before epoch {self.recipe.epochs}")
        check_fits(state, self.network, self.optimizer if done else None)
        self.network.load_state_dict(state["network"])
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state["optimizer"], "param_groups": groups})
        if self.stopping:
            self.stopping.load_state_dict(state["early_stopping"])
        self.started = time.perf_counter() - msgspec.convert(state["seconds"], FiniteNumber)
        set_rng_state(state["random"], self.device)

    def run(self) -> list[TrainingLog]:
        if self.state_file:
            self.state_file.load(self)
        done, total = len(self.epochs[0]), self.recipe.epochs
        check_same_epoch(done, self.dist, self.title)
        for epoch in progress(range(done, total), self.title, total - done):
            self._run_epoch(epoch)
            if self.stopping and self.stopping.should_stop(epoch):
                break
            if self.state_file and self.dist.is_main and epoch + 1 < total:
                self.state_file.save(self)
        kept, ended = self.stopping.restore_best() if self.stopping else total, "all epochs are run"
        if len(self.epochs[0]) < total:
            ended = f"no smaller error in {self.recipe.patience} epoch{'s' * (self.recipe.patience > 1)}"
        if isinstance(self.network, GroupedEnsemble):
            self.network.unstack_()
        seconds = (time.perf_counter() - self.started) / self.count
        return [TrainingLog(tuple(epochs), seconds, kept, ended) for epochs in self.epochs]

    def _run_epoch(self, epoch: int) -> None:
        recipe, device, dist = self.recipe, self.device, self.dist
        orders = [RowRandom(seed, "order").permutation(epoch, len(self.train_rows)) for seed in self.seeds]
        rows = self.train_rows[torch.stack([torch.from_numpy(order) for order in orders])].to(device)
        generators = [RowRandom(seed, "augment").torch_generator(epoch, device) for seed in self.seeds]
        reseed_rank(self.seeds[0], epoch, dist, device)
        attack_rng = generators[0]
        if dist.world_size > 1:
            attack_rng = rank_rng(self.seeds[0], dist).torch_generator(epoch, device)
        losses, accuracies = torch.zeros(self.count, device=device), torch.zeros(self.count, device=device)
        batches = len(self.train_rows) // self.batch_size
        for step in range(batches):
            set_learning_rate(self.optimizer, recipe, (epoch * batches + step) / (recipe.epochs * batches))
            batch = rows[:, step * self.batch_size : (step + 1) * self.batch_size]
            pairs = zip(batch, generators, strict=True)
            x = torch.cat([augment(self.images[chosen], recipe.augment, generator) for chosen, generator in pairs])
            share = dist.rows_of(len(x))
            x, y = self._adversarial_batch(x[share], self.labels[batch.flatten()[share]], attack_rng)
            loss, accuracy = self._train_step(x, y)
            losses += loss
            accuracies += accuracy
        dist.all_reduce_mean([losses, accuracies])
        error = self.stopping.update(epoch) if self.stopping else None
        for epochs, loss, accuracy in zip(self.epochs, losses.tolist(), accuracies.tolist(), strict=True):
            epochs.append(Epoch(loss / batches, accuracy / batches, error))
            if not math.isfinite(loss):
                raise UserError(
                    f"{self.title} diverged in epoch {epoch + 1} at lr {recipe.lr:g}; lower lr or raise batch_size."
                )

    def _adversarial_batch(self, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The batch to learn from: clean, attacked, or for each model both, one after the other."""
        if self.recipe.attack is None:
            return x, y
        if self.folded:
            self.folded.sync_weights()
        model = self.folded.model if self.folded else self.network
        attacked = pgd(model, x, y, self.recipe.attack, generator=generator, precision=self.compute.precision)
        if not self.recipe.alpha:
            return attacked, y
        # In one pass, as Kurakin et al. 2017: batch norm then learns the mixture, the one set of statistics it has in
        # eval mode. Two sets (Xie et al. 2020) would need to know which images are attacked.
        return self._interleave(x, attacked), self._interleave(y, y)

    def _interleave(self, clean: Tensor, attacked: Tensor) -> Tensor:
        return torch.cat([part.view(self.count, -1, *part.shape[1:]) for part in (clean, attacked)], 1).flatten(0, 1)

    def _train_step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """One step; each model's loss and accuracy on its batch, or on this rank's part of it."""
        self.replica.train()
        with autocast(x.device, self.compute.precision):
            logits = self.replica(x)
        smoothing = self.recipe.label_smoothing
        loss = self._means(F.cross_entropy(logits.float(), y, label_smoothing=smoothing, reduction="none"))
        self.optimizer.zero_grad(set_to_none=True)
        # A sum over models of means over their batches: no model's gradient depends on the others.
        backward(loss.sum())
        average_batch_norms(self.replica, self.dist)
        self.optimizer.step()
        return loss.detach(), self._means((logits.detach().argmax(1) == y).float())

    def _means(self, values: Tensor) -> Tensor:
        """Over each model's batch; with an `alpha`, the weighted mean over its clean and its attacked half."""
        alpha = self.recipe.alpha
        if not alpha:
            return values.view(self.count, -1).mean(1)
        clean, attacked = values.view(self.count, 2, -1).mean(2).unbind(1)
        return alpha * clean + (1 - alpha) * attacked
