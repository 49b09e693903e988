"""The checks for masked gradients, each from attacks on the images that a model classifies correctly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featuregen.attacks.api import attack
from featuregen.compute.optimize import frozen_eval
from featuregen.config.schema import Norm, bounded
from featuregen.evaluation.accuracy import predict
from featuregen.runtime.device import ComputeSpec

# An attack succeeds significantly more often than another if it leads by this share of the images, and a one-sided
# sign test is below this level.
MIN_LEAD, SIGNIFICANCE = 0.02, 0.01
# The share of images that may differ from the rest: be predicted otherwise a second time, by more than this share of
# their logits, have no gradient, or stay correct without a bound. And the steps that an unbounded attack has at least.
TOLERATED, LAST_BITS, UNBOUNDED_STEPS = 0.01, 1e-4, 100
# Restarts of the white-box attack, and how many times as many steps show whether it has converged.
RESTARTS, STEPS_FACTOR = 5, 10

Threat = Literal["white-box", "transfer", "query"]
# An attack's name and threat model, and which images it loses.
Attacked = tuple[str, Threat, Tensor]


@dataclass(frozen=True)
class MaskingSettings:
    """The ball, the steps of the white-box attack, and the queries of the black-box attack."""

    norm: Norm = "linf"
    eps: float = bounded(8 / 255, above=0)
    steps: int = bounded(40, low=1)
    queries: int = bounded(1000, low=1)


@dataclass(frozen=True)
class LossRate:
    """The share of images lost to an attack, and the threat model of that attack."""

    name: str
    threat: Threat
    lost: float


@dataclass(frozen=True)
class MaskingCheck:
    """The outcome of one check, the shares it compares, and a sentence that interprets it."""

    name: str
    ok: bool
    rates: tuple[LossRate, ...]
    meaning: str


@dataclass(frozen=True, eq=False)
class MaskingTrial:
    """A model and the images it classifies correctly, with the settings of all attacks on them."""

    model: nn.Module
    images: Tensor
    labels: Tensor
    settings: MaskingSettings
    seed: int
    batch_size: int
    compute: ComputeSpec | None

    def lost(self, name: str, eps: float, on: nn.Module | None = None, repeat: int = 0, **options: Any) -> Tensor:
        """Which images the model misclassifies after an attack on it, or on another model.

        `repeat` counts runs of the same attack, each with other random starts.
        """
        adversarial = attack(
            on or self.model, self.images, self.labels, name,
            seed=self.seed + repeat, batch_size=self.batch_size, compute=self.compute,
            norm=self.settings.norm, eps=eps, **options,
        ).images  # fmt: skip
        return predict(self.model, adversarial, self.batch_size) != self.labels

    def white_box(self, eps: float, repeat: int = 0, **options: Any) -> Tensor:
        """Which images the reference attack loses: restarts and two losses, since either alone gets stuck at times."""
        options = {"steps": self.settings.steps, "restarts": RESTARTS, **options}
        lost = self.lost("auto-pgd", eps, repeat=repeat, **options)
        with torch.no_grad():
            classes = self.model(self.images[:1]).shape[1]
        # The difference of logits ratio takes three classes.
        return lost | self.lost("auto-pgd", eps, repeat=repeat, loss="dlr", **options) if classes > 2 else lost

    def by_batch(self, rows_where: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        images, labels = torch.split(self.images, self.batch_size), torch.split(self.labels, self.batch_size)
        with frozen_eval(self.model):
            return torch.cat([rows_where(*batch) for batch in zip(images, labels, strict=True)])


def unbounded_radius(settings: MaskingSettings, images: Tensor) -> float:
    """The radius of a ball that contains every image: 1 in Linf, the cube's diagonal in L2."""
    return 1.0 if settings.norm == "linf" else float(images[0].numel() ** 0.5)


def run_checks(trial: MaskingTrial, other: nn.Module | None) -> tuple[MaskingCheck, ...]:
    white_box = trial.white_box(trial.settings.eps)
    return (
        _deterministic(trial),
        _nonzero_gradient(trial),
        _one_step(trial, white_box),
        _gradient_free(trial, white_box, other),
        _unbounded(trial),
        _more_steps_and_restarts(trial, white_box),
        _random_noise(trial, white_box),
    )


def significantly_more(one: Tensor, other: Tensor) -> bool:
    """Whether the first attack loses more images, judged by the images that only one of the two loses."""
    wins, losses = int((one & ~other).sum()), int((other & ~one).sum())
    if wins - losses <= MIN_LEAD * len(one):
        return False
    tries = wins + losses
    p: float = sum(math.comb(tries, count) for count in range(wins, tries + 1)) / 2**tries
    return p < SIGNIFICANCE


def _hardly_any(rows: Tensor) -> bool:
    return int(rows.sum()) <= max(1, TOLERATED * len(rows))


def _rate(name: str, threat: Threat, lost: Tensor) -> LossRate:
    return LossRate(name, threat, lost.float().mean().item())


