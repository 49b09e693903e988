"""The call as a user of Foolbox or torchattacks writes it: names, norms, lists of radii, and what a result shows."""

from __future__ import annotations

import base64
import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from featuregen.attacks.api import attack
from featuregen.attacks.problem import AttackProblem
from featuregen.attacks.registry import ATTACKS, find_attack, list_attacks, register_attack, settings_for
from featuregen.errors import UserError
from featuregen.models.classifier import Classifier

RESULT = ("images", "success", "initially_met", "before", "after", "confidence_after", "l0", "l1", "l2", "linf")


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in RESULT)


# Names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "registered"),
    [
        ("PGD", "pgd"),
        ("FGSM", "fgsm"),
        ("apgd", "auto-pgd"),
        ("APGD", "auto-pgd"),
        ("AutoPGD", "auto-pgd"),
        ("auto_pgd", "auto-pgd"),
        ("fmn", "smallest"),
        ("cw", "foolbox-carlini-wagner"),
        ("Carlini_Wagner", "foolbox-carlini-wagner"),
        ("DeepFool", "foolbox-deepfool-l2"),
    ],
)
def test_names_of_other_packages_lead_to_the_registered_one(name: str, registered: str) -> None:
    assert find_attack(name) is ATTACKS[registered] and find_attack(name).name == registered


def test_the_norm_chooses_where_an_attack_has_one_entry_per_norm() -> None:
    assert find_attack("deepfool", "Linf").name == "foolbox-deepfool-linf"
    assert settings_for("deepfool", {"norm": "linf", "steps": 7}).steps == 7
    assert settings_for("cw", {"norm": "L2"}) == settings_for("foolbox-carlini-wagner", {})
    with pytest.raises(UserError, match=r"attack cw: norm is 'linf'; known: l2\."):
        settings_for("cw", {"norm": "linf"})


def test_an_alias_draws_the_same_numbers(standard: Classifier, few: Tensor, truth: Tensor) -> None:
    options: dict[str, Any] = {"eps": 0.1, "steps": 3, "norm": "linf"}
    assert same(attack(standard, few, truth, "APGD", **options), attack(standard, few, truth, "auto-pgd", **options))


@pytest.mark.parametrize("name", ["autoattack", "AutoAttack", "auto-attack", "auto_attack", "aa"])
def test_autoattack_is_refused_and_the_ensemble_explained(name: str) -> None:
    with pytest.raises(UserError) as refused:
        find_attack(name)
    text = str(refused.value)
    assert "'ensemble' runs auto-PGD on cross-entropy" in text and "(FMN) in place of FAB, then Square" in text
    assert "is not AutoAttack" in text and "pyautoattack" in text and text.endswith(".") and ". " not in text


@pytest.mark.parametrize(("name", "hint"), [("apdg", "apgd"), ("deepfol", "deepfool"), ("fmm", "fmn")])
def test_a_hint_knows_the_aliases(name: str, hint: str) -> None:
    with pytest.raises(UserError, match=f"'{name}' is no attack; did you mean '{hint}'"):
        find_attack(name)


def test_a_missing_foolbox_is_said_by_an_alias_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "foolbox", None)
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval(), torch.rand(2, 1, 4, 4)
    with pytest.raises(UserError, match=r"carlini-wagner needs Foolbox: pip install 'featuregen\[attacks\]'\."):
        attack(model, images, model(images).argmax(1), "cw")


@pytest.mark.parametrize("norm", ["linf", "Linf", "L_inf", "l-inf", "inf", "LINF"])
def test_norms_are_spelled_in_many_ways(norm: str) -> None:
    assert settings_for("pgd", {"norm": norm}).norm == "linf"
    assert settings_for("pgd", {"norm": {"linf": "L2", "Linf": "l_2"}.get(norm, "2")}).norm == "l2"


def test_attacks_are_listed_in_the_order_of_the_table() -> None:
    assert list_attacks() == list(ATTACKS) and list_attacks()[:3] == ["fgsm", "pgd", "auto-pgd"]
    assert list_attacks()[9:11] == ["ensemble", "foolbox-deepfool-l2"]
    assert len(list_attacks("foolbox-*")) == 20 and list_attacks("FOOLBOX-fmn*") == ["foolbox-fmn-l1", "foolbox-fmn-l0"]
    assert list_attacks("nothing*") == []


# Lists of radii -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pgd", "noise", "square"])
@pytest.mark.parametrize("radii", [[0.1, 0, 0.05], (0.05,), ["8/255", 0.1]])
def test_each_radius_of_a_list_gives_the_result_of_a_single_call(
    standard: Classifier, few: Tensor, truth: Tensor, name: str, radii: Any
) -> None:
    more: dict[str, Any] = {"square": {"queries": 10}, "pgd": {"steps": 3, "random_start": True}}.get(name, {})
    results = attack(standard, few, truth, name, eps=radii, seed=3, batch_size=10, **more)
    assert len(results) == len(radii)
    for eps, result in zip(radii, results, strict=True):
        assert same(result, attack(standard, few, truth, name, seed=3, batch_size=10, **{**more, "eps": eps}))


