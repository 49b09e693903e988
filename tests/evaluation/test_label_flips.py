"""Label flips: matrices of known flips, and tests that find what is there and nothing where nothing is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, kstest
from torch import Tensor, nn

from featuregen.attacks.api import attack
from featuregen.errors import UserError
from featuregen.evaluation.accuracy import predict
from featuregen.evaluation.label_flip_statistics import LabelFlips, agreement, asymmetry, attraction
from featuregen.evaluation.label_flips import expand_grid, label_flips
from featuregen.models.classifier import Classifier

Array = np.ndarray[Any, Any]


def flips(
    true: list[int] | Array, after: list[int] | Array, before: list[int] | Array | None = None, classes: int = 10
) -> LabelFlips:
    first = true if before is None else before
    arrays = [np.array(each, dtype=np.int64) for each in (true, first, after)]
    return LabelFlips(arrays[0], arrays[1], arrays[2], classes)


# Matrices -----------------------------------------------------------------------------------------


def test_only_what_was_right_before_and_is_wrong_after_is_a_flip() -> None:
    found = flips(true=[0, 0, 1, 1, 2, 2, 2], before=[0, 0, 1, 2, 2, 0, 2], after=[1, 0, 2, 0, 0, 1, 0], classes=3)
    assert found.attacked.tolist() == [True, True, True, False, True, False, True]
    assert found.flipped.tolist() == [True, False, True, False, True, False, True]
    assert found.matrix.tolist() == [[0, 1, 0], [0, 0, 1], [2, 0, 0]]
    assert found.attacked_per_class.tolist() == [2, 1, 2]


def test_an_attack_flips_what_the_model_itself_sees(standard: Classifier, images: Tensor, labels: Tensor) -> None:
    x, y = images[:60], labels[:60].clone()
    y[:5] = (y[:5] + 1) % 10
    (run,) = expand_grid(["pgd"], [0.1], "linf", {"pgd": {"steps": "5"}})
    found = label_flips(standard, x, y, run.attack, **run.settings)
    seen = predict(standard, x)
    assert (found.true == y.numpy()).all() and (found.before == seen.numpy()).all()
    assert not found.attacked[:5].any() and (found.after[~found.attacked] == found.before[~found.attacked]).all()
    right = (seen == y).nonzero().flatten()
    made = attack(standard, x[right], y[right], "pgd", norm="linf", eps=0.1, steps=5).images
    # Found on the stand-in, whose last bits are others.
    assert (found.after[right.numpy()] == predict(standard, made).numpy()).mean() > 0.95
    assert 0.2 < found.flipped.sum() / found.attacked.sum() < 1


def test_a_model_that_gets_nothing_right_has_nothing_to_flip(standard: Classifier, images: Tensor) -> None:
    wrong = (predict(standard, images[:8]) + 1) % 10
    (run,) = expand_grid(["fgsm"], [0.1], "linf")
    found = label_flips(standard, images[:8], wrong, run.attack, **run.settings)
    assert not found.attacked.any() and found.matrix.sum() == 0
    empty = asymmetry(found.matrix, found.attacked_per_class), attraction(found.matrix)
    assert (empty[0].index, empty[0].p, empty[1].strongest, empty[1].p) == (None, 1.0, None, 1.0)
    assert agreement(found, found).both == 0 and agreement(found, found).p is None


class Linear(nn.Module):
    """Any network will do, not only the package's own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x.flatten(1))
        return logits


def test_any_network_can_be_attacked() -> None:
    torch.manual_seed(0)
    net, x = Linear().eval(), torch.rand(30, 1, 2, 2)
    (run,) = expand_grid(["pgd"], [0.9], "linf")
    found = label_flips(net, x, predict(net, x), run.attack, **run.settings)
    assert found.attacked.all() and found.flipped.any()


# Runs ---------------------------------------------------------------------------------------------


