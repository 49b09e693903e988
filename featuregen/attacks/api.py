"""One call for every attack of the table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args, overload

import torch
from torch import Tensor, nn

from featuregen.attacks.criterion import Criterion
from featuregen.attacks.problem import AttackProblem
from featuregen.attacks.registry import AttackInfo, find_attack, settings_for
from featuregen.attacks.result import AttackResult, clip_exact, measure_result
from featuregen.compute.folding import folded_copy
from featuregen.compute.optimize import Ball, frozen_eval
from featuregen.config.schema import Norm
from featuregen.errors import UserError
from featuregen.models.classifier import Classifier
from featuregen.runtime.console import progress
from featuregen.runtime.device import ComputeSpec
from featuregen.runtime.rng import RowRandom


@overload
def attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    name: str,
    *,
    eps: list[Any] | tuple[Any, ...],
    targets: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 256,
    compute: ComputeSpec | None = None,
    **settings: Any,
) -> list[AttackResult]: ...


@overload
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
    **settings: Any,
) -> AttackResult: ...


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
    **settings: Any,
) -> AttackResult | list[AttackResult]:
    """Run an attack by its name.

    The criterion is misclassification, or classification as `targets` where they are passed. Random numbers are keyed
    by seed, attack and row, so that the batch size changes results by rounding errors at most, except with Foolbox's
    attacks, which draw for a whole batch. An image that stays unsolved is returned at its highest loss, or unchanged by
    an attack that minimises the perturbation. An eps of 0 returns the images.

    A `Classifier` of featuregen's is attacked through a faster copy, its batch norms folded into its convolutions;
    success is measured on the model itself.

    Args:
        model: Any torch.nn.Module in eval mode that maps images in [0, 1] to logits (N, classes).
        images: float32 in [0, 1], (N, C, H, W), on the model's device.
        labels: The true class of every image.
        name: One of `list_attacks()` in any case, or an alias: apgd, fmn, cw, deepfool.
        targets: The class to reach for every image. Default: any class but the label.
        seed: Seed of everything random.
        batch_size: How many images go through the model at once.
        compute: Device and precision of the faster copy. Default: fp32 on the device of the images.
        settings: The attack's settings, such as norm="linf", eps=8/255, steps=50; `featuregen attacks` lists them. A
            list of radii as `eps` runs the attack once per radius.

    Returns:
        An `AttackResult`, or a list of them in the order of `eps` where that is a list.

    Raises:
        UserError: An argument is wrong; the sentence says which one and what to pass instead.

    Example:
        >>> import torch, featuregen as fg
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
        >>> images = torch.full((2, 1, 8, 8), 0.5)
        >>> labels = model(images).argmax(1)
        >>> fg.attack(model, images, labels, "apgd", norm="linf", eps=0.25).success_rate
        1.0
        >>> none, some = fg.attack(model, images, labels, "pgd", norm="linf", eps=[0, 0.25])
        >>> none.success_rate, some.success_rate
        (0.0, 1.0)
    """
    if isinstance(eps := settings.get("eps"), (list, tuple)):
        if not eps:
            raise UserError(f"attack {name}: eps is an empty list; give at least one radius, such as 8/255.")
        each = [{**settings, "eps": radius} for radius in eps]
        for one in each:
            settings_for(name, one)
        options: dict[str, Any] = {"targets": targets, "seed": seed, "batch_size": batch_size, "compute": compute}
        return [attack(model, images, labels, name, **options, **one) for one in each]
    info, chosen = find_attack(name, settings.get("norm")), settings_for(name, settings)
    _check_call(info, targets, seed, batch_size)
    _check_images(info.name, images)
    _check_model(info.name, model, images)
    with frozen_eval(model), torch.no_grad():
        images, classes = images.detach(), _count_classes(info, model, images)
        criterion = Criterion(_checked(info.name, "labels", labels, images, classes))
        if targets is not None:
            criterion = Criterion(_checked(info.name, "targets", targets, images, classes), targeted=True)
        draws = RowRandom(seed, f"attack {info.name}").draws(range(len(images)), images.device)
        folded = folded_copy(model, compute or ComputeSpec(images.device)) if isinstance(model, Classifier) else model
        adversarial = _run(AttackProblem(folded, images, criterion, draws, batch_size), info, chosen)
        return measure_result(model, images, adversarial, criterion, batch_size)


def _run(problem: AttackProblem, info: AttackInfo, settings: Any) -> Tensor:
    eps: Any = getattr(settings, "eps", None)
    norm: Any = getattr(settings, "norm", None)
    if eps == 0:
        return problem.images.clone()
    batches = torch.split(torch.arange(len(problem), device=problem.images.device), problem.max_batch)
    adversarial = []
    for rows in progress(batches, f"attack {info.name}", total=len(batches)):
        # Batches that went on counting where the one before ended would depend on their size.
        batch = replace(problem[rows], draws=problem.draws.fork(rows))
        x = info.run(batch, settings)
        if eps is not None and norm in get_args(Norm):
            x = clip_exact(x, Ball(norm, eps, batch.images))
        adversarial.append(x)
    return torch.cat(adversarial)


def _check_call(info: AttackInfo, targets: Tensor | None, seed: int, batch_size: int) -> None:
    if targets is not None and not info.targeted:
        raise UserError(
            f"attack {info.name} takes no targets; leave them out, or choose an attack that can be targeted."
        )
    for what, value, low in (("seed", seed, 0), ("batch_size", batch_size, 1)):
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value < 2**63:
            raise UserError(f"attack {info.name}: {what} is {value!r}; give a whole number from {low} on.")


def _check_images(name: str, images: Tensor) -> None:
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.numel():
        got = f"the shape {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise UserError(f"attack {name} takes images as a tensor (N, C, H, W), at least one; got {got}.")
    if images.dtype not in (torch.float32, torch.float64):
        dtype = str(images.dtype).removeprefix("torch.")
        raise UserError(f"attack {name} takes float32 images in [0, 1], and these are {dtype}; convert them first.")
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


def _count_classes(info: AttackInfo, model: nn.Module, images: Tensor) -> int:
    """How many logits the model gives; one image is enough to see that it can be attacked."""
    try:
        with torch.enable_grad():
            logits = model(images[:1].detach().requires_grad_(True))
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise UserError(f"attack {info.name}: the model fails on images {tuple(images.shape[1:])}: {reason}.") from None
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(
            f"attack {info.name} takes a model that gives (N, classes) logits, two at least; it gives {got}."
        )
    if info.threat == "white-box" and not logits.requires_grad:
        raise UserError(
            f"attack {info.name} follows the gradient, and the model's logits have none with respect to the images; "
            "let the model keep it, or choose an attack that only asks, such as square."
        )
    return logits.shape[1]


def _checked(name: str, what: str, values: Tensor, images: Tensor, classes: int) -> Tensor:
    """Labels or targets as int64 on the device of the images."""
    integers = isinstance(values, Tensor) and not (values.is_floating_point() or values.is_complex())
    if not integers or values.dtype == torch.bool or values.shape != (len(images),):
        got = f"{values.dtype} of shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise UserError(
            f"attack {name} takes {what} as a tensor of {len(images)} whole numbers, one per image; got {got}."
        )
    if not bool(((values >= 0) & (values < classes)).all()):
        low, high = int(values.min()), int(values.max())
        raise UserError(
            f"attack {name}: {what} go from {low} to {high}; the model's {classes} classes are 0 to {classes - 1}."
        )
    return values.to(images.device, torch.int64)
