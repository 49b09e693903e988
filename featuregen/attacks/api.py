"""One call for every attack of the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from featuregen.attacks.criterion import Criterion
from featuregen.attacks.problem import AttackProblem
from featuregen.attacks.registry import AttackInfo, find_attack
from featuregen.attacks.result import AttackResult, clip_exact, measure_result
from featuregen.compute import Ball, folded_copy, frozen_eval
from featuregen.config import from_dict
from featuregen.errors import UserError
from featuregen.models import Classifier
from featuregen.runtime import ComputeSpec, RowRandom, progress


def attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    name: str,
    *,
    targets: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 256,
    compute: ComputeSpec | None = None,
    **options: Any,
) -> AttackResult:
    """Run an attack by its name, such as attack(model, x, y, "pgd", norm="l2", eps=0.5, steps=50).

    The goal is any class but an image's label, or its target where targets are given; they may be labels too. At most
    `batch_size` images go through the model at once. Random numbers are keyed by seed, attack and row, so a batch's
    size changes results only as far as it changes the last bits of the model, except with Foolbox's attacks, which
    draw for a batch as a whole. What does not reach its goal comes back as near to it as the attack got, or unchanged
    where it looks for the smallest change. A radius of 0 gives the images back.

    A model of featuregen's is attacked by way of a stand-in that answers alike in less time, on the `machine` that is
    asked for; what was reached is what the model itself sees.
    """
    known = find_attack(name)
    chosen = settings_for(name, options)
    _check_call(name, known, targets, seed, batch_size)
    _check_images(name, images)
    _check_model(name, model, images)
    with frozen_eval(model), torch.no_grad():
        images, classes = images.detach(), _classes(name, known, model, images)
        goal = Criterion(_checked(name, "labels", labels, images, classes))
        if targets is not None:
            goal = Criterion(_checked(name, "targets", targets, images, classes), targeted=True)
        draws = RowRandom(seed, f"attack {name}").draws(range(len(images)), images.device)
        lean = folded_copy(model, compute or ComputeSpec(images.device)) if isinstance(model, Classifier) else model
        found = _found(AttackProblem(lean, images, goal, draws, batch_size), name, known, chosen)
        return measure_result(model, images, found, goal, batch_size)


def settings_for(name: str, options: Mapping[str, Any]) -> Any:
    """The attack's settings with these options, checked; texts such as 8/255 are read as a config's are."""
    return from_dict(find_attack(name).settings, options, f"attack {name}")


def _found(task: AttackProblem, name: str, known: AttackInfo, chosen: Any) -> Tensor:
    eps, norm = getattr(chosen, "eps", None), getattr(chosen, "norm", None)
    if eps == 0:
        return task.images.clone()
    rows = torch.split(torch.arange(len(task), device=task.images.device), task.max_batch)
    parts = []
    for part in progress(rows, f"attack {name}", total=len(rows)):
        # Batches that went on counting where the one before ended would depend on their size.
        left = replace(task[part], draws=task.draws.fork(part))
        found = known.run(left, chosen)
        parts.append(found if eps is None or norm is None else clip_exact(found, Ball(norm, eps, left.images)))
    return torch.cat(parts)


def _check_call(name: str, known: AttackInfo, targets: Tensor | None, seed: int, batch_size: int) -> None:
    if targets is not None and not known.targeted:
        raise UserError(f"attack {name} takes no targets; leave them out, or choose an attack that can be targeted.")
    for what, value, low in (("seed", seed, 0), ("batch_size", batch_size, 1)):
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value < 2**63:
            raise UserError(f"attack {name}: {what} is {value!r}; give a whole number from {low} on.")


def _check_images(name: str, images: Tensor) -> None:
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.numel():
        got = f"the shape {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise UserError(f"attack {name} takes images as a tensor (N, C, H, W), at least one; got {got}.")
    if images.dtype not in (torch.float32, torch.float64):
        kind = str(images.dtype).removeprefix("torch.")
        raise UserError(f"attack {name} takes float32 images in [0, 1], and these are {kind}; convert them first.")
    # In this form nan fails too.
    if not bool(((images >= 0) & (images <= 1)).all()):
        low, high = images.min().item(), images.max().item()
        raise UserError(f"attack {name} takes images in [0, 1]; these go from {low:g} to {high:g}.")


def _check_model(name: str, model: nn.Module, images: Tensor) -> None:
    if not isinstance(model, nn.Module):
        raise UserError(f"attack {name} takes a torch.nn.Module as the model; got {type(model).__name__}.")
    if model.training:
        raise UserError(f"attack {name} takes a model in eval mode, since training mode changes it; call model.eval().")
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device != images.device:
            raise UserError(f"attack {name}: the model is on {tensor.device} and the images on {images.device}.")


def _classes(name: str, known: AttackInfo, model: nn.Module, images: Tensor) -> int:
    """How many the model knows; one image is enough to see that it can be attacked."""
    try:
        with torch.enable_grad():
            logits = model(images[:1].detach().requires_grad_(True))
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise UserError(f"attack {name}: the model fails on images {tuple(images.shape[1:])}: {reason}.") from None
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"attack {name} takes a model that gives (N, classes) logits, two at least; it gives {got}.")
    if known.threat == "white-box" and not logits.requires_grad:
        raise UserError(
            f"attack {name} follows the gradient, and the model's logits have none with respect to the images; "
            "let the model keep it, or choose an attack that only asks, such as square."
        )
    return logits.shape[1]


def _checked(name: str, what: str, given: Tensor, images: Tensor, classes: int) -> Tensor:
    whole = isinstance(given, Tensor) and not (given.is_floating_point() or given.is_complex())
    if not whole or given.dtype == torch.bool or given.shape != (len(images),):
        got = f"{given.dtype} of shape {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
        raise UserError(
            f"attack {name} takes {what} as a tensor of {len(images)} whole numbers, one per image; got {got}."
        )
    if not bool(((given >= 0) & (given < classes)).all()):
        low, high = int(given.min()), int(given.max())
        raise UserError(
            f"attack {name}: {what} go from {low} to {high}; the model's {classes} classes are 0 to {classes - 1}."
        )
    return given.to(images.device, torch.int64)
