"""Gradient masking: ordinary models pass, and each way to mask a gradient is flagged by the check made for it."""

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
from featuregen.config.schema import Model
from featuregen.errors import CheckFailed, UserError
from featuregen.evaluation.gradient_masking import MIN_IMAGES, MaskingReport
from featuregen.evaluation.masking_checks import MIN_LEAD, MaskingCheck, significantly_more
from featuregen.models.classifier import Classifier
from featuregen.models.registry import build_classifier

# So few, since a mask shows in most images.
COUNT = 60
LESS: dict[str, Any] = {"steps": 8, "queries": 100}
CHECKS = [
    "deterministic predictions",
    "non-zero gradient",
    "one step against many",
    "gradient-free attacks",
    "unbounded attack",
    "more steps and restarts",
    "random noise",
]
DETERMINISTIC, GRADIENT, ONE_STEP, GRADIENT_FREE, UNBOUNDED, MORE, NOISE = CHECKS


def flagged(report: MaskingReport) -> set[str]:
    return {check.name for check in report.checks if not check.ok}


def check(report: MaskingReport, name: str) -> MaskingCheck:
    (found,) = [each for each in report.checks if each.name == name]
    return found


def rates(report: MaskingReport, name: str) -> dict[str, float]:
    return {rate.name: rate.lost for rate in check(report, name).rates}


# Models without masking ---------------------------------------------------------------------------