@pytest.mark.parametrize(
    ("name", "eps", "message"),
    [
        ("pgd", [], "eps is an empty list; give at least one radius"),
        ("pgd", [0.1, -1], "eps is -1; it must be at least 0"),
        ("pgd", [0.1, [0.2]], "eps is"),
        ("smallest", [0.1], "unknown setting 'eps'"),
    ],
)
def test_a_bad_list_is_refused_before_any_attack(
    standard: Classifier, few: Tensor, truth: Tensor, name: str, eps: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> Tensor:
        raise AssertionError

    monkeypatch.setitem(ATTACKS, name, replace(ATTACKS[name], run=never))
    with pytest.raises(UserError, match=message):
        attack(standard, few, truth, name, eps=eps)


# Results ------------------------------------------------------------------------------------------


def test_a_result_is_one_line(standard: Classifier, few: Tensor, truth: Tensor) -> None:
    result = attack(standard, few, truth, "pgd", norm="l2", eps=0.6, steps=5)
    won = result.success & ~result.initially_met
    assert repr(result) == (
        f"AttackResult(24 images, success rate {result.success_rate:.2f}, median L2 {result.l2[won].median():.2f}, "
        f"median Linf {result.linf[won].median():.2f})"
    )
    assert torch.equal(result.originals, few) and result.originals.data_ptr() == few.data_ptr()


def test_a_result_without_a_success_has_no_medians(standard: Classifier, few: Tensor, truth: Tensor) -> None:
    none = attack(standard, few, truth, "pgd", eps=0)
    assert repr(none) == "AttackResult(24 images, success rate 0.00)" and "median" not in none._repr_html_()
    wrong = attack(standard, few, (standard(few).argmax(1) + 1) % 10, "noise")
    assert "success rate nan" in repr(wrong) and "none to attack" in wrong._repr_html_()


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_notebook_shows_images_before_and_after(channels: int) -> None:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model, images = nn.Sequential(nn.Flatten(), nn.Linear(channels * 30, 3)).eval(), torch.rand(12, channels, 5, 6)
    result = attack(model, images, model(images).argmax(1), "pgd", norm="linf", eps=0.5)
    page = result._repr_html_()
    assert "<th>success rate</th><td>100.0%</td>" in page and "<th>median Linf</th><td>0.5</td>" in page
    pictures = [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"base64,([^']+)'", page)]
    assert len(pictures) == 16 and {picture.size for picture in pictures} == {(6, 5)}
    shown = np.asarray(pictures[1]).astype(float)
    stored = result.images[0].permute(1, 2, 0).numpy() if channels == 3 else result.images[0].mean(0).numpy()
    assert np.abs(shown / 255 - stored).max() <= 1.1 / 255
    assert page.count("class ") == 8 and len(page) < 50_000


# Registering --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fade:
    """Settings as a user writes them, without bounds."""

    norm: str = "linf"
    eps: float = 0.25


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = dict(ATTACKS)
    yield
    ATTACKS.clear()
    ATTACKS.update(before)


def fade(problem: AttackProblem, settings: Fade) -> Tensor:
    return torch.zeros_like(problem.images)


def test_a_registered_attack_is_clipped_to_its_ball(
    table: None, standard: Classifier, few: Tensor, truth: Tensor
) -> None:
    register_attack("fade", settings=Fade, meaning="towards black", threat="query", targeted=False)(fade)
    result = attack(standard, few, truth, "Fade", eps="1/5")
    assert (result.images - (few - 0.2).clamp(0, 1)).abs().max() < 1e-6 and (result.linf <= 0.2).all()
    with pytest.raises(UserError, match="attack fade takes no targets"):
        attack(standard, few, truth, "fade", targets=truth)
    with pytest.raises(UserError, match=r"attack fade: unknown setting 'step'; known: norm, eps\."):
        attack(standard, few, truth, "fade", step=3)


def test_a_name_of_ones_own_may_be_registered_again_and_no_other(table: None) -> None:
    add = register_attack("fade", settings=Fade, meaning="first", threat="query")
    assert add(fade) is fade and find_attack("fade").meaning == "first"
    register_attack("fade", settings=Fade, meaning="second", threat="query")(fade)
    assert find_attack("fade").meaning == "second" and list_attacks().count("fade") == 1
    for name in ("pgd", "apgd", "cw", "foolbox-ddn"):
        with pytest.raises(UserError, match=f"'{name}' is an attack of featuregen's"):
            register_attack(name, settings=Fade, meaning="mine")(fade)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [("My_Attack", Fade, "use lower case and hyphens, such as my-attack"), ("fade", dict, "give a frozen dataclass")],
)
def test_what_cannot_be_registered_is_refused(name: str, settings: type, message: str) -> None:
    with pytest.raises(UserError, match=message):
        register_attack(name, settings=settings, meaning="")