def test_attacks_without_a_radius_run_once() -> None:
    runs = expand_grid(["fgsm", "smallest", "spatial", "pixels"], ["0.1", "8/255"], "linf", {"pixels": {"pixels": 2}})
    told = [(run.attack, run.eps, run.norm) for run in runs]
    assert told[:2] == [("fgsm", 0.1, "linf"), ("fgsm", 8 / 255, "linf")]
    assert told[2:] == [("smallest", None, "linf"), ("spatial", None, None), ("pixels", None, None)]
    assert runs[-1].settings["pixels"] == 2 and runs[0].settings["eps"] == 0.1
    assert [run.attack for run in expand_grid(["spatial"], [], "l2")] == ["spatial"]


@pytest.mark.parametrize(
    ("names", "radii", "others", "why"),
    [
        (["pdg"], [0.1], {}, "'pdg' is no attack; did you mean 'pgd'?"),
        (["pgd"], ["much"], {}, "attack pgd: eps is 'much'; give a number"),
        (["pgd"], [-0.1], {}, "eps is -0.1; it must be"),
        (["pgd"], [0], {}, "eps 0 changes nothing"),
        (["pgd"], [1], {}, "reaches every image; give a radius below 1"),
        (["pgd"], [], {}, "attack pgd needs a radius"),
        (["pgd", "pgd"], [0.1], {}, "attack pgd at eps 0.1 is given twice"),
        (["pgd"], ["0.1", "0.10"], {}, "attack pgd at eps 0.1 is given twice"),
        (["spatial", "spatial"], [], {}, "attack spatial is given twice"),
        (["pgd"], [0.1], {"pgd": {"step": 3}}, "unknown setting 'step'; did you mean 'steps'?"),
        (["pgd"], [0.1], {"fgsm": {"eps": 3}}, "settings are given for the attack 'fgsm', which is not run"),
    ],
)
def test_runs_that_cannot_be(names: list[str], radii: list[Any], others: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError) as caught:
        expand_grid(names, radii, "linf", others)
    assert why in str(caught.value) and "\n" not in str(caught.value)


# Asymmetry ----------------------------------------------------------------------------------------


def test_a_symmetric_matrix_has_no_direction() -> None:
    found = asymmetry(np.array([[0, 4, 2], [4, 0, 7], [2, 7, 0]]), np.full(3, 20))
    assert found.index == 0 and found.p == 1 and found.chance is not None and 0.1 < found.chance < 0.4


def test_asymmetry_of_a_matrix_worked_by_hand() -> None:
    """Differences 6, 0 and 3 of sums 10, 0 and 9, in classes of the same size."""
    found = asymmetry(np.array([[0, 8, 0], [2, 0, 3], [0, 6, 0]]), np.full(3, 10))
    assert found.index == pytest.approx(9 / 19)


def test_one_pair_is_a_coin_thrown() -> None:
    found = asymmetry(np.array([[0, 9], [3, 0]]), np.array([20, 20]), draws=4000)
    assert found.index == pytest.approx(6 / 12)
    assert found.p == pytest.approx(binomtest(9, 12, 0.5).pvalue, abs=0.02)


def test_classes_of_other_sizes_are_held_against_their_sizes() -> None:
    """A third of 60 and a third of 20: as large a share each way."""
    alike = asymmetry(np.array([[0, 20], [7, 0]]), np.array([60, 21]))
    assert alike.index == pytest.approx(0) and alike.p == 1
    assert asymmetry(np.array([[0, 20], [20, 0]]), np.array([60, 21])).p < 0.01
    # Of a class that nothing was attacked of, nothing could have come back.
    assert asymmetry(np.array([[0, 9], [0, 0]]), np.array([30, 0])).index is None


def test_flips_without_a_way_back() -> None:
    found = asymmetry(np.triu(np.full((10, 10), 9), 1), np.full(10, 100))
    assert found.index == 1 and found.p == pytest.approx(1 / 1001)
    assert found.chance is not None and 0.2 < found.chance < 0.3


