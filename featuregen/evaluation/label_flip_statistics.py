"""The labels that an attack flips, and which patterns in them are more than chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featuregen.errors import UserError
from featuregen.runtime.rng import RowRandom

Classes = NDArray[np.int64]
Counts = NDArray[np.int64]

# Draws from the null distribution.
DRAWS = 1000


@dataclass(frozen=True, eq=False)
class LabelFlips:
    """The true class of every image, and the predictions before and after an attack; `classes` is their number.

    Only images that the model classifies correctly are attacked; the others keep their prediction.
    """

    true: Classes
    before: Classes
    after: Classes
    classes: int

    @property
    def attacked(self) -> NDArray[np.bool_]:
        return np.equal(self.before, self.true)

    @property
    def flipped(self) -> NDArray[np.bool_]:
        return np.logical_and(self.attacked, np.not_equal(self.after, self.true))

    @property
    def attacked_per_class(self) -> Counts:
        return np.bincount(self.true[self.attacked], minlength=self.classes)

    @property
    def matrix(self) -> Counts:
        """How many flips there are from each true class (row) to each new class (column)."""
        counts = np.zeros((self.classes, self.classes), dtype=np.int64)
        np.add.at(counts, (self.true[self.flipped], self.after[self.flipped]), 1)
        return counts


@dataclass(frozen=True)
class Asymmetry:
    """How far flips between two classes differ from flips back.

    `index` is the sum of |R - Rᵀ| over that of R + Rᵀ, where R holds the shares of each class that flip to each other
    class: 0 for a symmetric matrix, 1 where no flip has a counterpart. `chance` is its mean if a flip and its
    counterpart were equally likely, and `p` how often such flips are as asymmetric, pair by pair. Both are None where
    nothing flips between classes that are both attacked.
    """

    index: float | None
    chance: float | None
    p: float


def asymmetry(matrix: Counts, attacked: Counts, seed: int = 0, draws: int = DRAWS) -> Asymmetry:
    """Of the flips in `matrix`, out of the images `attacked` of each class."""
    upper, lower = np.triu_indices(len(matrix), 1)
    both = matrix[upper, lower] + matrix[lower, upper]
    comparable = (both > 0) & (attacked[upper] > 0) & (attacked[lower] > 0)
    if not comparable.any():
        return Asymmetry(None, None, 1.0)
    upper, lower, both = upper[comparable], lower[comparable], both[comparable]
    upper_size, lower_size = attacked[upper], attacked[lower]
    expected, pair = upper_size / (upper_size + lower_size), np.repeat(np.arange(len(both)), both)
    random = RowRandom(seed, "flips there or back")
    forward = np.stack(
        [matrix[upper, lower]]
        + [
            np.bincount(pair[random.uniform(number, len(pair)) < expected[pair]], minlength=len(both))
            for number in range(draws)
        ]
    )
    statistic = ((forward - both * expected) ** 2 / (both * expected * (1 - expected))).sum(1)
    forward_share, back_share = forward / upper_size, (both - forward) / lower_size
    index = np.abs(forward_share - back_share).sum(1) / (forward_share + back_share).sum(1)
    return Asymmetry(float(index[0]), float(index[1:].mean()), _p_value(statistic))


def _p_value(statistics: NDArray[np.float64]) -> float:
    """How often a draw reaches the observed value, which comes first."""
    return float((statistics >= statistics[0] - 1e-9).mean())


@dataclass(frozen=True)
class Attraction:
    """How many times its even share of flips each class receives (None where it could receive none).

    `strongest` lies the most standard deviations above its share; None where nothing flips, or has no choice. `p` is
    how often any class lies as far above if every flip goes to each other class with the same probability.
    """

    ratios: tuple[float | None, ...]
    strongest: int | None
    p: float


def attraction(matrix: Counts, seed: int = 0, draws: int = DRAWS) -> Attraction:
    """Whether the flips in `matrix` favour a class, given how many leave each."""
    classes, leaving = len(matrix), matrix.sum(1)
    probability = 1 / (classes - 1)
    expected = (leaving.sum() - leaving) * probability
    ratios = tuple(
        float(count / even) if even > 0 else None for count, even in zip(matrix.sum(0), expected, strict=True)
    )
    varies = expected * (1 - probability) > 0
    if not varies.any():
        return Attraction(ratios, None, 1.0)
    true, random = np.repeat(np.arange(classes), leaving), RowRandom(seed, "flips to any class")
    received = [matrix.sum(0)]
    for number in range(draws):
        other = (random.uniform(number, len(true)) * (classes - 1)).astype(np.int64)
        received.append(np.bincount(other + (other >= true), minlength=classes))
    deviation = np.sqrt(expected * (1 - probability))
    scores = (np.stack(received)[:, varies] - expected[varies]) / deviation[varies]
    strongest = int(np.flatnonzero(varies)[scores[0].argmax()])
    return Attraction(ratios, strongest, _p_value(scores.max(1)))


@dataclass(frozen=True)
class Agreement:
    """Of the images that both flip: the `share` with the same new class, and the share expected by `chance`.

    Chance pairs images of the same true class at random, which is also what `p` counts. `kappa` is 0 at chance and 1
    where all agree. All are None where no image is flipped by both; kappa too where chance leaves nothing to reach.
    """

    both: int
    share: float | None
    chance: float | None
    kappa: float | None
    p: float | None


def agreement(first: LabelFlips, second: LabelFlips, seed: int = 0, draws: int = DRAWS) -> Agreement:
    """Of two attacks, or two models, on the same images in the same order."""
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
    """The expected number of equal pairs if both were paired at random."""
    return sum(int((one == label).sum()) * int((other == label).sum()) for label in np.unique(one)) / len(one)
