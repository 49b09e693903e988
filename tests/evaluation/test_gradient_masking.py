"""Masked gradients: honest nets pass, and each way to hide a gradient is seen by the check that should see it."""

from __future__ import annotations

import json
import math
from functools import cache
from typing import Any

import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from featuregen import check_gradient_masking
from featuregen.config import Model
from featuregen.errors import UserError
from featuregen.evaluation.gradient_masking import FEWEST, MARGIN, MaskingCheck, MaskingReport, _beats
from featuregen.models import Classifier, build_classifier

# So few, since it is nets of the same shape that answer, and a mask shows in most of its images.
COUNT = 60
LESS: dict[str, Any] = {"steps": 8, "queries": 100}
CHECKS = [
    "same answer twice", "slope", "one step or many", "without gradients", "without a limit", "more effort",
    "random noise",
]  # fmt: skip


def flagged(verdict: MaskingReport) -> set[str]:
    return {check.name for check in verdict.checks if not check.ok}


def check(verdict: MaskingReport, name: str) -> MaskingCheck:
    (found,) = [each for each in verdict.checks if each.name == name]
    return found


def rates(verdict: MaskingReport, name: str) -> dict[str, float]:
    return {rate.name: rate.lost for rate in check(verdict, name).rates}


# Honest nets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("norm", "eps"), [("linf", 8 / 255), ("linf", 0.2), ("l2", 0.75)])
@pytest.mark.parametrize("which", ["standard", "robust"])
def test_an_honest_net_passes(which: str, norm: str, eps: float, request: Any, images: Tensor, labels: Tensor) -> None:
    net = request.getfixturevalue(which)
    found = check_gradient_masking(net, images[:COUNT], labels[:COUNT], norm=norm, eps=eps, **LESS)
    assert found.ok and not flagged(found), found
    assert [each.name for each in found.checks] == CHECKS and all(each.meaning for each in found.checks)
    assert found.images == COUNT and found.attacked == round(found.accuracy * COUNT) > 50
    white = rates(found, "without gradients")["white box"]
    assert white >= rates(found, "random noise")["noise"] and (eps < 0.1 or white > 0.3)
    assert rates(found, "without a limit") == {"any change": 1.0}


