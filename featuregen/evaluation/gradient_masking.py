"""Signs of masked gradients: whether a model only looks robust because gradient attacks cannot find their way."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featuregen.attacks import attack
from featuregen.compute import frozen_eval
from featuregen.config import Norm, bounded, from_dict
from featuregen.errors import UserError
from featuregen.evaluation.accuracy import predict
from featuregen.runtime import ComputeSpec

# What an attack has to win by, as a share of the images and in a one-sided sign test, before it is more than luck.
MARGIN, LUCK = 0.02, 0.01
# With fewer images than this, not even winning on all of them is more than luck.
FEWEST = math.ceil(-math.log2(LUCK))
# The share of images that says nothing of a model: without a slope, with another answer, or left where nothing limits
# a change; what is another answer; and in how many steps all have to be lost.
FEW, LAST_BITS, FAR = 0.01, 1e-4, 100
# How often and from how many random places the attack is run, and how much longer to see whether it is done.
RESTARTS, LONGER = 5, 10

Threat = Literal["white-box", "transfer", "query"]


@dataclass(frozen=True)
class MaskingSettings:
    """The ball, the steps of the white-box attack, and the queries of the black-box attack."""

    norm: Norm = "linf"
    eps: float = bounded(8 / 255, above=0)
    steps: int = bounded(40, low=1)
    queries: int = bounded(1000, low=1)


@dataclass(frozen=True)
class LossRate:
    """The share of images that are lost to something, and what that may know of the model."""

    name: str
    threat: Threat
    lost: float


@dataclass(frozen=True)
class MaskingCheck:
    """`meaning` is what the outcome says."""

    name: str
    ok: bool
    rates: tuple[LossRate, ...]
    meaning: str


@dataclass(frozen=True)
class MaskingReport:
    """`accuracy` is that of all images; `attacked` is how many of them the model gets right, which alone are."""

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
    """Checks after Athalye et al. 2018 and Carlini et al. 2019. A model that passes them may still be weak.

    `other` is a model trained independently, whose adversarial examples are tried on this one as well. Options are
    `norm`, `eps`, `steps` and `queries`. The most telling eps is one at which an attack takes some images but not all.
    """
    chosen = masking_settings(options)
    # A radius of 0 changes nothing: this checks what was given, and tells what is wrong already.
    right = ~attack(model, images, labels, "noise", eps=0, seed=seed, batch_size=batch_size).initially_met
    if chosen.eps >= (whole := _whole(chosen, images)):
        raise UserError(f"sanity: eps {chosen.eps:g} reaches every image; give a radius below {whole:g}.")
    count = int(right.sum())
    if count < FEWEST:
        raise UserError(
            f"sanity: the model gets {count} of {len(images)} images right; with fewer than {FEWEST} to attack, "
            "luck could explain everything. Give more images, or a better model."
        )
    trial = _Trial(_followed(model, images), images[right], labels[right], chosen, seed, batch_size, compute)
    white = trial.white(chosen.eps)
    checks = (
        _same_answer(trial),
        _slope(trial),
        _one_step(trial, white),
        _black_box(trial, white, None if other is None else _followed(other, images)),
        _no_limit(trial),
        _more_effort(trial, white),
        _noise(trial, white),
    )
    return MaskingReport(chosen, len(images), count, count / len(images), checks)


def masking_settings(options: Mapping[str, Any]) -> MaskingSettings:
    """Checked; texts such as 8/255 are read as a config's are."""
    return from_dict(MaskingSettings, options, "sanity")


def _whole(chosen: MaskingSettings, images: Tensor) -> float:
    """The radius of a ball that holds every image: 1 in Linf, the cube's diagonal in L2."""
    return 1.0 if chosen.norm == "linf" else float(images[0].numel() ** 0.5)


# Attacks -------------------------------------------------------------------------------------------


