"""Which class a label flips to under attack: the matrix of flips, and what in it is more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from featuregen.attacks import attack, find_attack
from featuregen.config import Norm, from_dict, to_dict
from featuregen.errors import UserError
from featuregen.evaluation.accuracy import predict
from featuregen.runtime import ComputeSpec, RowRandom

Classes = NDArray[np.int64]
Counts = NDArray[np.int64]

# Of what could have been by chance.
DRAWS = 1000


@dataclass(frozen=True)
class AttackSpec:
    """An attack by its name with all its settings; `eps` and `norm` are None where it has none to be told."""

    attack: str
    eps: float | None
    norm: Norm | None
    settings: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class LabelFlips:
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

    def counts(self, classes: int) -> Counts:
        """How many images of each class were attacked."""
        return np.bincount(self.true[self.attacked], minlength=classes)

    def matrix(self, classes: int) -> Counts:
        """How many flips there are from each true class (row) to each class seen afterwards (column)."""
        counts = np.zeros((classes, classes), dtype=np.int64)
        np.add.at(counts, (self.true[self.flipped], self.after[self.flipped]), 1)
        return counts


def expand_grid(
    names: Sequence[str], radii: Sequence[Any], norm: Norm, others: Mapping[str, Mapping[str, Any]] | None = None
) -> list[AttackSpec]:
    """Every attack at every radius, one that takes none once; `others` are further settings by attack."""
    given = others or {}
    if strangers := [name for name in given if name not in names]:
        raise UserError(f"settings are given for the attack '{strangers[0]}', which is not run; run it, or drop them.")
    runs: list[AttackSpec] = []
    for name in names:
        info = find_attack(name, norm)
        takes = {each.name for each in fields(info.settings)}
        if "eps" in takes and not radii:
            raise UserError(f"attack {name} needs a radius; give at least one eps, such as 0.1 or 8/255.")
        for eps in radii if "eps" in takes else [None]:
            ball = {key: value for key, value in (("norm", norm), ("eps", eps)) if key in takes}
            options = {**ball, **given.get(name, {})}
            run = _run(info.name, from_dict(info.settings, options, f"attack {info.name}"))
            if any((run.attack, run.eps) == (other.attack, other.eps) for other in runs):
                at = "" if run.eps is None else f" at eps {run.eps:g}"
                raise UserError(f"attack {name}{at} is given twice; name it once.")
            runs.append(run)
    return runs


def _run(name: str, chosen: Any) -> AttackSpec:
    eps, norm = getattr(chosen, "eps", None), getattr(chosen, "norm", None)
    if eps == 0:
        raise UserError(f"attack {name} with eps 0 changes nothing; give a positive radius.")
    if eps is not None and eps >= 1 and norm == "linf":
        raise UserError(
            f"attack {name} with Linf eps {eps:g} reaches every image; give a radius below 1, such as 8/255."
        )
    return AttackSpec(name, eps, norm, to_dict(chosen))


def find_label_flips(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    run: AttackSpec,
    *,
    seed: int = 0,
    batch_size: int = 256,
    compute: ComputeSpec | None = None,
) -> LabelFlips:
    """Attack what the model gets right, on the `machine` that is asked for."""
    before = predict(model, images, batch_size)
    after, right = before.clone(), (before == labels).nonzero().flatten()
    if len(right):
        after[right] = attack(
            model, images[right], labels[right], run.attack,
            seed=seed, batch_size=batch_size, compute=compute, **run.settings,
        ).after  # fmt: skip
    true, seen, then = (each.cpu().numpy().astype(np.int64) for each in (labels, before, after))
    return LabelFlips(true, seen, then)


# Is there a direction? -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Asymmetry:
    """`index` is the sum of |R - Rᵀ| over that of R + Rᵀ, where R are the shares of each class that flip to each other.

    0 is a symmetric matrix, 1 one in which no flip has a way back. A few flips make some index by chance alone: were
    every way and its way back as likely, it would be `chance` on average; `p` counts how often such flips are as
    lopsided, pair by pair. None where nothing flips between classes that are both attacked.
    """

    index: float | None
    chance: float | None
    p: float


def asymmetry(counts: Counts, attacked: Counts, seed: int = 0, draws: int = DRAWS) -> Asymmetry:
    """`attacked` are the images of each class, of which so many flip."""
    upper, lower = np.triu_indices(len(counts), 1)
    both = counts[upper, lower] + counts[lower, upper]
    met = (both > 0) & (attacked[upper] > 0) & (attacked[lower] > 0)
    if not met.any():
        return Asymmetry(None, None, 1.0)
    upper, lower, both = upper[met], lower[met], both[met]
    here, there = attacked[upper], attacked[lower]
    even, pair = here / (here + there), np.repeat(np.arange(len(both)), both)
    random = RowRandom(seed, "flips there or back")
    heads = np.stack(
        [counts[upper, lower]]
        + [
            np.bincount(pair[random.uniform(number, len(pair)) < even[pair]], minlength=len(both))
            for number in range(draws)
        ]
    )
    lopsided = ((heads - both * even) ** 2 / (both * even * (1 - even))).sum(1)
    ways, back = heads / here, (both - heads) / there
    index = np.abs(ways - back).sum(1) / (ways + back).sum(1)
    return Asymmetry(float(index[0]), float(index[1:].mean()), _above(lopsided))


def _above(values: NDArray[np.float64]) -> float:
    """How often a draw reaches the first value, which is the one observed."""
    return float((values >= values[0] - 1e-9).mean())


# Does a class attract? -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Attraction:
    """How many times its even share of flips each class receives (None where it could receive none).

    `strongest` lies the most standard deviations above its share; None where nothing flips, or has no choice. `p`
    counts how often any class would lie as far above, if a flip went to all classes but its own with the same chance,
    however many leave each.
    """

    ratios: tuple[float | None, ...]
    strongest: int | None
    p: float


def attraction(counts: Counts, seed: int = 0, draws: int = DRAWS) -> Attraction:
    classes, leaving = len(counts), counts.sum(1)
    chance = 1 / (classes - 1)
    expected = (leaving.sum() - leaving) * chance
    ratios = tuple(
        float(count / even) if even > 0 else None for count, even in zip(counts.sum(0), expected, strict=True)
    )
    open_to = expected * (1 - chance) > 0
    if not open_to.any():
        return Attraction(ratios, None, 1.0)
    own, random = np.repeat(np.arange(classes), leaving), RowRandom(seed, "flips to any class")
    received = [counts.sum(0)]
    for number in range(draws):
        other = (random.uniform(number, len(own)) * (classes - 1)).astype(np.int64)
        received.append(np.bincount(other + (other >= own), minlength=classes))
    spread = np.sqrt(expected * (1 - chance))
    scores = (np.stack(received)[:, open_to] - expected[open_to]) / spread[open_to]
    strongest = int(np.flatnonzero(open_to)[scores[0].argmax()])
    return Attraction(ratios, strongest, _above(scores.max(1)))


# Do two attacks, or two models, agree? -------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """Of the images that both flip: the `share` with the same new class, and the share that `chance` would give.

    `chance` pairs images of the same true class at random, as do the draws that `p` counts; `kappa` is how far the
    share goes from there (0) to one (1). None where both flip nothing, and kappa where chance leaves nothing to reach.
    """

    both: int
    share: float | None
    chance: float | None
    kappa: float | None
    p: float | None


def agreement(first: LabelFlips, second: LabelFlips, seed: int = 0, draws: int = DRAWS) -> Agreement:
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
    for number in range(draws):
        drawn = random.permutation(number, len(true))
        shuffled = drawn[np.argsort(true[drawn], kind="stable")]
        reached += int((one[by_class] == other[shuffled]).sum()) >= same
    chance = sum(_expected_matches(one[true == label], other[true == label]) for label in np.unique(true)) / len(true)
    share = same / len(true)
    kappa = (share - chance) / (1 - chance) if chance < 1 else None
    return Agreement(len(true), share, chance, kappa, (1 + reached) / (1 + draws))


def _expected_matches(one: Classes, other: Classes) -> float:
    """How many of these pairs would be equal on average, were they paired at random."""
    return sum(int((one == seen).sum()) * int((other == seen).sum()) for seen in np.unique(one)) / len(one)