@pytest.mark.parametrize(("norm", "eps"), [("linf", 8 / 255), ("linf", 0.2), ("l2", 0.75)])
@pytest.mark.parametrize("which", ["standard", "robust"])
def test_a_model_without_masking_passes(
    which: str, norm: str, eps: float, request: Any, images: Tensor, labels: Tensor
) -> None:
    net = request.getfixturevalue(which)
    found = check_gradient_masking(net, images[:COUNT], labels[:COUNT], norm=norm, eps=eps, **LESS)
    assert found.ok and not flagged(found), found
    assert [each.name for each in found.checks] == CHECKS and all(each.meaning for each in found.checks)
    assert found.images == COUNT and found.attacked == round(found.accuracy * COUNT) > 50
    white = rates(found, GRADIENT_FREE)["white box"]
    assert white >= rates(found, NOISE)["noise"] and (eps < 0.1 or white > 0.3)
    assert rates(found, UNBOUNDED) == {"unbounded": 1.0}


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
    assert found.ok and found.accuracy > 0.95 and rates(found, MORE)["white box"] > 0
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
    """So confident that cross-entropy has no gradient in float32; the difference of logits has."""

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
    """Its own predictions, with the gradient of an untrained model."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.other = build_classifier(Model(width=8), (1, 8, 8), 10, [0.3], [0.37], seed=9).eval()

    def forward(self, x: Tensor) -> Tensor:
        own, decoy = self.net(x).detach(), self.other(x)
        logits: Tensor = own + decoy - decoy.detach()
        return logits


@pytest.mark.parametrize(
    ("mask", "flagged_by", "passed"),
    [
        (Saturated, {GRADIENT}, {GRADIENT_FREE, UNBOUNDED, MORE}),
        (Rounded, {GRADIENT, GRADIENT_FREE, UNBOUNDED}, {DETERMINISTIC}),
        (Cosines, {GRADIENT, GRADIENT_FREE, UNBOUNDED}, {DETERMINISTIC}),
        (Cut, {GRADIENT, GRADIENT_FREE, UNBOUNDED}, {DETERMINISTIC}),
        (Shattered, {GRADIENT_FREE}, {DETERMINISTIC, GRADIENT}),
        (Decoy, {GRADIENT_FREE}, {DETERMINISTIC, GRADIENT}),
        (Trap, {ONE_STEP, GRADIENT_FREE, NOISE}, {DETERMINISTIC, GRADIENT}),
        (Jittered, {DETERMINISTIC}, {GRADIENT}),
    ],
)
def test_a_masked_model_is_flagged(
    mask: type[Mask], flagged_by: set[str], passed: set[str], standard: Classifier, images: Tensor, labels: Tensor
) -> None:
    torch.manual_seed(0)
    found = check_gradient_masking(mask(standard), images[:COUNT], labels[:COUNT], eps=0.15, **LESS)
    assert not found.ok and flagged(found) >= flagged_by and not flagged(found) & passed, found
    assert check(found, GRADIENT).rates[0].lost == (1 if GRADIENT in flagged_by else 0)


def test_an_attack_of_too_few_steps_is_flagged(standard: Classifier, images: Tensor, labels: Tensor) -> None:
    short = check_gradient_masking(standard, images[:COUNT], labels[:COUNT], norm="l2", eps=0.6, steps=1, queries=100)
    assert MORE in flagged(short)
    found = rates(short, MORE)
    assert found["10 times the steps"] > found["white box"] + 0.1


def test_a_transfer_attack_is_a_black_box_too(standard: Classifier, images: Tensor, labels: Tensor) -> None:
    """With a single query, only the transfer attack can show that the gradient misleads."""
    words: dict[str, Any] = {"eps": 0.15, "steps": 8, "queries": 1}
    alone = check_gradient_masking(Decoy(standard), images[:COUNT], labels[:COUNT], **words)
    assert check(alone, GRADIENT_FREE).ok
    found = check_gradient_masking(Decoy(standard), images[:COUNT], labels[:COUNT], other=standard, **words)
    assert GRADIENT_FREE in flagged(found)
    threats = [(rate.name, rate.threat) for rate in check(found, GRADIENT_FREE).rates]
    assert threats == [("1 queries", "query"), ("transfer", "transfer"), ("white box", "white-box")]
    lost = rates(found, GRADIENT_FREE)
    assert lost["transfer"] > lost["white box"] + 0.3
    # A model without a gradient finds no adversarial examples, and that is no mistake.
    blind = check_gradient_masking(standard, images[:COUNT], labels[:COUNT], other=Cut(standard), **words)
    assert blind.ok and rates(blind, GRADIENT_FREE)["transfer"] < 0.3


# Significance -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [20, 100, 359, 1000])
@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (6, 0), (7, 0), (7, 1), (9, 1), (15, 3), (15, 4), (20, 0)])
def test_an_attack_is_better_if_its_lead_is_significant(count: int, wins: int, losses: int) -> None:
    one, other = torch.zeros(count + 30, dtype=torch.bool), torch.zeros(count + 30, dtype=torch.bool)
    one[:wins], other[wins : wins + losses] = True, True
    # Images that both lose do not count.
    one[-3:], other[-3:] = True, True
    chance = wins + losses == 0 or binomtest(wins, wins + losses, alternative="greater").pvalue >= 0.01
    assert significantly_more(one, other) == (not chance and wins - losses > MIN_LEAD * len(one))
    assert not significantly_more(other, one)


def test_below_the_fewest_images_not_even_a_win_on_all_is_significant() -> None:
    def all_against_none(count: int) -> bool:
        return significantly_more(torch.ones(count, dtype=torch.bool), torch.zeros(count, dtype=torch.bool))

    assert all_against_none(MIN_IMAGES) and not all_against_none(MIN_IMAGES - 1)


# The record, and what is refused ------------------------------------------------------------------


@cache
def untrained() -> Classifier:
    return build_classifier(Model(width=8), (1, 8, 8), 10, [0.3], [0.37], seed=0).eval()


def test_a_report_is_reproducible_and_survives_json(images: Tensor) -> None:
    with torch.no_grad():
        labels = untrained()(images[:20]).argmax(1)
    first, again = (
        check_gradient_masking(
            untrained(), images[:20], labels, eps="8/255", steps=2, queries=5, seed=3, batch_size=size
        )
        for size in (256, 7)
    )
    record = json.loads(json.dumps(first.to_dict()))
    assert record == again.to_dict() | json.loads(json.dumps({"checks": again.to_dict()["checks"]}))
    assert record["settings"] == {"norm": "linf", "eps": 8 / 255, "steps": 2, "queries": 5}
    assert (record["attacked"], record["accuracy"], record["ok"]) == (20, 1.0, first.ok)
    assert all(f"<td>{check.name}</td>" in first._repr_html_() for check in first.checks)
    assert record["checks"][2]["rates"][0] == {"name": "one step", "threat": "white-box"} | {
        "lost": rates(first, ONE_STEP)["one step"]
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
    with pytest.raises(CheckFailed, match="classifies 0 of 20 images correctly"):
        check_gradient_masking(standard, images[:20], wrong)
    wrong[:6] = seen[:6]
    with pytest.raises(CheckFailed, match="classifies 6 of 20 images correctly; with fewer than 7 to attack, nothing"):
        check_gradient_masking(standard, images[:20], wrong)
    with pytest.raises(UserError, match="images in \\[0, 1\\]"):
        check_gradient_masking(standard, 255 * images[:20], labels[:20])
    with pytest.raises(UserError, match="one per image"):
        check_gradient_masking(standard, images[:20], labels[:19])
    with pytest.raises(UserError, match="eval mode"):
        check_gradient_masking(
            build_classifier(Model(width=8), (1, 8, 8), 10, [0.3], [0.37], seed=0).train(), images[:20], labels[:20]
        )
