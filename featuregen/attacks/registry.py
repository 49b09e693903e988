"""Every attack by name, with its settings, and one call that runs any of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from featuregen.attacks.auto import auto_pgd
from featuregen.attacks.ensemble import ensemble
from featuregen.attacks.foolbox_suite import SUITE, run_foolbox
from featuregen.attacks.goals import Goal
from featuregen.attacks.noise import noise
from featuregen.attacks.pgd import pgd
from featuregen.attacks.pixels import few_pixels
from featuregen.attacks.smallest import boxed_lbfgs, smallest
from featuregen.attacks.spatial import rotate_translate
from featuregen.attacks.square import square
from featuregen.config import Attack, closest, from_dict
from featuregen.config import attacks as settings
from featuregen.errors import UserError
from featuregen.runtime import RowRandom

Run = Callable[..., Tensor]


@dataclass(frozen=True)
class Known:
    """One row of the table: its settings, what it knows of the model, and whether a class can be asked for."""

    run: Run
    settings: type
    meaning: str
    threat: str = "white-box"
    targeted: bool = True


def _pgd(model: nn.Module, images: Tensor, goal: Goal, chosen: Attack, generator: torch.Generator | None) -> Tensor:
    targets = goal.classes if goal.targeted else None
    return pgd(model, images, goal.classes, chosen, targets=targets, generator=generator)


def _fgsm(
    model: nn.Module, images: Tensor, goal: Goal, chosen: settings.FGSM, generator: torch.Generator | None
) -> Tensor:
    return _pgd(model, images, goal, Attack(chosen.norm, chosen.eps, steps=1, step_size=chosen.eps), generator)


ATTACKS: dict[str, Known] = {
    "fgsm": Known(_fgsm, settings.FGSM, "one step along the gradient (its sign in Linf)"),
    "pgd": Known(_pgd, Attack, "projected gradient steps, with restarts and momentum if asked for"),
    "auto-pgd": Known(auto_pgd, settings.AutoPGD, "steps that halve themselves (Croce & Hein 2020)"),
    "smallest": Known(smallest, settings.Smallest, "the smallest change, L2 or Linf (Pintor et al. 2021)"),
    "lbfgs": Known(boxed_lbfgs, settings.BoxedLBFGS, "the smallest change in L2 (Szegedy et al. 2014)"),
    "pixels": Known(few_pixels, settings.Pixels, "one pixel or a few (Su et al. 2019)", threat="query"),
    "square": Known(square, settings.Square, "random squares (Andriushchenko et al. 2020)", threat="query"),
    "spatial": Known(rotate_translate, settings.Spatial, "rotations and shifts (Engstrom et al. 2019)", threat="query"),
    "noise": Known(noise, settings.Noise, "random changes of the same size: what an attack has to beat", threat="query"),
    "ensemble": Known(ensemble, settings.Ensemble, "auto-PGD on two losses, the smallest change, squares"),
    **{
        f"foolbox-{name}": Known(run_foolbox(name), settings.FoolboxAttack, meaning, targeted=False)
        for name, (_, _, meaning) in SUITE.items()
    },
}


def find_attack(name: str) -> Known:
    if name not in ATTACKS:
        raise UserError(f"'{name}' is no attack; {closest(name, ATTACKS)}")
    return ATTACKS[name]


@dataclass(frozen=True)
class Outcome:
    """What an attack found, image by image, in fp32 on the images as they are given back."""

    images: Tensor
    success: Tensor
    before: Tensor
    after: Tensor
    confidence_before: Tensor
    confidence_after: Tensor
    l0: Tensor
    l1: Tensor
    l2: Tensor
    linf: Tensor


def attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    name: str,
    *,
    targets: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 256,
    **options: Any,
) -> Outcome:
    """Run an attack by its name, such as attack(model, x, y, "pgd", norm="linf", eps=8/255)."""
    known = find_attack(name)
    chosen = from_dict(known.settings, options, f"attack {name}")
    _check(model, images, labels, targets, known, name)
    goal = Goal(labels) if targets is None else Goal(targets, targeted=True)
    generator = RowRandom(seed, f"attack {name}").torch_generator(0, images.device)
    parts = []
    for rows in torch.split(torch.arange(len(images), device=images.device), batch_size):
        parts.append(known.run(model, images[rows], goal[rows], chosen, generator))
    return outcome(model, images, torch.cat(parts), goal, batch_size)


@torch.no_grad()
def outcome(model: nn.Module, images: Tensor, found: Tensor, goal: Goal, batch_size: int = 500) -> Outcome:
    def seen(x: Tensor) -> Tensor:
        return torch.cat([model(part).float() for part in torch.split(x, batch_size)])

    first, last, change = seen(images), seen(found), (found - images).flatten(1)
    before, after = (logits.softmax(1).max(1) for logits in (first, last))
    touched = (found != images).any(1).flatten(1).sum(1)
    return Outcome(
        found, goal.reached(last), before.indices, after.indices, before.values, after.values,
        touched, change.abs().sum(1), change.norm(dim=1), change.abs().amax(1),
    )  # fmt: skip


def _check(
    model: nn.Module, images: Tensor, labels: Tensor, targets: Tensor | None, known: Known, name: str
) -> None:
    """One sentence for what would otherwise be a wrong result or a traceback of torch's."""
    if images.ndim != 4 or not len(images):
        raise UserError(f"attack {name} takes images (N, C, H, W), at least one; got shape {tuple(images.shape)}.")
    if not images.is_floating_point() or not bool(((images >= 0) & (images <= 1)).all()):
        raise UserError(f"attack {name} takes float images in [0, 1]; divide uint8 images by 255.")
    if model.training:
        raise UserError(f"attack {name} takes a model in eval mode; call model.eval() first.")
    if targets is not None and not known.targeted:
        raise UserError(f"attack {name} cannot be given targets; it leaves an image's own class for any other.")
    with torch.no_grad():
        classes = model(images[:1]).shape[1]
    for what, wanted in (("labels", labels), ("targets", targets)):
        if wanted is None:
            continue
        if wanted.shape != (len(images),) or wanted.is_floating_point():
            raise UserError(f"attack {name} takes one whole number per image as {what}; got {tuple(wanted.shape)}.")
        if not bool(((wanted >= 0) & (wanted < classes)).all()):
            raise UserError(f"attack {name}: {what} must lie in 0 to {classes - 1}, the classes of the model.")


def attack_table() -> str:
    """Name, threat model, settings and meaning of every attack."""
    rows = [("name", "knows", "settings", "what it does")]
    for name, known in ATTACKS.items():
        rows.append((name, known.threat, ", ".join(field.name for field in fields(known.settings)), known.meaning))
    spans = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join("  ".join(cell.ljust(span) for cell, span in zip(row, spans, strict=True)).rstrip() for row in rows)