def _share_check(name: str, rate: LossRate, ok: bool, good: str, bad: str) -> MaskingCheck:
    return MaskingCheck(name, ok, (rate,), good if ok else bad)


def _comparison(name: str, attacks: Sequence[Attacked], white_box: Tensor, good: str, bad: str) -> MaskingCheck:
    """Passed if none of the attacks loses significantly more images than the white box."""
    ok = not any(significantly_more(lost, white_box) for _, _, lost in attacks)
    rates = tuple(_rate(*each) for each in (*attacks, ("white box", "white-box", white_box)))
    return MaskingCheck(name, ok, rates, good if ok else bad)


def _deterministic(trial: MaskingTrial) -> MaskingCheck:
    @torch.no_grad()
    def differs(images: Tensor, _: Tensor) -> Tensor:
        first, second = trial.model(images), trial.model(images)
        # A class that is ruled out has a logit of minus infinity, twice the same.
        scale = first.where(first.isfinite(), 0).abs().amax(1, keepdim=True)
        same: Tensor = (first == second) | ((first - second).abs() <= LAST_BITS * scale)
        return ~same.all(1)

    rows = trial.by_batch(differs)
    return _share_check(
        "deterministic predictions", _rate("other prediction", "query", rows), _hardly_any(rows),
        good="predictions are deterministic",
        bad="predictions are random; attack the mean of many draws",
    )  # fmt: skip


def _nonzero_gradient(trial: MaskingTrial) -> MaskingCheck:
    def has_none(images: Tensor, labels: Tensor) -> Tensor:
        pixels = images.detach().requires_grad_(True)
        loss = F.cross_entropy(trial.model(pixels), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, pixels)
        size: Tensor = gradient.flatten(1).abs().amax(1)
        return ~(size > 0) | ~size.isfinite()

    rows = trial.by_batch(has_none)
    return _share_check(
        "non-zero gradient", _rate("no gradient", "white-box", rows), _hardly_any(rows),
        good="the loss has a non-zero gradient at the inputs",
        bad="the loss has no usable gradient at the inputs, so gradient attacks fail",
    )  # fmt: skip


def _one_step(trial: MaskingTrial, white_box: Tensor) -> MaskingCheck:
    return _comparison(
        "one step against many", [("one step", "white-box", trial.lost("fgsm", trial.settings.eps))], white_box,
        good="one step does not succeed significantly more often",
        bad="one step succeeds significantly more often, so gradients are unreliable",
    )  # fmt: skip


def _gradient_free(trial: MaskingTrial, white_box: Tensor, other: nn.Module | None) -> MaskingCheck:
    eps, queries = trial.settings.eps, trial.settings.queries
    attacks: list[Attacked] = [(f"{queries} queries", "query", trial.lost("square", eps, queries=queries))]
    if other is not None:
        # PGD continues where the other model is fooled already, and so past that model's decision boundary.
        attacks.append(("transfer", "transfer", trial.lost("pgd", eps, on=other, steps=trial.settings.steps)))
    return _comparison(
        "gradient-free attacks", attacks, white_box,
        good="gradient-free attacks do not succeed significantly more often",
        bad="gradient-free attacks succeed significantly more often: gradients mislead",
    )  # fmt: skip


def _unbounded(trial: MaskingTrial) -> MaskingCheck:
    # From the images themselves: random starts would lie far away already, where most are lost without an attack.
    eps, steps = unbounded_radius(trial.settings, trial.images), max(trial.settings.steps, UNBOUNDED_STEPS)
    lost = trial.white_box(eps, steps=steps, restarts=1, random_start=False)
    return _share_check(
        "unbounded attack", _rate("unbounded", "white-box", lost), _hardly_any(~lost),
        good="without a bound the attack succeeds on nearly all images",
        bad="without a bound the attack still fails on some images, so it is stuck",
    )  # fmt: skip


def _more_steps_and_restarts(trial: MaskingTrial, white_box: Tensor) -> MaskingCheck:
    eps = trial.settings.eps
    longer = trial.white_box(eps, steps=STEPS_FACTOR * trial.settings.steps, restarts=1)
    elsewhere = trial.white_box(eps, repeat=1)
    return _comparison(
        "more steps and restarts",
        [
            (f"{STEPS_FACTOR} times the steps", "white-box", longer),
            (f"{RESTARTS} other restarts", "white-box", elsewhere),
        ],
        white_box,
        good="more steps or restarts do not succeed significantly more often",
        bad="more steps or restarts succeed significantly more often: attack for longer",
    )


def _random_noise(trial: MaskingTrial, white_box: Tensor) -> MaskingCheck:
    return _comparison(
        "random noise", [("noise", "query", trial.lost("noise", trial.settings.eps))], white_box,
        good="random noise does not succeed significantly more often",
        bad="random noise succeeds significantly more often, so gradients are useless",
    )  # fmt: skip
