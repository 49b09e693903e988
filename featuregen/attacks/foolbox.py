"""Attacks of Foolbox's that need no more than images and classes, behind the same interface as ours."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from featuregen.attacks.problem import AttackProblem
from featuregen.config import FoolboxL1, FoolboxL2, FoolboxLinf, FoolboxSmallest
from featuregen.errors import UserError
from featuregen.runtime import seeded

FoolboxSettings = FoolboxSmallest | FoolboxL1 | FoolboxL2 | FoolboxLinf


@dataclass(frozen=True)
class FoolboxAttack:
    """A class of `foolbox.attacks`, how many steps it takes here unless asked otherwise, and what it calls them.

    One that `starts_lost` walks inwards from an image that is lost already: some noise blended in.
    """

    kind: str
    settings: type[FoolboxSettings]
    steps: int
    meaning: str
    steps_are: str = "steps"
    queries: bool = False
    targeted: bool = False
    starts_lost: bool = False


SUITE: dict[str, FoolboxAttack] = {
    "deepfool-l2": FoolboxAttack("L2DeepFoolAttack", FoolboxSmallest, 50, "small L2 (Moosavi-Dezfooli et al. 2016)"),
    "deepfool-linf": FoolboxAttack(
        "LinfDeepFoolAttack", FoolboxSmallest, 50, "small Linf (Moosavi-Dezfooli et al. 2016)"
    ),
    "carlini-wagner": FoolboxAttack(
        "L2CarliniWagnerAttack", FoolboxSmallest, 1000, "smallest L2 (Carlini & Wagner 2017)", targeted=True
    ),
    "ddn": FoolboxAttack("DDNAttack", FoolboxSmallest, 100, "smallest L2 (Rony et al. 2019)", targeted=True),
    "newton": FoolboxAttack("NewtonFoolAttack", FoolboxSmallest, 100, "small L2 (Jang et al. 2017)"),
    "ead": FoolboxAttack("EADAttack", FoolboxSmallest, 1000, "smallest elastic net (Chen et al. 2018)", targeted=True),
    "fmn-l1": FoolboxAttack("L1FMNAttack", FoolboxSmallest, 100, "smallest L1 (Pintor et al. 2021)", targeted=True),
    "fmn-l0": FoolboxAttack(
        "L0FMNAttack", FoolboxSmallest, 100, "fewest values changed (Pintor et al. 2021)", targeted=True
    ),
    "mi-fgsm": FoolboxAttack(
        "LinfMomentumIterativeFastGradientMethod", FoolboxLinf, 10, "momentum in Linf (Dong et al. 2018)", targeted=True
    ),
    "mi-fgsm-l2": FoolboxAttack(
        "L2MomentumIterativeFastGradientMethod", FoolboxL2, 10, "momentum in L2 (Dong et al. 2018)", targeted=True
    ),
    "adam-pgd": FoolboxAttack(
        "LinfAdamProjectedGradientDescentAttack", FoolboxLinf, 40, "PGD in Linf with Adam's steps", targeted=True
    ),
    "pgd-l1": FoolboxAttack("L1ProjectedGradientDescentAttack", FoolboxL1, 50, "PGD in L1", targeted=True),
    "sparse-l1": FoolboxAttack(
        "SparseL1DescentAttack", FoolboxL1, 50, "sparse steps in L1 (Tramèr & Boneh 2019)", targeted=True
    ),
    "virtual": FoolboxAttack(
        "VirtualAdversarialAttack", FoolboxL2, 10, "where the prediction changes most (Miyato et al. 2015)"
    ),
    "boundary": FoolboxAttack(
        "BoundaryAttack",
        FoolboxSmallest,
        5000,
        "small L2 from classes (Brendel et al. 2018)",
        queries=True,
        starts_lost=True,
    ),
    "hopskipjump": FoolboxAttack(
        "HopSkipJumpAttack",
        FoolboxSmallest,
        32,
        "small L2 from classes (Chen et al. 2020)",
        queries=True,
        starts_lost=True,
    ),
    "blur": FoolboxAttack(
        "GaussianBlurAttack", FoolboxSmallest, 100, "as little blur as it takes", queries=True, targeted=True
    ),
    "contrast": FoolboxAttack(
        "BinarySearchContrastReductionAttack",
        FoolboxSmallest,
        15,
        "as little grey as it takes",
        steps_are="binary_search_steps",
        queries=True,
        targeted=True,
    ),
    "salt-pepper": FoolboxAttack(
        "SaltAndPepperNoiseAttack", FoolboxSmallest, 1000, "as few black and white pixels as it takes", queries=True
    ),
    "blended-noise": FoolboxAttack(
        "LinearSearchBlendedUniformNoiseAttack", FoolboxSmallest, 100, "as little noise as it takes", queries=True
    ),
}


def run_foolbox(name: str) -> Callable[[AttackProblem, Any], Tensor]:
    """The attack as one of ours. Its random numbers are those of a batch, so they change with the batch's size."""
    theirs = SUITE[name]

    def run(task: AttackProblem, settings: FoolboxSettings) -> Tensor:
        foolbox = _imported(name)
        found, rows = task.images.clone(), task.unsolved()
        if not len(rows):
            return found
        # Foolbox draws from torch's global generators.
        with seeded(task.draws.seed(), task.images.device), torch.enable_grad():
            net = foolbox.PyTorchModel(task.model, bounds=(0, 1), device=task.images.device)
            extra: dict[str, Any] = {}
            if theirs.starts_lost:
                start = _lost(foolbox, net, task[rows])
                lost = task[rows].goal.reached(task.logits(start))
                rows, extra = rows[lost], {"starting_points": start[lost]}
            if len(rows):
                part = task[rows]
                attack = getattr(foolbox.attacks, theirs.kind)(**{theirs.steps_are: settings.steps or theirs.steps})
                eps = None if isinstance(settings, FoolboxSmallest) else settings.eps
                found[rows] = attack(net, part.images, _criterion(foolbox, part), epsilons=eps, **extra)[1]
        return found.clamp(0, 1)

    return run


def _imported(name: str) -> Any:
    try:
        return importlib.import_module("foolbox")
    except ImportError:
        raise UserError(f"attack foolbox-{name} needs Foolbox: pip install 'featuregen[attacks]'.") from None


def _criterion(foolbox: Any, task: AttackProblem) -> Any:
    kind = foolbox.criteria.TargetedMisclassification if task.goal.targeted else foolbox.criteria.Misclassification
    return kind(task.goal.classes)


def _lost(foolbox: Any, net: Any, task: AttackProblem) -> Tensor:
    blend = foolbox.attacks.LinearSearchBlendedUniformNoiseAttack(steps=50)
    start: Tensor = blend(net, task.images, _criterion(foolbox, task), epsilons=None)[1]
    return start