def test_a_net_of_two_classes_and_one_of_another_make_pass(images: Tensor, labels: Tensor) -> None:
    """Neither is the package's own; the second loss takes three classes, so two have to do with one."""
    few = (labels < 2).nonzero().flatten()
    flat = images[few].flatten(1)
    apart = flat[labels[few] == 1].mean(0) - flat[labels[few] == 0].mean(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    line = net[1]
    assert isinstance(line, nn.Linear)
    with torch.no_grad():
        line.weight.copy_(torch.stack([-apart, apart]))
        line.bias.copy_(torch.tensor([1.0, -1.0]) * (flat @ apart).mean())
    found = check_gradient_masking(net.eval(), images[few], labels[few], eps=0.2, **LESS)
    assert found.ok and found.accuracy > 0.95 and rates(found, "more effort")["white box"] > 0
    assert all(parameter.requires_grad for parameter in net.parameters()), "left as they were"


# Masks --------------------------------------------------------------------------------------------


class Mask(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(self.seen(x))
        return logits

    def seen(self, x: Tensor) -> Tensor:
        """What hides the gradient; this hides nothing."""
        return x


class Saturated(Mask):
    """So sure that float32 has no slope left; the difference of logits has."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return 1e4 * logits


class Rounded(Mask):
    def seen(self, x: Tensor) -> Tensor:
        return (x * 16).round() / 16


class Cosines(Mask):
    """As JPEG does: cosines of the whole block, rounded."""

    def seen(self, x: Tensor) -> Tensor:
        k = torch.arange(8.0)
        basis = torch.cos(math.pi * (k + 0.5) * k[:, None] / 8) / 2
        basis[0] /= 2**0.5
        return basis.T @ ((basis @ x @ basis.T) * 4).round().div(4) @ basis


class Cut(Mask):
    def seen(self, x: Tensor) -> Tensor:
        return x.detach()


class Shattered(Mask):
    """A ripple far too small to be seen, and far too steep to be followed."""

    def seen(self, x: Tensor) -> Tensor:
        return x + 0.02 * torch.sin(2000 * x)


class Jittered(Mask):
    def seen(self, x: Tensor) -> Tensor:
        return x + 0.05 * torch.randn_like(x)


class Trap(Mask):
    """Only at images as they are stored, in bytes, does the gradient lead anywhere."""

    def seen(self, x: Tensor) -> Tensor:
        stored = ((255 * x - (255 * x).round()).abs() < 1e-3).flatten(1).all(1).view(-1, 1, 1, 1)
        return torch.where(stored, x, x.detach())


class Decoy(Mask):
    """Its own answers, with the slope of a net that learnt nothing."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.other = build_classifier(Model(width=8), (1, 8, 8), 10, [0.3], [0.37], seed=9).eval()

    def forward(self, x: Tensor) -> Tensor:
        own, value_and_grad = self.net(x).detach(), self.other(x)
        logits: Tensor = own + value_and_grad - value_and_grad.detach()
        return logits


@pytest.mark.parametrize(
    ("mask", "seen_by", "passed"),
    [
        (Saturated, {"slope"}, {"without gradients", "without a limit", "more effort"}),
        (Rounded, {"slope", "without gradients", "without a limit"}, {"same answer twice"}),
        (Cosines, {"slope", "without gradients", "without a limit"}, {"same answer twice"}),
        (Cut, {"slope", "without gradients", "without a limit"}, {"same answer twice"}),
        (Shattered, {"without gradients"}, {"same answer twice", "slope"}),
        (Decoy, {"without gradients"}, {"same answer twice", "slope"}),
        (Trap, {"one step or many", "without gradients", "random noise"}, {"same answer twice", "slope"}),
        (Jittered, {"same answer twice"}, {"slope"}),
    ],
)
def test_a_masked_net_is_flagged(
    mask: type[Mask], seen_by: set[str], passed: set[str], standard: Classifier, images: Tensor, labels: Tensor
) -> None:
    torch.manual_seed(0)
    found = check_gradient_masking(mask(standard), images[:COUNT], labels[:COUNT], eps=0.15, **LESS)
    assert not found.ok and flagged(found) >= seen_by and not flagged(found) & passed, found
    assert check(found, "slope").rates[0].lost == (1 if "slope" in seen_by else 0)


def test_an_attack_that_is_cut_short_is_told_to_go_on(standard: Classifier, images: Tensor, labels: Tensor) -> None:
    short = check_gradient_masking(standard, images[:COUNT], labels[:COUNT], norm="l2", eps=0.6, steps=1, queries=100)
    assert "more effort" in flagged(short)
    found = rates(short, "more effort")
    assert found["10 times the steps"] > found["white box"] + 0.1


def test_what_another_model_finds_is_a_black_box_too(standard: Classifier, images: Tensor, labels: Tensor) -> None:
    """With a single query, only what is transferred can tell that the gradient misleads."""
    words: dict[str, Any] = {"eps": 0.15, "steps": 8, "queries": 1}
    alone = check_gradient_masking(Decoy(standard), images[:COUNT], labels[:COUNT], **words)
    assert check(alone, "without gradients").ok
    found = check_gradient_masking(Decoy(standard), images[:COUNT], labels[:COUNT], other=standard, **words)
    assert "without gradients" in flagged(found)
    threats = [(rate.name, rate.threat) for rate in check(found, "without gradients").rates]
    assert threats == [("1 queries", "query"), ("transfer", "transfer"), ("white box", "white-box")]
    told = rates(found, "without gradients")
    assert told["transfer"] > told["white box"] + 0.3
    # A model that tells no slope finds nothing, and that is no mistake.
    blind = check_gradient_masking(standard, images[:COUNT], labels[:COUNT], other=Cut(standard), **words)
    assert blind.ok and rates(blind, "without gradients")["transfer"] < 0.3


# What is more than luck ---------------------------------------------------------------------------


@pytest.mark.parametrize("count", [20, 100, 359, 1000])
@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (6, 0), (7, 0), (7, 1), (9, 1), (15, 3), (15, 4), (20, 0)])
def test_an_attack_beats_another_if_it_is_more_than_luck(count: int, wins: int, losses: int) -> None:
    one, other = torch.zeros(count + 30, dtype=torch.bool), torch.zeros(count + 30, dtype=torch.bool)
    one[:wins], other[wins : wins + losses] = True, True
    # What both lose says nothing.
    one[-3:], other[-3:] = True, True
    lucky = wins + losses == 0 or binomtest(wins, wins + losses, alternative="greater").pvalue >= 0.01
    assert _beats(one, other) == (not lucky and wins - losses > MARGIN * len(one))
    assert not _beats(other, one)


