"""How attack_pairs.py calls an attack of Foolbox, torchattacks or ART: as their users do, each on the model itself."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers import as_art
from featuregen.models.classifier import Classifier

# From images and labels to what the attack makes of them.
Run = Callable[[Tensor, Tensor], Tensor]
# Whatever a package builds of a model is built here, outside the clock.
Start = Callable[[Classifier], Run]


def by_foolbox(kind: str, eps: float | None = None, **settings: Any) -> Start:
    def start(model: Classifier) -> Run:
        package = importlib.import_module("foolbox")
        net = package.PyTorchModel(model, bounds=(0, 1), device=model.mean.device)
        attack = getattr(package.attacks, kind)(**settings)

        def run(images: Tensor, labels: Tensor) -> Tensor:
            found: Tensor = attack(net, images, package.criteria.Misclassification(labels), epsilons=eps)[1]
            return found

        return run

    return start


def by_torchattacks(kind: str, **settings: Any) -> Start:
    def start(model: Classifier) -> Run:
        run: Run = getattr(importlib.import_module("torchattacks"), kind)(model, **settings)
        return run

    return start


def by_torchattacks_ensemble(norm: str, eps: float, steps: int, queries: int, seed: int) -> Start:
    """AutoAttack takes neither steps nor queries; its parts do."""

    def start(model: Classifier) -> Run:
        package = importlib.import_module("torchattacks")
        whole = package.AutoAttack(model, norm=norm, eps=eps, n_classes=model.classes, seed=seed)
        *walks, squares = whole._autoattack.attacks
        for walk in walks:
            walk.steps = steps
        squares.n_queries = queries
        run: Run = whole
        return run

    return start


def by_art(kind: str, batched: bool = True, **settings: Any) -> Start:
    """Its arrays are made and taken back inside the clock, since that is how it talks."""

    def start(model: Classifier) -> Run:
        classifier = as_art(importlib.import_module("art.estimators.classification"), model)
        attack = getattr(importlib.import_module("art.attacks.evasion"), kind)

        def run(images: Tensor, labels: Tensor) -> Tensor:
            size = {"batch_size": len(images)} if batched else {}
            # Anew each time: some of its attacks remember what they found for the images before.
            made = attack(classifier, verbose=False, **settings, **size)
            found = made.generate(x=images.cpu().numpy(), y=labels.cpu().numpy())
            return torch.from_numpy(np.asarray(found, dtype=np.float32)).to(images.device)

        return run

    return start


def by_art_moves(degrees: float, pixels: float, angles: int, shifts: int) -> Start:
    """It takes shifts in per cent, looks for one move that serves all images, and takes the channels for the height.

    So images of one channel are never shifted upright.
    """

    def start(model: Classifier) -> Run:
        share = 100 * pixels / model.image_shape[1]
        grid = {"max_rotation": degrees, "num_rotations": angles, "max_translation": share, "num_translations": shifts}
        return by_art("SpatialTransformation", batched=False, **grid)(model)

    return start