@pytest.mark.parametrize("count", [40, 400])
def test_flips_without_a_direction_are_seldom_found_to_have_one(count: int) -> None:
    """However few they are, and though each class has another size."""
    draw, sizes = np.random.default_rng(0), np.array([100, 40, 60, 80, 30])
    chances = []
    for _ in range(200):
        counts = np.zeros((5, 5), dtype=np.int64)
        for _ in range(count):
            first, second = draw.choice(5, 2, replace=False)
            there = draw.random() < sizes[first] / (sizes[first] + sizes[second])
            counts[(first, second) if there else (second, first)] += 1
        chances.append(asymmetry(counts, sizes, draws=200).p)
    assert kstest(chances, "uniform").pvalue > 0.01


# Attraction ---------------------------------------------------------------------------------------


def even(draw: np.random.Generator, leaving: list[int]) -> Array:
    """Flips to any other class alike, of so many images of each."""
    counts = np.zeros((len(leaving), len(leaving)), dtype=np.int64)
    for label, count in enumerate(leaving):
        others = np.delete(np.arange(len(leaving)), label)
        counts[label] = np.bincount(draw.choice(others, count), minlength=len(leaving))
    return counts


def test_attraction_worked_by_hand() -> None:
    """Class 2 receives 9 of its even share of (6 + 6) / 2."""
    found = attraction(np.array([[0, 1, 5], [2, 0, 4], [3, 1, 0]]))
    assert found.ratios == pytest.approx((5 / ((6 + 4) / 2), 2 / ((6 + 4) / 2), 9 / 6)) and found.strongest == 2


def test_flips_to_all_other_classes_alike_attract_no_more_than_by_chance() -> None:
    """Over many matrices p is even, also where classes are of very different sizes."""
    draw = np.random.default_rng(0)
    leaving = [400, 20, 60, 10, 80, 30, 30, 30, 100, 40]
    chances = [attraction(even(draw, leaving), draws=200).p for _ in range(200)]
    assert kstest(chances, "uniform").pvalue > 0.01
    assert attraction(np.full((10, 10), 5) - 5 * np.eye(10, dtype=np.int64)).p == 1


def test_a_class_that_attracts_is_found() -> None:
    counts = even(np.random.default_rng(1), [40] * 10)
    counts[:, 7] += 12
    counts[7, 7] = 0
    found = attraction(counts)
    assert found.strongest == 7 and found.p == pytest.approx(1 / 1001)
    ratio = found.ratios[7]
    assert ratio is not None and ratio > 2 and all(other is not None and other < 1 for other in found.ratios[:7])


def test_a_class_that_everything_leaves_can_receive_nothing() -> None:
    found = attraction(np.array([[0, 9, 3], [0, 0, 0], [0, 0, 0]]))
    assert found.ratios == (None, 1.5, 0.5) and found.strongest == 1
    # One of two: nine of twelve heads, or of twelve tails.
    assert found.p == pytest.approx(binomtest(9, 12, 0.5).pvalue, abs=0.05)
    assert attraction(np.array([[0, 5, 5], [0, 0, 0], [0, 0, 0]])).strongest in (1, 2)


def test_two_classes_leave_no_choice() -> None:
    found = attraction(np.array([[0, 9], [2, 0]]))
    assert (found.ratios, found.strongest, found.p) == ((1.0, 1.0), None, 1.0)


def test_a_class_that_receives_nothing_attracts_nothing() -> None:
    counts = 4 * (np.ones((10, 10), dtype=np.int64) - np.eye(10, dtype=np.int64))
    counts[:, 9] = 0
    assert attraction(counts).strongest != 9 and attraction(counts).p > 0.5


# Agreement ----------------------------------------------------------------------------------------


def drawn(seed: int, count: int = 200) -> tuple[Array, Array]:
    """True classes, and other ones drawn with weights, so that chance alone agrees often."""
    draw = np.random.default_rng(seed)
    true = draw.integers(0, 10, count)
    after = draw.choice(10, count, p=np.arange(1, 11) / 55)
    return true, np.where(after == true, (true + 1) % 10, after)


