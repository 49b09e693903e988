"""Foolbox's attacks that need no more than images and classes, by names that begin with foolbox-."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from featuregen.attacks.problem import AttackProblem
from featuregen.attacks.registry import register_attack
from featuregen.config.schema import bounded
from featuregen.errors import UserError
from featuregen.runtime.rng import seeded


@dataclass(frozen=True)
class FoolboxMinimal:
    """For attacks that minimise the perturbation. `steps` 0 leaves their number to the table below."""

    steps: int = bounded(0, low=0)


@dataclass(frozen=True)
class FoolboxL1:
    """For attacks in an L1 ball."""

    eps: float = bounded(10.0, low=0)
    steps: int = bounded(0, low=0)


@dataclass(frozen=True)
class FoolboxL2:
    """For attacks in an L2 ball."""

    norm: Literal["l2"] = "l2"
    eps: float = bounded(0.5, low=0)
    steps: int = bounded(0, low=0)


@dataclass(frozen=True)
class FoolboxLinf:
    """For attacks in an Linf ball."""

    norm: Literal["linf"] = "linf"
    eps: float = bounded(8 / 255, low=0)
    steps: int = bounded(0, low=0)


FoolboxSettings = FoolboxMinimal | FoolboxL1 | FoolboxL2 | FoolboxLinf


@dataclass(frozen=True)
class FoolboxAttack:
    """A class of `foolbox.attacks`, its number of steps here unless set, and Foolbox's keyword for them.

    One that `starts_adversarial` walks inwards from an image that is misclassified because noise is blended in.
    """

    class_name: str
    settings: type[FoolboxSettings]
    steps: int
    meaning: str
    steps_keyword: str = "steps"
    queries: bool = False
    targeted: bool = False
    starts_adversarial: bool = False


SUITE: dict[str, FoolboxAttack] = {
    "deepfool-l2": FoolboxAttack("L2DeepFoolAttack", FoolboxMinimal, 50, "small L2 (Moosavi-Dezfooli et al. 2016)"),
    "deepfool-linf": FoolboxAttack(
        "LinfDeepFoolAttack", FoolboxMinimal, 50, "small Linf (Moosavi-Dezfooli et al. 2016)"
    ),
    "carlini-wagner": FoolboxAttack(
        "L2CarliniWagnerAttack", FoolboxMinimal, 1000, "smallest L2 (Carlini & Wagner 2017)", targeted=True
    ),
    "ddn": FoolboxAttack("DDNAttack", FoolboxMinimal, 100, "smallest L2 (Rony et al. 2019)", targeted=True),
    "newton": FoolboxAttack("NewtonFoolAttack", FoolboxMinimal, 100, "small L2 (Jang et al. 2017)"),
    "ead": FoolboxAttack("EADAttack", FoolboxMinimal, 1000, "smallest elastic net (Chen et al. 2018)", targeted=True),
    "fmn-l1": FoolboxAttack("L1FMNAttack", FoolboxMinimal, 100, "smallest L1 (Pintor et al. 2021)", targeted=True),
    "fmn-l0": FoolboxAttack(
        "L0FMNAttack", FoolboxMinimal, 100, "fewest values changed (Pintor et al. 2021)", targeted=True
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
        "VirtualAdversarialAttack", FoolboxL2, 10, "virtual adversarial direction in L2 (Miyato et al. 2015)"
    ),
    "boundary": FoolboxAttack(
        "BoundaryAttack",
        FoolboxMinimal,
        5000,
        "small L2 from predicted classes (Brendel et al. 2018)",
        queries=True,
        starts_adversarial=True,
    ),
    "hopskipjump": FoolboxAttack(
        "HopSkipJumpAttack",
        FoolboxMinimal,
        32,
        "small L2 from predicted classes (Chen et al. 2020)",
        queries=True,
        starts_adversarial=True,
    ),
    "blur": FoolboxAttack(
        "GaussianBlurAttack", FoolboxMinimal, 100, "least Gaussian blur", queries=True, targeted=True
    ),
    "contrast": FoolboxAttack(
        "BinarySearchContrastReductionAttack",
        FoolboxMinimal,
        15,
        "least reduction of contrast",
        steps_keyword="binary_search_steps",
        queries=True,
        targeted=True,
    ),
    "salt-pepper": FoolboxAttack(
        "SaltAndPepperNoiseAttack", FoolboxMinimal, 1000, "fewest black and white pixels", queries=True
    ),
    "blended-noise": FoolboxAttack(
        "LinearSearchBlendedUniformNoiseAttack", FoolboxMinimal, 100, "least uniform noise", queries=True
    ),
}


def _run_foolbox(name: str) -> Callable[[AttackProblem, Any], Tensor]:
    """One of Foolbox's attacks as a function of ours; its results change with the batch size."""
    entry = SUITE[name]

    def run(problem: AttackProblem, settings: FoolboxSettings) -> Tensor:
        # Foolbox loads it.
        importlib.import_module("featuregen.runtime.safe_matplotlib")
        try:
            foolbox: Any = importlib.import_module("foolbox")
        except ImportError:
            raise UserError(f"attack foolbox-{name} needs Foolbox: pip install 'featuregen[attacks]'.") from None
        best, rows = problem.images.clone(), problem.unsolved()
        if not len(rows):
            return best
        # Foolbox draws from torch's global generators.
        with seeded(problem.draws.seed(), problem.images.device), torch.enable_grad():
            net = foolbox.PyTorchModel(problem.model, bounds=(0, 1), device=problem.images.device)
            extra: dict[str, Any] = {}
            if entry.starts_adversarial:
                left = problem[rows]
                blend = foolbox.attacks.LinearSearchBlendedUniformNoiseAttack(steps=50)
                start: Tensor = blend(net, left.images, _criterion(foolbox, left), epsilons=None)[1]
                met = left.criterion.is_met(problem.logits(start))
                rows, extra = rows[met], {"starting_points": start[met]}
            if len(rows):
                left = problem[rows]
                attack = getattr(foolbox.attacks, entry.class_name)(
                    **{entry.steps_keyword: settings.steps or entry.steps}
                )
                eps = None if isinstance(settings, FoolboxMinimal) else settings.eps
                best[rows] = attack(net, left.images, _criterion(foolbox, left), epsilons=eps, **extra)[1]
        return best.clamp(0, 1)

    return run


def _criterion(foolbox: Any, problem: AttackProblem) -> Any:
    if problem.criterion.targeted:
        return foolbox.criteria.TargetedMisclassification(problem.criterion.classes)
    return foolbox.criteria.Misclassification(problem.criterion.classes)


for _name, _entry in SUITE.items():
    register_attack(
        f"foolbox-{_name}",
        settings=_entry.settings,
        meaning=_entry.meaning,
        threat="query" if _entry.queries else "white-box",
        targeted=_entry.targeted,
    )(_run_foolbox(_name))
