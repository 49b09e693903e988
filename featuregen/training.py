"""The one training loop: standard, or adversarial when the recipe names an attack."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featuregen.attacks import pgd
from featuregen.augment import augment
from featuregen.config import Training
from featuregen.errors import UserError
from featuregen.runtime import RowRandom, autocast, progress


@dataclass(frozen=True)
class Epoch:
    loss: float
    accuracy: float


@dataclass(frozen=True)
class TrainingLog:
    """What training saw: on the batches as trained on (augmented, attacked), epoch by epoch."""

    epochs: tuple[Epoch, ...]
    seconds: float

    @property
    def train_accuracy(self) -> float:
        return self.epochs[-1].accuracy


def train(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    recipe: Training,
    *,
    seed: int,
    precision: str = "fp32",
    title: str = "training",
) -> TrainingLog:
    """Train in place on images (NCHW in [0, 1]) that already live on the device; ends in eval mode."""
    device, started = images.device, time.perf_counter()
    batch_size = min(recipe.batch_size, len(images))
    batches = len(images) // batch_size
    optimizer = _optimizer(model, recipe)
    order = RowRandom(seed, "order")
    draws = RowRandom(seed, "augment")
    model.to(memory_format=torch.channels_last)
    log: list[Epoch] = []
    for epoch in progress(range(recipe.epochs), title, recipe.epochs):
        generator = draws.torch_generator(epoch, device)
        rows = torch.from_numpy(order.permutation(epoch, len(images))).to(device)
        losses, hits = torch.zeros((), device=device), torch.zeros((), device=device)
        for step in range(batches):
            _set_rate(optimizer, recipe, (epoch * batches + step) / (recipe.epochs * batches))
            picked = rows[step * batch_size : (step + 1) * batch_size]
            x, y = augment(images[picked], recipe.augment, generator), labels[picked]
            if recipe.attack:
                x = pgd(model, x, y, recipe.attack, generator=generator, precision=precision)
            model.train()
            with autocast(device, precision):
                logits = model(x)
            loss = F.cross_entropy(logits.float(), y, label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
            losses += loss.detach()
            hits += (logits.detach().argmax(1) == y).float().mean()
        log.append(Epoch(losses.item() / batches, hits.item() / batches))
        if not math.isfinite(log[-1].loss):
            raise UserError(f"{title} diverged in epoch {epoch + 1} at lr {recipe.lr:g}; lower lr or raise batch_size.")
    model.eval()
    return TrainingLog(tuple(log), time.perf_counter() - started)


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
