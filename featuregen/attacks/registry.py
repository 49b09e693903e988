"""Every attack by name: its settings, what it knows of the model, and whether a class can be asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal

from torch import Tensor

from featuregen.attacks.apgd import apgd
from featuregen.attacks.ensemble import ensemble
from featuregen.attacks.few_pixel import few_pixel
from featuregen.attacks.fmn import fmn
from featuregen.attacks.foolbox import SUITE, run_foolbox
from featuregen.attacks.lbfgs import boxed_lbfgs
from featuregen.attacks.noise import noise
from featuregen.attacks.pgd import pgd
from featuregen.attacks.problem import AttackProblem
from featuregen.attacks.spatial import rotate_translate
from featuregen.attacks.square import square
from featuregen.config import Attack, did_you_mean
from featuregen.config import attacks as settings
from featuregen.errors import UserError
from featuregen.runtime import format_columns


@dataclass(frozen=True)
class AttackInfo:
    """One row of the table. A white-box attack is given gradients, one by queries the logits or classes alone."""

    run: Callable[[AttackProblem, Any], Tensor]
    settings: type
    meaning: str
    threat: Literal["white-box", "query"] = "white-box"
    targeted: bool = True


def _pgd(task: AttackProblem, chosen: settings.PGD) -> Tensor:
    attack = Attack(
        chosen.norm, chosen.eps, chosen.steps, chosen.step_size, chosen.random_start, restarts=chosen.restarts
    )
    classes = task.goal.classes
    return pgd(
        task.model,
        task.images,
        classes,
        attack,
        targets=classes if task.goal.targeted else None,
        generator=task.draws,
        momentum=chosen.momentum,
    )


def _fgsm(task: AttackProblem, chosen: settings.FGSM) -> Tensor:
    return _pgd(task, settings.PGD(chosen.norm, chosen.eps, steps=1, step_size=chosen.eps))


ATTACKS: dict[str, AttackInfo] = {
    "fgsm": AttackInfo(
        _fgsm, settings.FGSM, "one step along the gradient, of its sign in Linf (Goodfellow et al. 2015)"
    ),
    "pgd": AttackInfo(_pgd, settings.PGD, "projected gradient steps (Madry et al. 2018)"),
    "auto-pgd": AttackInfo(apgd, settings.APGD, "steps that halve themselves (Croce & Hein 2020)"),
    "smallest": AttackInfo(fmn, settings.FMN, "the smallest change, L2 or Linf (Pintor et al. 2021)"),
    "lbfgs": AttackInfo(boxed_lbfgs, settings.BoxedLBFGS, "the smallest change in L2 (Szegedy et al. 2014)"),
    "pixels": AttackInfo(few_pixel, settings.Pixels, "one pixel or a few (Su et al. 2019)", threat="query"),
    "spatial": AttackInfo(
        rotate_translate, settings.Spatial, "rotations and shifts (Engstrom et al. 2019)", threat="query"
    ),
    "square": AttackInfo(square, settings.Square, "random squares (Andriushchenko et al. 2020)", threat="query"),
    "noise": AttackInfo(
        noise, settings.Noise, "random changes of the same size: what an attack has to beat", threat="query"
    ),
    "ensemble": AttackInfo(ensemble, settings.Ensemble, "auto-PGD on two losses, the smallest change, then squares"),
} | {
    f"foolbox-{name}": AttackInfo(
        run_foolbox(name),
        theirs.settings,
        theirs.meaning,
        threat="query" if theirs.queries else "white-box",
        targeted=theirs.targeted,
    )
    for name, theirs in SUITE.items()
}


def find_attack(name: str) -> AttackInfo:
    if name not in ATTACKS:
        raise UserError(f"'{name}' is no attack; {did_you_mean(name, ATTACKS)}")
    return ATTACKS[name]


def attack_table() -> str:
    """The table, ready to print."""
    rows = [("name", "knows", "targeted", "settings and their defaults", "what it does")]
    for name, known in ATTACKS.items():
        options = ", ".join(f"{field.name} {_short(field.default)}" for field in fields(known.settings))
        rows.append((name, known.threat, "yes" if known.targeted else "no", options, known.meaning))
    return "\n".join(format_columns(rows))


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).lower()