def test_identical_flips_agree_entirely() -> None:
    true, after = drawn(0)
    found = agreement(flips(true, after), flips(true, after))
    assert (found.both, found.share, found.kappa) == (200, 1.0, 1.0)
    assert found.p == pytest.approx(1 / 1001) and found.chance is not None and 0.05 < found.chance < 0.5


def test_flips_that_only_share_their_true_classes_do_not_agree() -> None:
    """Each class has a favourite, so that they agree far more than two that know no classes."""
    draw, chances, kappas = np.random.default_rng(0), [], []
    true = np.repeat(np.arange(10), 20)
    for _ in range(20):
        one, other = (np.where(draw.random(200) < 0.6, (true + 3) % 10, (true + 1) % 10) for _ in range(2))
        found = agreement(flips(true, one), flips(true, other), draws=200)
        assert found.p is not None and found.kappa is not None and found.share is not None
        assert found.chance == pytest.approx(found.share, abs=0.15)
        chances.append(found.p)
        kappas.append(found.kappa)
    assert abs(np.mean(kappas)) < 0.05 and np.mean(np.array(chances) < 0.05) < 0.2 and max(chances) > 0.5


def test_shuffled_flips_do_not_agree() -> None:
    true, after = drawn(0)
    _, other = drawn(1)
    other = np.where(other == true, (true + 1) % 10, other)
    found = agreement(flips(true, after), flips(true, other))
    assert found.p is not None and found.p > 0.05
    half = np.where(np.arange(200) % 2, after, other)
    found = agreement(flips(true, after), flips(true, half))
    assert found.p is not None and found.p < 0.01 and found.share is not None and 0.5 < found.share < 0.8


def test_only_images_that_both_flip_are_compared() -> None:
    one = flips(true=[0, 0, 1, 1, 2], before=[0, 0, 1, 2, 2], after=[1, 2, 2, 2, 2])
    other = flips(true=[0, 0, 1, 1, 2], before=[0, 0, 1, 1, 2], after=[1, 1, 1, 0, 0])
    found = agreement(one, other)
    # The first two images, of one class; their second classes are (1, 2) and (1, 1).
    assert (found.both, found.share, found.chance) == (2, 0.5, 0.5) and found.p == 1


def test_the_chance_is_that_of_pairing_at_random() -> None:
    true, after = drawn(3, 30)
    _, other = drawn(4, 30)
    other = np.where(other == true, (true + 1) % 10, other)
    draw, met = np.random.default_rng(0), []
    for _ in range(3000):
        paired = other.copy()
        for label in np.unique(true):
            paired[true == label] = draw.permutation(other[true == label])
        met.append(np.mean(after == paired))
    found = agreement(flips(true, after), flips(true, other))
    assert found.chance == pytest.approx(np.mean(met), abs=0.01)
    assert found.share is not None and found.p == pytest.approx(np.mean(np.array(met) >= found.share), abs=0.05)


def test_kappa_has_nothing_to_say_where_chance_leaves_nothing() -> None:
    """Every class goes to the next: the same share as any pairing would give."""
    true = np.repeat(np.arange(10), 5)
    found = agreement(flips(true, (true + 1) % 10), flips(true, (true + 1) % 10))
    assert (found.share, found.chance, found.kappa, found.p) == (1, 1, None, 1)


def test_permutations_are_those_of_the_seed() -> None:
    true, after = drawn(0, 40)
    _, other = drawn(1, 40)
    one, two = flips(true, after), flips(true, np.where(other == true, (true + 1) % 10, other))
    assert agreement(one, two, seed=5) == agreement(one, two, seed=5)
    assert len({agreement(one, two, seed=seed).p for seed in range(6)}) > 1


def test_flips_of_other_images_are_refused() -> None:
    with pytest.raises(UserError, match="the same images in the same order"):
        agreement(flips([0, 1], [1, 0]), flips([1, 0], [0, 1]))
