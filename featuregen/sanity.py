"""Signs of masked gradients: whether a model only looks robust because gradient attacks cannot find their way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featuregen.attacks import attack
from featuregen.config import Norm
from featuregen.errors import UserError
from featuregen.evaluation import predict
from featuregen.models import Classifier, frozen
from featuregen.runtime import Machine

# What an attack has to win by, as a share of the images and in a one-sided sign test, before it is more than luck.
MARGIN, LUCK = 0.02, 0.01
# What counts as all images, where nothing limits a change.
ALL = 0.99
# The share of images that may lie where the loss has no slope.
FLAT = 0.01
# How often and from how many random places the attack is run, and how much longer or oftener to see whether it is done.
RESTARTS, LONGER = 5, 10


@dataclass(frozen=True)
class Check:
    """`rates` are the shares of images lost to each attack; `meaning` is what the outcome says."""

    name: str
    ok: bool
    rates: Mapping[str, float]
    meaning: str


@dataclass(frozen=True)
class Verdict:
    """`images` are those that the model gets right, which alone are attacked."""

    norm: Norm
    eps: float
    images: int
    accuracy: float
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        return {"format": "featuregen-sanity", "version": 1, "ok": self.ok, **asdict(self)}


@dataclass(frozen=True, eq=False)
class _Trial:
    """A model and the images it gets right."""

    model: nn.Module
    images: Tensor
    labels: Tensor
    norm: Norm
    seed: int
    batch_size: int
    classes: int

    def lost(self, name: str, eps: float, on: nn.Module | None = None, again: int = 0, **options: Any) -> Tensor:
        """Which images are lost to an attack on the model itself, or to what it finds `on` another; `again` is a count."""
        target = on or self.model
        # A stand-in answers alike in less time; what counts is what the model itself sees.
        lean = frozen(target, Machine(self.images.device)) if isinstance(target, Classifier) else target
        found = attack(
            lean, self.images, self.labels, name,
            seed=self.seed + again, batch_size=self.batch_size, norm=self.norm, eps=eps, **options,
        ).images  # fmt: skip
        return predict(self.model, found, self.batch_size) != self.labels


def sanity(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: Norm = "linf",
    eps: float = 8 / 255,
    other: nn.Module | None = None,
    steps: int = 40,
    queries: int = 1000,
    seed: int = 0,
    batch_size: int = 256,
) -> Verdict:
    """Six checks after Athalye et al. 2018 and Carlini et al. 2019. A model that passes them may still be weak.

    `other` is a model trained independently, whose adversarial examples are tried on this one as well.
    """
    _check_ball(norm, eps)
    right = predict(model, images, batch_size) == labels
    if not right.any():
        raise UserError(f"the model gets none of the {len(images)} images right, so there is nothing to attack.")
    trial = _Trial(model, images[right], labels[right], norm, seed, batch_size, _classes(model, images))
    white = _white(trial, eps, steps)
    checks = (
        _gradients(trial),
        _one_step(trial, eps, white),
        _black_box(trial, eps, white, steps, other, queries),
        _no_limit(trial, steps),
        _more_effort(trial, eps, white, steps),
        _noise(trial, eps, white),
    )
    return Verdict(norm, eps, len(trial.images), right.float().mean().item(), checks)


@torch.no_grad()
def _classes(model: nn.Module, images: Tensor) -> int:
    return int(model(images[:1]).shape[1])


def _check_ball(norm: str, eps: float) -> None:
    if norm not in ("l2", "linf"):
        raise UserError(f"norm is '{norm}'; choose l2 or linf.")
    if not 0 < eps < float("inf") or (norm == "linf" and eps >= 1):
        limit = ", and below 1 in Linf, where that reaches every image" if norm == "linf" else ""
        raise UserError(f"eps is {eps}; give a positive radius{limit}.")


def _white(trial: _Trial, eps: float, steps: int, **options: Any) -> Tensor:
    """What others are held against: from several starts and by two losses, since either alone stops in some corners."""
    options = {"steps": steps, "restarts": RESTARTS, **options}
    lost = trial.lost("auto-pgd", eps, **options)
    # The second loss takes three classes.
    return lost | trial.lost("auto-pgd", eps, loss="dlr", **options) if trial.classes > 2 else lost


def _beats(one: Tensor, other: Tensor) -> bool:
    """Whether it loses more images, on the images where only one of the two does."""
    wins, losses = int((one & ~other).sum()), int((other & ~one).sum())
    tries = wins + losses
    chance = sum(math.comb(tries, count) for count in range(wins, tries + 1)) / 2**tries
    return wins - losses > MARGIN * len(one) and chance < LUCK


def _share(lost: Tensor) -> float:
    return lost.float().mean().item()


def _check(name: str, white: Tensor | None, others: Mapping[str, Tensor], ok: bool, good: str, bad: str) -> Check:
    rates = {**others, **({} if white is None else {"white box": white})}
    return Check(name, ok, {title: _share(lost) for title, lost in rates.items()}, good if ok else bad)


def _gradients(trial: _Trial) -> Check:
    flat = []
    for images, labels in zip(trial.images.split(trial.batch_size), trial.labels.split(trial.batch_size), strict=True):
        pixels = images.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(trial.model(pixels), labels, reduction="sum"), pixels)
        size = gradient.flatten(1).abs().amax(1)
        flat.append(~(size > 0) | ~size.isfinite())
    lost = torch.cat(flat)
    good = "the loss has a slope at the images"
    bad = "the loss is flat where the images are, so attacks on it have nothing to follow"
    return _check("slope", None, {"images without a gradient": lost}, _share(lost) <= FLAT, good, bad)


def _one_step(trial: _Trial, eps: float, white: Tensor) -> Check:
    once = trial.lost("fgsm", eps)
    good = "many steps lose at least what one step loses"
    bad = "one step beats many, so the gradient does not lead where it points"
    return _check("one step against many", white, {"one step": once}, not _beats(once, white), good, bad)


def _black_box(trial: _Trial, eps: float, white: Tensor, steps: int, other: nn.Module | None, queries: int) -> Check:
    blind = {f"square, {queries} queries": trial.lost("square", eps, queries=queries)}
    if other is not None:
        blind["transfer"] = _white(trial, eps, steps, on=other)
    ok = not any(_beats(lost, white) for lost in blind.values())
    good = "knowing the gradients is worth more than not knowing them"
    bad = "an attack that never sees the gradients beats one that does, so they mislead"
    return _check("without gradients", white, blind, ok, good, bad)


def _no_limit(trial: _Trial, steps: int) -> Check:
    # A Linf ball of radius 1 holds every image, and so does one whose L2 radius is the cube's diagonal.
    whole = 1.0 if trial.norm == "linf" else trial.images[0].numel() ** 0.5
    lost = _white(trial, whole, max(steps, 100))
    good = "where any image can be reached, all are lost"
    bad = "images survive although any other image can be reached, so the attack is stuck"
    return _check("without a limit", None, {f"{trial.norm} eps {whole:.3g}": lost}, _share(lost) >= ALL, good, bad)


def _more_effort(trial: _Trial, eps: float, white: Tensor, steps: int) -> Check:
    more = {
        f"{LONGER} times the steps": _white(trial, eps, LONGER * steps, restarts=1),
        f"{RESTARTS} other starts": _white(trial, eps, steps, again=1),
    }
    ok = not any(_beats(lost, white) for lost in more.values())
    good = "the attack has converged: more of it adds little"
    bad = "more steps or other starts lose more images, so the accuracy found is too high"
    return _check("more effort", white, more, ok, good, bad)


def _noise(trial: _Trial, eps: float, white: Tensor) -> Check:
    lost = trial.lost("noise", eps)
    good = "the gradient is worth more than chance"
    bad = "random changes of the same size lose more images, so the gradient is worth nothing"
    return _check("random noise", white, {"noise": lost}, not _beats(lost, white), good, bad)