def test_with_the_fewest_images_a_win_on_all_of_them_counts_and_with_one_less_it_could_not() -> None:
    def all_against_none(count: int) -> bool:
        return _beats(torch.ones(count, dtype=torch.bool), torch.zeros(count, dtype=torch.bool))

    assert all_against_none(FEWEST) and not all_against_none(FEWEST - 1)


# The record, and what is refused ------------------------------------------------------------------


@cache
def untrained() -> Classifier:
    return build_classifier(Model(width=8), (1, 8, 8), 10, [0.3], [0.37], seed=0).eval()


def test_a_verdict_is_the_same_again_and_goes_through_json(images: Tensor) -> None:
    with torch.no_grad():
        labels = untrained()(images[:20]).argmax(1)
    first, again = (
        check_gradient_masking(
            untrained(), images[:20], labels, eps="8/255", steps=2, queries=5, seed=3, batch_size=size
        )
        for size in (256, 7)
    )
    told = json.loads(json.dumps(first.to_dict()))
    assert told == again.to_dict() | json.loads(json.dumps({"checks": again.to_dict()["checks"]}))
    assert told["settings"] == {"norm": "linf", "eps": 8 / 255, "steps": 2, "queries": 5}
    assert (told["attacked"], told["accuracy"], told["ok"]) == (20, 1.0, first.ok)
    assert told["checks"][2]["rates"][0] == {"name": "one step", "threat": "white-box"} | {
        "lost": rates(first, "one step or many")["one step"]
    }


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"norm": "l3"}, "norm is 'l3'"),
        ({"eps": 0}, "eps is 0"),
        ({"eps": -0.1}, "eps is -0.1"),
        ({"eps": float("nan")}, "eps"),
        ({"eps": "much"}, "eps is 'much'; give a number"),
        ({"eps": 1}, "eps 1 reaches every image; give a radius below 1"),
        ({"norm": "l2", "eps": 8}, "eps 8 reaches every image; give a radius below 8"),
        ({"steps": 0}, "steps is 0"),
        ({"queries": 0.5}, "queries is 0.5"),
        ({"step": 3}, "unknown setting 'step'; did you mean 'steps'?"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_that_cannot_be(options: dict[str, Any], why: str, images: Tensor, labels: Tensor) -> None:
    with pytest.raises(UserError) as caught:
        check_gradient_masking(untrained(), images[:20], labels[:20], **options)
    assert why in str(caught.value) and "\n" not in str(caught.value)


def test_what_cannot_be_attacked_is_refused(standard: Classifier, images: Tensor, labels: Tensor) -> None:
    with torch.no_grad():
        seen = standard(images[:20]).argmax(1)
    wrong = (seen + 1) % 10
    with pytest.raises(UserError, match="gets 0 of 20 images right"):
        check_gradient_masking(standard, images[:20], wrong)
    wrong[:6] = seen[:6]
    with pytest.raises(UserError, match="gets 6 of 20 images right; with fewer than 7 to attack, luck"):
        check_gradient_masking(standard, images[:20], wrong)
    with pytest.raises(UserError, match="images in \\[0, 1\\]"):
        check_gradient_masking(standard, 255 * images[:20], labels[:20])
    with pytest.raises(UserError, match="one per image"):
        check_gradient_masking(standard, images[:20], labels[:19])
    with pytest.raises(UserError, match="eval mode"):
        check_gradient_masking(
            build_classifier(Model(width=8), (1, 8, 8), 10, [0.3], [0.37], seed=0).train(), images[:20], labels[:20]
        )
