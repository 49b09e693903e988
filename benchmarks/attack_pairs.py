"""Which attack of featuregen's is held against which of its peers', with what settings, and how the two are judged.

Success is the share of the images the model gets right that it gets wrong once they are changed; an image outside its
ball or [0, 1] is no success. Where an attack looks for the smallest change, the median norm over the same images
counts, one that was not misled as infinite. Not held against anything is Foolbox's L2FMNAttack, which never projects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.attack_peers import (
    Run,
    Start,
    by_art,
    by_art_moves,
    by_foolbox,
    by_torchattacks,
    by_torchattacks_ensemble,
)
from featuregen.attacks.api import attack
from featuregen.attacks.result import AttackResult
from featuregen.config.schema import Norm
from featuregen.models.classifier import Classifier

# How many times as wide a ball without gradients has to be for about half the images to be lost in it.
_BY_QUERIES = {"l2": 1.5, "linf": 1.0}
_AT_RANDOM = {"l2": 4.0, "linf": 2.0}
_ONE_PIXEL = 20
_ROUNDING = 1e-4


@dataclass(frozen=True)
class Effort:
    """What both sides of a pair get, named as in featuregen's settings.

    `walk` are the steps to the smallest change; Carlini and Wagner's attack gets `carlini` in each of nine searches.
    Of `population` are the peers' searches for one pixel, as in its paper, and of `members` ours, which win as often.
    """

    l2: float = 0.4
    linf: float = 0.08
    steps: int = 20
    walk: int = 100
    queries: int = 500
    tries: int = 50
    population: int = 400
    members: int = 100
    generations: int = 100
    carlini: int = 300
    degrees: float = 10.0
    pixels: float = 0.6
    angles: int = 11
    shifts: int = 5
    seed: int = 0

    def eps(self, norm: Norm) -> float:
        return self.l2 if norm == "l2" else self.linf


@dataclass(frozen=True)
class Peer:
    """`same`: the same deterministic algorithm, so that neither may be stronger. Else ours may be, by luck or merit."""

    start: Start
    same: bool = False


@dataclass(frozen=True)
class Pair:
    """An attack of ours and its peers. `eps` None: the smallest change counts; `norm` None: any change will do.

    `single`: a peer goes image by image, so that few images have to do. `least`: how many times our time each has to
    take.
    """

    name: str
    attack: str
    options: Mapping[str, Any]
    peers: Mapping[str, Peer]
    norm: Norm | None = None
    eps: float | None = None
    single: bool = False
    least: float = 1

    @property
    def minimal(self) -> bool:
        return self.norm is not None and self.eps is None

    def ours(self, model: Classifier, batch: int, seed: int) -> Run:
        def run(images: Tensor, labels: Tensor) -> Tensor:
            result: AttackResult = attack(
                model, images, labels, self.attack, seed=seed, batch_size=batch, **self.options
            )
            return result.images

        return run


def pairs(effort: Effort) -> dict[str, Pair]:
    listed = [pair for norm in ("l2", "linf") for pair in (*_in_balls(effort, norm), *_at_random(effort, norm))]
    listed += [*_minimal(effort), *_elsewhere(effort)]
    return {pair.name: pair for pair in listed}


def _in_balls(effort: Effort, norm: Norm) -> list[Pair]:
    """White-box attacks in a ball."""
    eps, l2 = effort.eps(norm), norm == "l2"
    size, sides = 2.5 * eps / effort.steps, "L2" if l2 else "Linf"
    ball: dict[str, Any] = {"norm": norm, "eps": eps}
    one = {"foolbox": Peer(by_foolbox(f"{sides}FastGradientAttack", eps, random_start=False), same=True)}
    if not l2:
        one["torchattacks"] = Peer(by_torchattacks("FGSM", eps=eps), same=True)
    walk = {"steps": effort.steps, "random_start": False}
    many = {
        "foolbox": by_foolbox(f"{sides}ProjectedGradientDescentAttack", eps, abs_stepsize=size, **walk),
        "torchattacks": by_torchattacks("PGDL2" if l2 else "PGD", eps=eps, alpha=size, **walk),
        "art": by_art(
            "ProjectedGradientDescentPyTorch", norm=2 if l2 else "inf", eps=eps, eps_step=size, max_iter=effort.steps
        ),
    }
    found = [
        Pair(f"fgsm-{norm}", "fgsm", ball, one, norm, eps),
        Pair(f"pgd-{norm}", "pgd", ball | walk, {name: Peer(run, same=True) for name, run in many.items()}, norm, eps),
    ]
    for loss in ("ce", "dlr"):
        theirs = Peer(by_torchattacks("APGD", norm=sides, eps=eps, steps=effort.steps, loss=loss, seed=effort.seed))
        chosen = ball | {"steps": effort.steps, "loss": loss}
        found.append(Pair(f"auto-pgd-{loss}-{norm}", "auto-pgd", chosen, {"torchattacks": theirs}, norm, eps))
    return found


def _at_random(effort: Effort, norm: Norm) -> list[Pair]:
    """Queries in a ball, and the ensemble that ends with them."""
    eps, sides = effort.eps(norm), "L2" if norm == "l2" else "Linf"
    wide, wider = _BY_QUERIES[norm] * eps, _AT_RANDOM[norm] * eps
    random = "Gaussian" if norm == "l2" else "Uniform"
    squares = {
        "torchattacks": Peer(
            by_torchattacks("Square", norm=sides, eps=wide, n_queries=effort.queries, seed=effort.seed)
        ),
        "art": Peer(
            by_art("SquareAttack", norm=2 if norm == "l2" else "inf", eps=wide, max_iter=effort.queries, p_init=0.8)
        ),
    }
    drawn = by_foolbox(f"{sides}RepeatedAdditive{random}NoiseAttack", wider, repeats=effort.tries)
    four = by_torchattacks_ensemble(sides, eps, effort.steps, effort.queries, effort.seed)
    known: dict[str, Any] = {"norm": norm, "eps": eps, "steps": effort.steps, "queries": effort.queries}
    return [
        Pair(f"square-{norm}", "square", {"norm": norm, "eps": wide, "queries": effort.queries}, squares, norm, wide),
        Pair(
            f"noise-{norm}",
            "noise",
            {"norm": norm, "eps": wider, "tries": effort.tries},
            {"foolbox": Peer(drawn)},
            norm,
            wider,
        ),
        Pair(f"ensemble-{norm}", "ensemble", known, {"torchattacks": Peer(four)}, norm, eps),
    ]


def _minimal(effort: Effort) -> list[Pair]:
    # Foolbox's own stepsize, 0.01, is meant for 10,000 steps; in a few hundred, five times that gets further.
    searched = by_foolbox("L2CarliniWagnerAttack", steps=effort.carlini, binary_search_steps=9, stepsize=0.05)
    in_l2 = {"foolbox DDN": Peer(by_foolbox("DDNAttack", steps=effort.walk)), "foolbox Carlini-Wagner": Peer(searched)}
    in_linf = {
        "foolbox FMN": Peer(by_foolbox("LInfFMNAttack", steps=effort.walk)),
        "foolbox DeepFool": Peer(by_foolbox("LinfDeepFoolAttack", steps=effort.walk)),
    }
    return [
        Pair("smallest-l2", "smallest", {"norm": "l2", "steps": effort.walk}, in_l2, "l2"),
        Pair("smallest-linf", "smallest", {"norm": "linf", "steps": effort.walk}, in_linf, "linf"),
        Pair("lbfgs", "lbfgs", {}, {"foolbox Carlini-Wagner": Peer(searched)}, "l2"),
    ]


def _elsewhere(effort: Effort) -> list[Pair]:
    """Where no norm limits a change: one pixel, and moves of the whole image."""
    search = {"population": effort.members, "generations": effort.generations}
    alike = search | {"population": effort.population}
    one_pixel = {"torchattacks": Peer(by_torchattacks("OnePixel", popsize=effort.population, steps=effort.generations))}
    # Its population cannot be told: 399.
    pixel = by_art("PixelAttack", batched=False, th=1, es=1, max_iter=effort.generations)
    moved: dict[str, Any] = {
        "degrees": effort.degrees,
        "pixels": effort.pixels,
        "angles": effort.angles,
        "shifts": effort.shifts,
    }
    grid = by_foolbox(
        "SpatialAttack",
        max_rotation=effort.degrees,
        max_translation=effort.pixels,
        num_rotations=effort.angles,
        num_translations=effort.shifts,
    )
    for_all = by_art_moves(effort.degrees, effort.pixels, effort.angles, effort.shifts)
    return [
        Pair("pixels", "pixels", search, one_pixel, single=True, least=_ONE_PIXEL),
        Pair("pixels-art", "pixels", search, {"art": Peer(pixel)}, single=True, least=_ONE_PIXEL),
        Pair("pixels-alike", "pixels", alike, one_pixel, single=True),
        Pair("spatial", "spatial", moved, {"foolbox": Peer(grid), "art": Peer(for_all)}),
    ]


@dataclass(frozen=True)
class Result:
    """`success` is a share of the images that could be won; `median` is of the norm that counts, where one does."""

    success: float
    outside: int
    median: float | None


@torch.no_grad()
def judged(model: Classifier, pair: Pair, images: Tensor, labels: Tensor, found: Tensor) -> Result:
    """By the model itself, whoever found them."""
    right = model(images).argmax(1) == labels
    offset = (found - images).flatten(1)
    norms = offset.abs().amax(1) if pair.norm == "linf" else offset.norm(dim=1)
    inside = ((found >= -_ROUNDING) & (found <= 1 + _ROUNDING)).flatten(1).all(1)
    if pair.eps is not None:
        inside &= norms <= pair.eps * (1 + _ROUNDING)
    lost = (model(found).argmax(1) != labels) & inside
    median = None
    if pair.minimal:
        median = norms.masked_fill(~lost, torch.inf)[right].median().item()
    return Result(lost[right].float().mean().item(), int((~inside).sum()), median)


def in_batches(run: Run, images: Tensor, labels: Tensor, batch: int) -> Tensor:
    parts = zip(torch.split(images, batch), torch.split(labels, batch), strict=True)
    return torch.cat([run(part, classes) for part, classes in parts])


def seed_peers(seed: int) -> None:
    """They draw from the global generators, torchattacks' from seeds of its own."""
    torch.manual_seed(seed)
    np.random.seed(seed)