class _ZeroGrad(nn.Module):
    """A model that does not tell where its logits come from, with a slope of zero instead of none."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits + 0 * x.flatten(1).sum(1, keepdim=True)


def _followed(model: nn.Module, images: Tensor) -> nn.Module:
    with frozen_eval(model), torch.enable_grad():
        cut = not model(images[:1].detach().requires_grad_(True)).requires_grad
    return _ZeroGrad(model).eval() if cut else model


@dataclass(frozen=True, eq=False)
class _Trial:
    """A model and the images it gets right."""

    model: nn.Module
    images: Tensor
    labels: Tensor
    chosen: MaskingSettings
    seed: int
    batch_size: int
    compute: ComputeSpec | None

    def lost(self, name: str, eps: float, on: nn.Module | None = None, again: int = 0, **options: Any) -> Tensor:
        """Which images are lost to an attack on the model itself, or to what it finds `on` another.

        `again` counts the times that the same attack was run from other starts.
        """
        found = attack(
            on or self.model, self.images, self.labels, name,
            seed=self.seed + again, batch_size=self.batch_size, compute=self.compute,
            norm=self.chosen.norm, eps=eps, **options,
        ).images  # fmt: skip
        return predict(self.model, found, self.batch_size) != self.labels

    def white(self, eps: float, again: int = 0, **options: Any) -> Tensor:
        """What others are held against: several starts and two losses, since either alone stops in some corners."""
        options = {"steps": self.chosen.steps, "restarts": RESTARTS, **options}
        lost = self.lost("auto-pgd", eps, again=again, **options)
        # The second loss takes three classes.
        return lost | self.lost("auto-pgd", eps, again=again, loss="dlr", **options) if self.classes > 2 else lost

    @property
    def classes(self) -> int:
        with torch.no_grad():
            return int(self.model(self.images[:1]).shape[1])

    def by_batch(self, asked: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        images, labels = torch.split(self.images, self.batch_size), torch.split(self.labels, self.batch_size)
        with frozen_eval(self.model):
            return torch.cat([asked(*batch) for batch in zip(images, labels, strict=True)])


def _beats(one: Tensor, other: Tensor) -> bool:
    """Whether it loses more images, on the images where only one of the two does."""
    wins, losses = int((one & ~other).sum()), int((other & ~one).sum())
    if wins - losses <= MARGIN * len(one):
        return False
    tries = wins + losses
    chance: float = sum(math.comb(tries, count) for count in range(wins, tries + 1)) / 2**tries
    return chance < LUCK


def _hardly_any(rows: Tensor) -> bool:
    """At most one image, or a share that tells nothing of a model."""
    return int(rows.sum()) <= max(1, FEW * len(rows))


def _rate(name: str, threat: Threat, lost: Tensor) -> LossRate:
    return LossRate(name, threat, lost.float().mean().item())


def _against(white: Tensor) -> LossRate:
    return _rate("white box", "white-box", white)


# Checks --------------------------------------------------------------------------------------------


def _same_answer(trial: _Trial) -> MaskingCheck:
    @torch.no_grad()
    def asked(images: Tensor, _: Tensor) -> Tensor:
        first, second = trial.model(images), trial.model(images)
        # A class that is ruled out has a logit of minus infinity, twice the same.
        told = first.where(first.isfinite(), 0).abs().amax(1, keepdim=True)
        same: Tensor = (first == second) | ((first - second).abs() <= LAST_BITS * told)
        return ~same.all(1)

    others = trial.by_batch(asked)
    rate, ok = _rate("another answer", "query", others), _hardly_any(others)
    good = "asked again, the model says the same"
    bad = "the model draws its answers, and an attack sees only one draw; attack the mean of many"
    return MaskingCheck("same answer twice", ok, (rate,), good if ok else bad)


def _slope(trial: _Trial) -> MaskingCheck:
    def asked(images: Tensor, labels: Tensor) -> Tensor:
        pixels = images.detach().requires_grad_(True)
        loss = F.cross_entropy(trial.model(pixels), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, pixels)
        size: Tensor = gradient.flatten(1).abs().amax(1)
        return ~(size > 0) | ~size.isfinite()

    flat = trial.by_batch(asked)
    rate, ok = _rate("no gradient", "white-box", flat), _hardly_any(flat)
    good = "the loss has a slope at the images"
    bad = "the loss is flat where the images are, so attacks on it have nothing to follow"
    return MaskingCheck("slope", ok, (rate,), good if ok else bad)


def _one_step(trial: _Trial, white: Tensor) -> MaskingCheck:
    once = trial.lost("fgsm", trial.chosen.eps)
    good = "many steps lose at least what one step loses"
    bad = "one step beats many, so the gradient does not lead where it points"
    ok = not _beats(once, white)
    return MaskingCheck(
        "one step or many", ok, (_rate("one step", "white-box", once), _against(white)), good if ok else bad
    )


def _black_box(trial: _Trial, white: Tensor, other: nn.Module | None) -> MaskingCheck:
    eps, queries = trial.chosen.eps, trial.chosen.queries
    squares = trial.lost("square", eps, queries=queries)
    # PGD goes on where the other model is fooled already, and so further than to that model's border.
    copied = () if other is None else (trial.lost("pgd", eps, on=other, steps=trial.chosen.steps),)
    ok = not any(_beats(lost, white) for lost in (squares, *copied))
    rates = (
        _rate(f"{queries} queries", "query", squares),
        *(_rate("transfer", "transfer", lost) for lost in copied),
        _against(white),
    )
    good = "without gradients an attack wins no more, beyond luck"
    bad = "an attack that never sees the gradients beats one that does, so they mislead"
    return MaskingCheck("without gradients", ok, rates, good if ok else bad)


def _no_limit(trial: _Trial) -> MaskingCheck:
    # From the images themselves: random starts would lie far away already, where most are lost without an attack.
    whole, steps = _whole(trial.chosen, trial.images), max(trial.chosen.steps, FAR)
    lost = trial.white(whole, steps=steps, restarts=1, random_start=False)
    rate, ok = _rate("any change", "white-box", lost), _hardly_any(~lost)
    good = "where any image can be reached, all are lost"
    bad = "images survive although any other image can be reached, so the attack is stuck"
    return MaskingCheck("without a limit", ok, (rate,), good if ok else bad)


def _more_effort(trial: _Trial, white: Tensor) -> MaskingCheck:
    longer = trial.white(trial.chosen.eps, steps=LONGER * trial.chosen.steps, restarts=1)
    elsewhere = trial.white(trial.chosen.eps, again=1)
    ok = not any(_beats(lost, white) for lost in (longer, elsewhere))
    rates = (
        _rate(f"{LONGER} times the steps", "white-box", longer),
        _rate(f"{RESTARTS} other starts", "white-box", elsewhere),
        _against(white),
    )
    good = "more steps or other starts add little"
    bad = "more steps or other starts lose more images, so the accuracy found is too high"
    return MaskingCheck("more effort", ok, rates, good if ok else bad)


def _noise(trial: _Trial, white: Tensor) -> MaskingCheck:
    lost = trial.lost("noise", trial.chosen.eps)
    good = "the gradient is worth more than chance"
    bad = "random changes of the same size lose more images, so the gradient is worth nothing"
    ok = not _beats(lost, white)
    return MaskingCheck("random noise", ok, (_rate("noise", "query", lost), _against(white)), good if ok else bad)
