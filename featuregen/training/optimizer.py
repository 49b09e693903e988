"""The optimizer of a recipe, and its learning rate over time."""

from __future__ import annotations

import math

import torch
from torch import nn

from featuregen.config.schema import Training


def make_optimizer(model: nn.Module, recipe: Training) -> torch.optim.Optimizer:
    parameters = list(model.parameters())
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    return torch.optim.SGD(
        parameters, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, fused=True
    )


def learning_rate(recipe: Training, done: float) -> float:
    """The learning rate after a fraction `done` of all steps."""
    if recipe.schedule == "onecycle":
        rise = 0.2
        return recipe.lr * max(min(done / rise, (1 - done) / (1 - rise)), 1e-3)
    if recipe.schedule == "cosine":
        return recipe.lr * 0.5 * (1 + math.cos(math.pi * done))
    if recipe.schedule == "steps":
        return recipe.lr * 0.1 ** sum(done >= milestone for milestone in recipe.milestones)
    return recipe.lr


def set_learning_rate(optimizer: torch.optim.Optimizer, recipe: Training, done: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(recipe, done)
