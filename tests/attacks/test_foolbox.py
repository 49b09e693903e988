"""Every attack of the table on the same few digits and small nets: what each promises, and how strong it is."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from featuregen.attacks.api import attack
from featuregen.attacks.registry import ATTACKS
from featuregen.attacks.result import AttackResult
from featuregen.config.schema import Norm
from featuregen.models.classifier import Classifier
from tests.helpers.attack_cases import AIMED, CASES, OWN, RADII, Case, distance, has, seen, won


@pytest.fixture(scope="module")
def precise(standard: Classifier) -> Classifier:
    """In float64, where a batch's size moves no gradient's sign."""
    return copy.deepcopy(standard).double()


def test_every_attack_has_a_case() -> None:
    assert {case.name for case in CASES} == set(ATTACKS)
    for name, known in ATTACKS.items():
        norms = [case.options.get("norm") for case in CASES if case.name == name]
        # Of Foolbox's, each has one norm and no choice.
        chosen = has(name, "norm") and not name.startswith("foolbox-")
        assert norms == (list(RADII) if chosen else [None]), known


# What every outcome promises ----------------------------------------------------------------------


def check(case: Case, model: Classifier, images: Tensor, goal: Tensor, targeted: bool, outcome: AttackResult) -> None:
    found = outcome.images
    assert found.shape == images.shape and found.dtype == images.dtype and not found.requires_grad
    assert found.min() >= 0 and found.max() <= 1
    if case.ball:
        assert (distance(found, images, case.ball[0]) <= case.ball[1]).all()
    first, last = seen(model, images), seen(model, found)
    assert torch.equal(outcome.before, first.argmax(1)) and torch.equal(outcome.after, last.argmax(1))
    assert torch.equal(outcome.success, (outcome.after == goal) == targeted)
    assert torch.equal(outcome.initially_met, (outcome.before == goal) == targeted)
    sure = F.softmax(first, 1).amax(1), F.softmax(last, 1).amax(1)
    assert torch.equal(outcome.confidence_before, sure[0]) and torch.equal(outcome.confidence_after, sure[1])
    for norm in ("l1", "l2", "linf"):
        torch.testing.assert_close(getattr(outcome, norm).double(), distance(found, images, norm), rtol=1e-5, atol=1e-7)
    changed = (found != images).any(1).flatten(1).sum(1)
    assert torch.equal(outcome.l0, changed)
    assert outcome.success_rate == pytest.approx(won(outcome).sum().item() / (~outcome.initially_met).sum().item())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_outcome_is_what_the_model_sees(case: Case, standard: Classifier, few: Tensor, truth: Tensor) -> None:
    before, state = few.clone(), torch.random.get_rng_state()
    outcome = attack(standard, few, truth, case.name, **case.options)
    check(case, standard, few, truth, False, outcome)
    assert torch.equal(few, before) and torch.equal(torch.random.get_rng_state(), state)
    assert not standard.training and all(each.requires_grad for each in standard.parameters())
    assert outcome.initially_met.any() and not outcome.initially_met.all()
    assert outcome.success_rate >= case.wins
    again = attack(standard, few, truth, case.name, **case.options)
    assert torch.equal(outcome.images, again.images)


@pytest.mark.parametrize("case", AIMED, ids=str)
def test_a_class_that_is_asked_for_is_reached(case: Case, standard: Classifier, few: Tensor, truth: Tensor) -> None:
    targets = (truth + 1) % 10
    far = Case(case.name, options=case.far)
    outcome = attack(standard, few, truth, case.name, targets=targets, **far.options)
    check(far, standard, few, targets, True, outcome)
    assert outcome.success_rate >= case.aimed
    assert (outcome.after == targets).sum() > (outcome.before == targets).sum() or case.aimed == 0


@pytest.mark.parametrize("case", [case for case in CASES if case.name not in ("fgsm", "pgd")], ids=str)
def test_what_is_won_already_is_left_alone(case: Case, standard: Classifier, few: Tensor, truth: Tensor) -> None:
    wrong = torch.where(torch.arange(len(truth)) < 12, (truth + 1) % 10, truth)
    outcome = attack(standard, few, wrong, case.name, **case.options)
    assert outcome.initially_met[:12].sum() >= 11
    assert torch.equal(outcome.images[outcome.initially_met], few[outcome.initially_met])
    assert outcome.success[outcome.initially_met].all()
    assert not torch.equal(outcome.images, few)


@pytest.mark.parametrize("case", [case for case in CASES if case.name in ("fgsm", "pgd")], ids=str)
def test_gradient_steps_leave_what_is_wrong_wrong(case: Case, standard: Classifier, few: Tensor, truth: Tensor) -> None:
    outcome = attack(standard, few, (truth + 1) % 10, case.name, **case.options)
    assert outcome.initially_met.sum() >= 22 and outcome.success[outcome.initially_met].all()


@pytest.mark.parametrize("case", [case for case in CASES if has(case.name, "eps")], ids=str)
def test_a_radius_of_zero_gives_the_images_back(case: Case, standard: Classifier, few: Tensor, truth: Tensor) -> None:
    outcome = attack(standard, few, truth, case.name, **{**case.options, "eps": 0})
    assert torch.equal(outcome.images, few) and outcome.images.data_ptr() != few.data_ptr()
    assert torch.equal(outcome.success, outcome.initially_met) and outcome.success_rate == 0
    assert not outcome.l0.any() and torch.equal(outcome.confidence_before, outcome.confidence_after)


# Random numbers -----------------------------------------------------------------------------------

STARTS: dict[str, dict[str, Any]] = {"pgd": {"random_start": True, "restarts": 2}, "auto-pgd": {"restarts": 2}}
TRIES: dict[str, dict[str, Any]] = {"spatial": {"tries": 7}}
RANDOM = ("pgd", "auto-pgd", "pixels", "spatial", "square", "noise", "ensemble")


def at_random(case: Case) -> dict[str, Any]:
    return {**case.options, **STARTS.get(case.name, {}), **TRIES.get(case.name, {})}


@pytest.mark.parametrize("case", OWN, ids=str)
def test_the_size_of_a_batch_changes_no_draw(case: Case, precise: Classifier, few: Tensor, truth: Tensor) -> None:
    options = at_random(case)
    whole, parts = (attack(precise, few.double(), truth, case.name, batch_size=size, **options) for size in (256, 7))
    assert torch.equal(whole.success, parts.success)
    assert (whole.images - parts.images).abs().max() < 1e-6


@pytest.mark.parametrize("case", [case for case in OWN if case.name in RANDOM], ids=str)
def test_another_seed_draws_otherwise(case: Case, standard: Classifier, few: Tensor, truth: Tensor) -> None:
    options = at_random(case)
    first, again, other = (attack(standard, few, truth, case.name, seed=seed, **options) for seed in (1, 1, 2))
    assert torch.equal(first.images, again.images) and not torch.equal(first.images, other.images)


def test_rows_draw_apart(standard: Classifier, few: Tensor, truth: Tensor) -> None:
    """The same image twice gets different noise, in one batch and in two."""
    twice = few[:1].repeat(2, 1, 1, 1)
    for size in (1, 2):
        found = attack(standard, twice, truth[:1].repeat(2), "noise", tries=1, eps=0.05, batch_size=size).images
        assert not torch.equal(found[0], found[1])


# Strength -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [case for case in OWN if case.ball and case.name != "noise"], ids=str)
def test_attacks_beat_noise_of_their_size(case: Case, standard: Classifier, images: Tensor, labels: Tensor) -> None:
    x, y, norm = images[:60], labels[:60], case.options["norm"]
    noise = attack(standard, x, y, "noise", norm=norm, eps=RADII[norm], tries=10)
    assert attack(standard, x, y, case.name, **case.options).success_rate > noise.success_rate + 0.1


@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize(
    ("name", "options"), [("pgd", {"steps": 5}), ("auto-pgd", {"steps": 10}), ("square", {"queries": 60})]
)
def test_a_larger_radius_wins_no_fewer(
    standard: Classifier, images: Tensor, labels: Tensor, name: str, options: dict[str, Any], norm: Norm
) -> None:
    """But for one image of sixty: the walks differ."""
    rates = [
        attack(standard, images[:60], labels[:60], name, norm=norm, eps=share * RADII[norm], **options).success_rate
        for share in (0.3, 0.6, 1, 1.5, 2.5)
    ]
    assert all(more >= less - 1 / 50 for less, more in pairwise(rates))
    assert rates[-1] > max(0.8, rates[0] + 0.5)


@pytest.mark.parametrize("norm", RADII)
def test_the_ensemble_wins_what_its_parts_win(standard: Classifier, images: Tensor, labels: Tensor, norm: Norm) -> None:
    x, y = images[:60], labels[:60]
    ball: dict[str, Any] = {"norm": norm, "eps": 0.6 * RADII[norm]}
    whole = attack(standard, x, y, "ensemble", steps=10, classes=2, queries=50, **ball)
    parts = [attack(standard, x, y, "auto-pgd", steps=10, **ball), attack(standard, x, y, "pgd", steps=10, **ball)]
    assert 0.1 < whole.success_rate < 1 and all(whole.success_rate >= part.success_rate for part in parts)
    # What no part moves over the decision is not moved at all.
    assert torch.equal(whole.images[~whole.success], x[~whole.success])


def test_restarts_and_momentum_reach_gradient_steps(standard: Classifier, images: Tensor, labels: Tensor) -> None:
    x, y = images[:60], labels[:60]
    for norm, eps in RADII.items():
        once, thrice, heavy = (
            attack(standard, x, y, "pgd", norm=norm, eps=0.7 * eps, steps=3, **extra)
            for extra in ({}, {"restarts": 3}, {"momentum": 0.75})
        )
        assert (thrice.success >= once.success).all() and not torch.equal(thrice.images, once.images)
        assert not torch.equal(heavy.images, once.images) and heavy.success_rate > 0.2
        assert (distance(heavy.images, x, norm) <= 0.7 * eps).all()
