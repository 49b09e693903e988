"""Gradient masking: whether a model only appears robust because gradient attacks fail on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featuregen.attacks.api import attack
from featuregen.compute.optimize import frozen_eval
from featuregen.config.loader import from_dict
from featuregen.config.serialize import json_document
from featuregen.errors import CheckFailed, UserError
from featuregen.evaluation.attack_run import AttackInputs
from featuregen.evaluation.masking_checks import (
    SIGNIFICANCE,
    MaskingCheck,
    MaskingSettings,
    MaskingTrial,
    run_checks,
    unbounded_radius,
)
from featuregen.models.io import TrainedModel, model_summary
from featuregen.runtime.atomic import atomic_write, check_writable
from featuregen.runtime.device import ComputeSpec, versions

# With fewer images, not even an attack that wins on all of them is significantly better.
MIN_IMAGES = math.ceil(-math.log2(SIGNIFICANCE))


@dataclass(frozen=True)
class MaskingReport:
    """What the checks found.

    `accuracy` is that of all `images`; `attacked` counts those that the model classifies correctly, which are attacked.
    """

    settings: MaskingSettings
    images: int
    attacked: int
    accuracy: float
    checks: tuple[MaskingCheck, ...]

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        return {"ok": self.ok, **asdict(self)}

    def _repr_html_(self) -> str:
        outcomes = ((check.name, "passed" if check.ok else "FLAGGED", check.meaning) for check in self.checks)
        rows = "".join(f"<tr>{''.join(f'<td>{text}</td>' for text in texts)}</tr>" for texts in outcomes)
        return f"<table><tr><th>check</th><th>outcome</th><th>interpretation</th></tr>{rows}</table>"


def check_gradient_masking(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    other: nn.Module | None = None,
    seed: int = 0,
    batch_size: int = 256,
    compute: ComputeSpec | None = None,
    **options: Any,
) -> MaskingReport:
    """Run the checks of Athalye et al. 2018 and Carlini et al. 2019 for masked gradients.

    A model that passes them may still not be robust. The most informative radius is one at which an attack succeeds on
    some images but not on all.

    Args:
        model: Any network in eval mode that maps images to logits.
        images: float32 (N, C, H, W) in [0, 1].
        labels: The class of each image, int64 (N,).
        other: An independently trained model, whose adversarial examples are tried on `model` too.
        seed: Seeds every attack.
        batch_size: Images per pass.
        compute: Device and arithmetic of the attacks; fp32 on the images' device where left out.
        **options: `norm`, `eps`, `steps` of the white-box attack, and `queries` of the black-box attack.

    Returns:
        The outcome of every check; `.ok` says whether all passed.

    Raises:
        UserError: If a setting does not fit.
        CheckFailed: If the model classifies too few images correctly for any check to mean something.

    Example:
        >>> import torch
        >>> import featuregen as fg
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
        >>> images = fg.load_images("digits").test.images_tensor()[:20]
        >>> labels = model(images).argmax(1)
        >>> report = fg.check_gradient_masking(model, images, labels, norm="linf", eps=0.1, steps=2, queries=5)
        >>> report.checks[0].name, report.checks[0].ok
        ('deterministic predictions', True)
    """
    settings = masking_settings(options)
    # A radius of 0 changes nothing: this validates the arguments, and shows which images are misclassified already.
    correct = ~attack(model, images, labels, "noise", eps=0, seed=seed, batch_size=batch_size).initially_met
    if settings.eps >= (limit := unbounded_radius(settings, images)):
        raise UserError(f"gradient masking: eps {settings.eps:g} reaches every image; give a radius below {limit:g}.")
    count = int(correct.sum())
    if count < MIN_IMAGES:
        raise CheckFailed(
            f"gradient masking: the model classifies {count} of {len(images)} images correctly; with fewer than "
            f"{MIN_IMAGES} to attack, nothing is significant. Give more images, or a better model."
        )
    trial = MaskingTrial(
        _with_gradient(model, images), images[correct], labels[correct], settings, seed, batch_size, compute
    )
    checks = run_checks(trial, None if other is None else _with_gradient(other, images))
    return MaskingReport(settings, len(images), count, count / len(images), checks)


def masking_settings(options: Mapping[str, Any]) -> MaskingSettings:
    """The settings with these options, checked; texts such as 8/255 are read as a config's are."""
    return from_dict(MaskingSettings, options, "gradient masking")


class _ZeroGrad(nn.Module):
    """A model whose logits carry no gradient, with a gradient of zero instead."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits + 0 * x.flatten(1).sum(1, keepdim=True)


def _with_gradient(model: nn.Module, images: Tensor) -> nn.Module:
    with frozen_eval(model), torch.enable_grad():
        detached = not model(images[:1].detach().requires_grad_(True)).requires_grad
    return _ZeroGrad(model).eval() if detached else model


# Recording -----------------------------------------------------------------------------------------


def gradient_masking_to_file(
    path: Path,
    target: TrainedModel,
    inputs: AttackInputs,
    options: Mapping[str, Any],
    other: TrainedModel | None = None,
    *,
    seed: int,
    batch_size: int,
    compute: ComputeSpec,
) -> dict[str, Any]:
    """Check a model, always in fp32, write the record as JSON, and return it."""
    check_writable(path.parent)
    report = check_gradient_masking(
        target.model, inputs.images, inputs.labels, other=other.model if other else None,
        seed=seed, batch_size=batch_size, compute=replace(compute, precision="fp32"), **options,
    ).to_dict()  # fmt: skip
    record = {
        "format": "featuregen-sanity",
        "version": 1,
        "ok": report["ok"],
        "settings": report["settings"],
        "model": model_summary(target),
        **({"origin": model_summary(other)} if other else {}),
        "images": {"name": inputs.base["name"], "split": inputs.base["split"], "count": report["images"]},
        "accuracy": report["accuracy"],
        "tried": report["attacked"],
        "checks": report["checks"],
        "seed": seed,
        "software": versions(compute),
    }
    atomic_write(path, json_document(record))
    return record
