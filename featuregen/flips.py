"""Which class a label flips to under attack: the matrix of flips, and what in it is more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featuregen.attacks import attack, find_attack
from featuregen.config import Norm, from_dict, to_dict
from featuregen.errors import UserError
from featuregen.evaluation import predict
from featuregen.runtime import Machine, RowRandom

Classes = NDArray[np.int64]
Counts = NDArray[np.int64]

PERMUTATIONS = 1000


@dataclass(frozen=True)
class Run:
    """An attack by its name with all its settings; `eps` and `norm` are None where it has none to be told."""

    attack: str
    eps: float | None
    norm: Norm | None
    settings: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Flips:
    """The true class of every image, and what a model saw before and after; only what it saw right is attacked."""

    true: Classes
    before: Classes
    after: Classes

    @property
    def attacked(self) -> NDArray[np.bool_]:
        return np.equal(self.before, self.true)

    @property
    def flipped(self) -> NDArray[np.bool_]:
        return np.logical_and(self.attacked, np.not_equal(self.after, self.true))

    def matrix(self, classes: int) -> Counts:
        """How many flips there are from each true class (row) to each class seen afterwards (column)."""
        counts = np.zeros((classes, classes), dtype=np.int64)
        np.add.at(counts, (self.true[self.flipped], self.after[self.flipped]), 1)
        return counts


def runs_of(
    names: Sequence[str], radii: Sequence[Any], norm: Norm, others: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Run]:
    """Every attack at every radius, one that takes none once; `others` are further settings by attack."""
    given = others or {}
    if strangers := [name for name in given if name not in names]:
        raise UserError(f"settings are given for the attack '{strangers[0]}', which is not run; run it, or drop them.")
    runs: list[Run] = []
    for name in names:
        known = find_attack(name).settings
        takes = {each.name for each in fields(known)}
        if "eps" in takes and not radii:
            raise UserError(f"attack {name} needs a radius; give at least one eps, such as 0.1 or 8/255.")
        for eps in radii if "eps" in takes else [None]:
            ball = {key: value for key, value in (("norm", norm), ("eps", eps)) if key in takes}
            options = {**ball, **given.get(name, {})}
            run = _run(name, from_dict(known, options, f"attack {name}"))
            if any((run.attack, run.eps) == (other.attack, other.eps) for other in runs):
                at = "" if run.eps is None else f" at eps {run.eps:g}"
                raise UserError(f"attack {name}{at} is given twice; name it once.")
            runs.append(run)
    return runs


def _run(name: str, chosen: Any) -> Run:
    eps, norm = getattr(chosen, "eps", None), getattr(chosen, "norm", None)
    if eps == 0:
        raise UserError(f"attack {name} with eps 0 changes nothing; give a positive radius.")
    if eps is not None and eps >= 1 and norm == "linf":
        raise UserError(
            f"attack {name} with Linf eps {eps:g} reaches every image; give a radius below 1, such as 8/255."
        )
    return Run(name, eps, norm, to_dict(chosen))


def flip(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    run: Run,
    *,
    seed: int = 0,
    batch_size: int = 256,
    machine: Machine | None = None,
) -> Flips:
    """Attack what the model gets right, on the `machine` that is asked for."""
    before = predict(model, images, batch_size)
    after, right = before.clone(), (before == labels).nonzero().flatten()
    if len(right):
        after[right] = attack(
            model, images[right], labels[right], run.attack,
            seed=seed, batch_size=batch_size, machine=machine, **run.settings,
        ).after  # fmt: skip
    true, seen, then = (each.cpu().numpy().astype(np.int64) for each in (labels, before, after))
    return Flips(true, seen, then)


# Is there a direction? -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Asymmetry:
    """`index` is the sum of |N - Nᵀ| over that of N + Nᵀ: 0 for a symmetric matrix, 1 if no flip has a way back.

    A few flips make some index by chance alone; `p` is that of Bowker's test, whose null is a symmetric matrix.
    """

    index: float | None
    chi2: float
    df: int
    p: float


def asymmetry(counts: Counts) -> Asymmetry:
    upper = np.triu_indices(len(counts), 1)
    there, back = counts[upper].astype(np.float64), counts.T[upper].astype(np.float64)
    both, differ = there + back, np.abs(there - back)
    met = both > 0
    statistic = float((differ[met] ** 2 / both[met]).sum())
    index = float(differ.sum() / both.sum()) if met.any() else None
    return Asymmetry(index, statistic, int(met.sum()), tail(statistic, int(met.sum())))


def tail(chi2: float, df: int) -> float:
    """The share of a chi-square distribution above a value; 1 where nothing is free to vary."""
    if df == 0:
        return 1.0
    half = torch.tensor([df / 2, chi2 / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


# Does a class attract? -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Attraction:
    """How many times its even share of flips each class receives (None where it could receive none).

    Under the null, a flip goes to any class but its own with the same chance, however many flips leave each class.
    `strongest` lies the most standard deviations above its share; None where nothing flips, or has no choice.
    """

    ratios: tuple[float | None, ...]
    strongest: int | None
    chi2: float
    df: int
    p: float


def attraction(counts: Counts) -> Attraction:
    classes, leaving = len(counts), counts.sum(1).astype(np.float64)
    chance = 1 / (classes - 1)
    expected = (leaving.sum() - leaving) * chance
    excess = counts.sum(0) - expected
    # Each class's flips are multinomial over the others; the sum over classes has the sum of their covariances.
    spread = np.diag(expected)
    for label, count in enumerate(leaving):
        even = np.full(classes, chance)
        even[label] = 0
        spread -= count * np.outer(even, even)
    # Of full rank it never is: what one class receives the others do not.
    variances, directions = np.linalg.eigh(spread)
    free = variances > 1e-9 * max(variances.max(), 1e-9)
    df, statistic = int(free.sum()), float(((directions.T @ excess)[free] ** 2 / variances[free]).sum())
    ratios = tuple(
        float(count / even) if even > 0 else None for count, even in zip(counts.sum(0), expected, strict=True)
    )
    scores = excess / np.sqrt(np.maximum(np.diag(spread), 1e-12))
    strongest = int(scores.argmax()) if df else None
    return Attraction(ratios, strongest, statistic, df, tail(statistic, df))


# Do two attacks, or two models, agree? -------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """Of the images that both flip: the `share` with the same new class, and the share that `chance` would give.

    `chance` pairs images of the same true class at random, as do the permutations that `p` counts; `kappa` is
    Cohen's, which knows nothing of true classes. None where both flip nothing, or kappa is not defined.
    """

    both: int
    share: float | None
    chance: float | None
    kappa: float | None
    p: float | None


def agreement(first: Flips, second: Flips, seed: int = 0, permutations: int = PERMUTATIONS) -> Agreement:
    """Both must be of the same images in the same order."""
    if not np.array_equal(first.true, second.true):
        raise UserError("flips are compared image by image; give both the same images in the same order.")
    both = first.flipped & second.flipped
    true, one, other = first.true[both], first.after[both], second.after[both]
    if not both.any():
        return Agreement(0, None, None, None, None)
    same = int((one == other).sum())
    random, reached = RowRandom(seed, "permuted flips"), 0
    by_class = np.argsort(true, kind="stable")
    for number in range(permutations):
        drawn = random.permutation(number, len(true))
        shuffled = drawn[np.argsort(true[drawn], kind="stable")]
        reached += int((one[by_class] == other[shuffled]).sum()) >= same
    chance = sum(_met_by_chance(one[true == label], other[true == label]) for label in np.unique(true)) / len(true)
    return Agreement(len(true), same / len(true), chance, kappa(one, other), (1 + reached) / (1 + permutations))


def _met_by_chance(one: Classes, other: Classes) -> float:
    """How many of these pairs would be equal on average, were they paired at random."""
    return sum(int((one == seen).sum()) * int((other == seen).sum()) for seen in np.unique(one)) / len(one)


def kappa(one: Classes, other: Classes) -> float | None:
    """Cohen's: agreement beyond that of two independent raters with these shares; None if these cannot differ."""
    chance = _met_by_chance(one, other) / len(one)
    if chance == 1:
        return None
    return float((np.mean(one == other) - chance) / (1 - chance))
