"""The one training loop: standard, or adversarial when the recipe names an attack."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featuregen.attacks import pgd
from featuregen.compute import FoldedModel, GroupedEnsemble, supports_grouping
from featuregen.config import Training, check_training
from featuregen.data import ImageSource
from featuregen.errors import UserError
from featuregen.models import Classifier
from featuregen.runtime import SINGLE_PROCESS, ComputeSpec, DistInfo, RowRandom, autocast, progress, seeded
from featuregen.training.augment import augment
from featuregen.training.data_parallel import (
    all_reduce_grads,
    check_equal_shares,
    check_same_epoch,
    rank_rng,
    rank_seed,
    reseed_rank,
    sync_batch_norm,
)
from featuregen.training.early_stopping import EarlyStopping
from featuregen.training.resume import TrainingState


@dataclass(frozen=True)
class Epoch:
    """`error` is that on the images held out, where there are any."""

    loss: float
    accuracy: float
    error: float | None = None


@dataclass(frozen=True)
class TrainingLog:
    """What training saw: on the batches as trained on (augmented, attacked), epoch by epoch.

    The weights are those after epoch `kept`, counted from 1; `ended` says why no other followed the last one.
    """

    epochs: tuple[Epoch, ...]
    seconds: float
    kept: int
    ended: str

    @property
    def train_accuracy(self) -> float:
        return self.epochs[self.kept - 1].accuracy


def train(
    model: Classifier,
    images: ImageSource,
    labels: Tensor,
    recipe: Training,
    *,
    seed: int,
    compute: ComputeSpec | None = None,
    title: str = "training",
    state_file: TrainingState | None = None,
    dist: DistInfo = SINGLE_PROCESS,
) -> TrainingLog:
    """Train in place on images (NCHW in [0, 1]) of the device, or fetched to it; ends in eval mode.

    Of several processes, each learns from its part of every batch, and all end with the same weights.
    """
    (log,) = train_many(
        [model], images, labels, recipe, seeds=[seed], compute=compute, title=title, state_file=state_file, dist=dist
    )
    return log


def train_many(
    models: Sequence[Classifier],
    images: ImageSource,
    labels: Tensor,
    recipe: Training,
    *,
    seeds: Sequence[int],
    compute: ComputeSpec | None = None,
    title: str = "training",
    state_file: TrainingState | None = None,
    dist: DistInfo = SINGLE_PROCESS,
) -> list[TrainingLog]:
    """Train several models on the same images, each in its own order: side by side if small, else in turn.

    With `halfway`, for one model or several side by side, a training that was stopped goes on where it was.
    """
    device = images.device
    check_training(recipe, "the recipe")
    if len(models) > 1 and (dist.world_size > 1 or not can_group(models[0].architecture, recipe)):
        if state_file:
            raise ValueError("Models that are trained in turn need a Halfway each; train them one by one.")
        same: dict[str, Any] = {"compute": compute, "title": title, "dist": dist}
        pairs = zip(models, seeds, strict=True)
        return [train(model, images, labels, recipe, seed=seed, **same) for model, seed in pairs]
    network = GroupedEnsemble(models) if len(models) > 1 else models[0]
    dist.broadcast_(network.state_dict().values())
    # Dropout draws from the global generator.
    with seeded(rank_seed(seeds[0], dist), device):
        logs = _train(
            models, network, images, labels, recipe, seeds, compute or ComputeSpec(device), title, state_file, dist
        )
    if isinstance(network, GroupedEnsemble):
        network.unstack_()
    for model in models:
        model.eval()
    return logs


def can_group(architecture: str, recipe: Training) -> bool:
    """Whether several seeds go side by side: random starts would have one model draw from another's numbers.

    Nor would models that keep different epochs, of different images, end together.
    """
    wanders = recipe.attack is not None and (recipe.attack.random_start or recipe.attack.restarts > 1)
    return supports_grouping(architecture) and not wanders and recipe.early_stop == "none"


def _train(
    models: Sequence[Classifier],
    network: nn.Module,
    images: ImageSource,
    labels: Tensor,
    recipe: Training,
    seeds: Sequence[int],
    compute: ComputeSpec,
    title: str,
    state_file: TrainingState | None,
    dist: DistInfo,
) -> list[TrainingLog]:
    device, started = images.device, time.perf_counter()
    optimizer = _optimizer(network, recipe)
    network.to(memory_format=torch.channels_last)
    lean = FoldedModel(network, compute) if recipe.attack and isinstance(network, Classifier) else None
    choice = (
        None if recipe.early_stop == "none" else EarlyStopping(models[0], lean, images, labels, recipe, seeds[0], dist)
    )
    pool = choice.others if choice else torch.arange(len(images))
    batch_size = min(recipe.batch_size, len(pool))
    batches = len(pool) // batch_size
    check_equal_shares(batch_size, dist, title)
    learner = sync_batch_norm(network, dist)
    log: list[list[Epoch]] = [[] for _ in models]
    spent = 0.0
    if state_file and (found := state_file.resume(network, optimizer, device)):
        with state_file.understood():
            log, spent = _load_state(*found, choice)
    check_same_epoch(len(log[0]), dist, title)
    for epoch in progress(range(len(log[0]), recipe.epochs), title, recipe.epochs - len(log[0])):
        orders = [torch.from_numpy(RowRandom(seed, "order").permutation(epoch, len(pool))) for seed in seeds]
        rows = pool[torch.stack(orders)].to(device)
        draws = [RowRandom(seed, "augment").torch_generator(epoch, device) for seed in seeds]
        reseed_rank(seeds[0], epoch, dist, device)
        wander = draws[0] if dist.world_size == 1 else rank_rng(seeds[0], dist).torch_generator(epoch, device)
        losses, hits = torch.zeros(len(models), device=device), torch.zeros(len(models), device=device)
        for step in range(batches):
            _set_rate(optimizer, recipe, (epoch * batches + step) / (recipe.epochs * batches))
            picked = rows[:, step * batch_size : (step + 1) * batch_size]
            x = torch.cat([augment(images[own], recipe.augment, draw) for own, draw in zip(picked, draws, strict=True)])
            part = dist.rows_of(len(x))
            x, y = x[part], labels[picked.flatten()[part]]
            x, y = _adversarial_batch(network, lean, x, y, recipe, wander, compute, len(models))
            loss, hit = _train_step(learner, optimizer, x, y, recipe, len(models), compute, dist)
            losses += loss
            hits += hit
        dist.all_reduce_mean([losses, hits])
        error = choice.look(epoch) if choice else None
        for number, (loss_sum, hit_sum) in enumerate(zip(losses.tolist(), hits.tolist(), strict=True)):
            log[number].append(Epoch(loss_sum / batches, hit_sum / batches, error))
            if not math.isfinite(loss_sum):
                raise UserError(
                    f"{title} diverged in epoch {epoch + 1} at lr {recipe.lr:g}; lower lr or raise batch_size."
                )
        if choice and choice.should_stop(epoch):
            break
        if state_file and dist.is_main and epoch + 1 < recipe.epochs:
            told = {"epochs": log, "seconds": spent + time.perf_counter() - started}
            _save_state(state_file, network, optimizer, device, told, choice)
    kept = choice.settle() if choice else recipe.epochs
    ended = "all epochs are run"
    if len(log[0]) < recipe.epochs:
        ended = f"no smaller error in {recipe.patience} epoch{'s' * (recipe.patience > 1)}"
    seconds = (spent + time.perf_counter() - started) / len(models)
    return [TrainingLog(tuple(epochs), seconds, kept, ended) for epochs in log]


def _save_state(
    state_file: TrainingState,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    told: dict[str, Any],
    choice: EarlyStopping | None,
) -> None:
    seen, weights = choice.state() if choice else ({}, {})
    epochs = [[asdict(epoch) for epoch in own] for own in told["epochs"]]
    state_file.save(network, optimizer, device, told | {"epochs": epochs, "choice": seen}, weights)


def _load_state(
    told: dict[str, Any], weights: dict[str, Tensor], choice: EarlyStopping | None
) -> tuple[list[list[Epoch]], float]:
    """The epochs and the seconds that lie behind."""
    if choice:
        choice.restore(told["choice"], weights)
    return [[Epoch(**epoch) for epoch in own] for own in told["epochs"]], told["seconds"]


def _adversarial_batch(
    network: nn.Module,
    lean: FoldedModel | None,
    x: Tensor,
    y: Tensor,
    recipe: Training,
    generator: torch.Generator,
    compute: ComputeSpec,
    count: int,
) -> tuple[Tensor, Tensor]:
    """The batch as it is learnt from: clean, attacked, or for each of `count` models both, one after the other."""
    if recipe.attack is None:
        return x, y
    if lean:
        lean.sync_weights()
    found = pgd(lean.net if lean else network, x, y, recipe.attack, generator=generator, precision=compute.precision)
    if not recipe.alpha:
        return found, y
    # In one pass, as Kurakin et al. 2017: batch norm then learns the mixture, the one set of statistics it has in eval
    # mode. Two sets (Xie et al. 2020) would have to be told which images are attacked.
    return _interleave(x, found, count), _interleave(y, y, count)


def _interleave(clean: Tensor, attacked: Tensor, count: int) -> Tensor:
    return torch.cat([part.view(count, -1, *part.shape[1:]) for part in (clean, attacked)], 1).flatten(0, 1)


def _train_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    recipe: Training,
    count: int,
    compute: ComputeSpec,
    dist: DistInfo,
) -> tuple[Tensor, Tensor]:
    """One step; each model's loss and accuracy on its batch, or on this process's part of it."""
    network.train()
    with autocast(x.device, compute.precision):
        logits = network(x)
    each = F.cross_entropy(logits.float(), y, label_smoothing=recipe.label_smoothing, reduction="none")
    loss = _means(each, count, recipe.alpha)
    optimizer.zero_grad(set_to_none=True)
    # A sum over models of means over their batches: no model's gradient knows of the others.
    torch.autograd.backward(loss.sum())
    all_reduce_grads(network, dist)
    optimizer.step()
    return loss.detach(), _means((logits.detach().argmax(1) == y).float(), count, recipe.alpha)


def _means(values: Tensor, count: int, alpha: float) -> Tensor:
    """Over each model's batch; with an `alpha`, over its clean and its attacked half, weighed."""
    if not alpha:
        return values.view(count, -1).mean(1)
    clean, attacked = values.view(count, 2, -1).mean(2).unbind(1)
    return alpha * clean + (1 - alpha) * attacked


# Rates ---------------------------------------------------------------------------------------------


def learning_rate(recipe: Training, done: float) -> float:
    """The rate after a share `done` of all steps."""
    if recipe.schedule == "onecycle":
        rise = 0.2
        return recipe.lr * max(min(done / rise, (1 - done) / (1 - rise)), 1e-3)
    if recipe.schedule == "cosine":
        return recipe.lr * 0.5 * (1 + math.cos(math.pi * done))
    if recipe.schedule == "steps":
        return recipe.lr * 0.1 ** sum(done >= milestone for milestone in recipe.milestones)
    return recipe.lr


def _optimizer(model: nn.Module, recipe: Training) -> torch.optim.Optimizer:
    parameters = list(model.parameters())
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    return torch.optim.SGD(
        parameters, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, fused=True
    )


def _set_rate(optimizer: torch.optim.Optimizer, recipe: Training, done: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(recipe, done)
