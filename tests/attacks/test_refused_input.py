"""What every attack refuses, in one sentence that names the value."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import fields
from inspect import signature
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from featuregen.attacks.api import attack
from featuregen.attacks.foolbox import FoolboxL2, FoolboxLinf
from featuregen.attacks.registry import ATTACKS, settings_for
from featuregen.errors import UserError

OWN = [name for name in ATTACKS if not name.startswith("foolbox-")]
UNAIMED = [name for name, known in ATTACKS.items() if not known.targeted]


def net(classes: int = 3, pixels: int = 16) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes)).eval()


IMAGES = torch.linspace(0, 1, 32).view(2, 1, 4, 4)
LABELS = torch.tensor([0, 2])


def told(name: str, *, model: Any = None, images: Any = IMAGES, labels: Any = LABELS, **more: Any) -> str:
    """The one sentence that an attack is refused with."""
    with pytest.raises(UserError) as refused:
        attack(net() if model is None else model, images, labels, name, **more)
    text = str(refused.value)
    assert "\n" not in text and text.endswith((".", "?"))
    return text


# Calls --------------------------------------------------------------------------------------------


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def out_of(low: float, high: float) -> Tensor:
    images = IMAGES.clone()
    images[0, 0, 0, 0], images[1, 0, 3, 3] = low, high
    return images


CALLS: dict[str, tuple[dict[str, Any], str]] = {
    "images too bright": ({"images": out_of(0, 1.5)}, "takes images in [0, 1]; these go from 0 to 1.5."),
    "images too dark": ({"images": out_of(-0.25, 1)}, "takes images in [0, 1]; these go from -0.25 to 1."),
    "nan": ({"images": out_of(math.nan, 1)}, "takes images in [0, 1]; these go from nan to nan."),
    "inf": ({"images": out_of(0, math.inf)}, "takes images in [0, 1]; these go from 0 to inf."),
    "bytes": (
        {"images": torch.zeros(2, 1, 4, 4, dtype=torch.uint8)},
        "takes float32 images in [0, 1], and these are uint8; convert them first.",
    ),
    "halves": ({"images": IMAGES.half()}, "takes float32 images in [0, 1], and these are float16; convert them first."),
    "one image": ({"images": IMAGES[0]}, "tensor (N, C, H, W), at least one; got the shape (1, 4, 4)."),
    "an empty batch": (
        {"images": IMAGES[:0], "labels": LABELS[:0]},
        "takes images as a tensor (N, C, H, W), at least one; got the shape (0, 1, 4, 4).",
    ),
    "numpy images": ({"images": IMAGES.numpy()}, "takes images as a tensor (N, C, H, W), at least one; got ndarray."),
    "a label too high": (
        {"labels": torch.tensor([0, 3])},
        ": labels go from 0 to 3; the model's 3 classes are 0 to 2.",
    ),
    "a negative label": (
        {"labels": torch.tensor([-1, 2])},
        ": labels go from -1 to 2; the model's 3 classes are 0 to 2.",
    ),
    "float labels": (
        {"labels": LABELS.float()},
        "takes labels as a tensor of 2 whole numbers, one per image; got torch.float32 of shape (2,).",
    ),
    "flags for labels": ({"labels": LABELS > 0}, "one per image; got torch.bool of shape (2,)."),
    "labels in a column": ({"labels": LABELS.view(2, 1)}, "one per image; got torch.int64 of shape (2, 1)."),
    "too few labels": ({"labels": LABELS[:1]}, "one per image; got torch.int64 of shape (1,)."),
    "a list of labels": ({"labels": [0, 2]}, "one per image; got list."),
    "numpy labels": ({"labels": np.array([0, 2])}, "one per image; got ndarray."),
    "no module": ({"model": lambda x: x}, "takes a torch.nn.Module as the model; got function."),
    "training mode": (
        {"model": net().train()},
        "takes a model in eval mode, since training mode changes it; call model.eval().",
    ),
    "another size": ({"model": net(pixels=9)}, "mat1 and mat2 shapes cannot be multiplied (1x16 and 9x3)."),
    "one class": (
        {"model": net(classes=1), "labels": LABELS * 0},
        "takes a model that gives (N, classes) logits, two at least; it gives (1, 1).",
    ),
    "no logits": ({"model": Pair().eval()}, "(N, classes) logits, two at least; it gives tuple."),
    "maps of logits": ({"model": nn.Conv2d(1, 3, 1).eval()}, "two at least; it gives (1, 3, 4, 4)."),
    "another device": ({"model": net().to("meta")}, ": the model is on meta and the images on cpu."),
    "a negative seed": ({"seed": -1}, ": seed is -1; give a whole number from 0 on."),
    "a broken seed": ({"seed": 0.5}, ": seed is 0.5; give a whole number from 0 on."),
    "a huge seed": ({"seed": 2**63}, ": seed is 9223372036854775808; give a whole number from 0 on."),
    "a flag for a seed": ({"seed": True}, ": seed is True; give a whole number from 0 on."),
    "no batch": ({"batch_size": 0}, ": batch_size is 0; give a whole number from 1 on."),
    "a worded batch": ({"batch_size": "all"}, ": batch_size is 'all'; give a whole number from 1 on."),
}


# One path leads to all of Foolbox's attacks, so that two of them are enough.
FOOLBOX = [name for name in ATTACKS if name not in OWN][:2]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", [*OWN, *FOOLBOX])
def test_a_bad_call_is_refused(name: str, call: str) -> None:
    given, expected = CALLS[call]
    sentence = told(name, **given)
    assert sentence.startswith(f"attack {name}") and expected in sentence


TARGETS: dict[str, tuple[Any, str]] = {
    "too high": (torch.tensor([1, 3]), ": targets go from 1 to 3; the model's 3 classes are 0 to 2."),
    "negative": (torch.tensor([-2, 1]), ": targets go from -2 to 1; the model's 3 classes are 0 to 2."),
    "floats": (LABELS.double(), "takes targets as a tensor of 2 whole numbers, one per image; got torch.float64"),
    "too few": (LABELS[:1], "one per image; got torch.int64 of shape (1,)."),
    "a number": (1, "takes targets as a tensor of 2 whole numbers, one per image; got int."),
}


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in UNAIMED])
def test_bad_targets_are_refused(name: str, kind: str) -> None:
    targets, expected = TARGETS[kind]
    assert expected in told(name, targets=targets)


@pytest.mark.parametrize("name", UNAIMED)
def test_targets_are_refused_where_none_can_be_reached(name: str) -> None:
    assert told(name, targets=LABELS) == (
        f"attack {name} takes no targets; leave them out, or choose an attack that can be targeted."
    )


def test_some_attacks_take_no_targets() -> None:
    assert "foolbox-newton" in UNAIMED and not set(UNAIMED) & set(OWN)


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in UNAIMED])
def test_a_target_may_be_the_label(name: str) -> None:
    model = net()
    labels = model(IMAGES).argmax(1)
    outcome = attack(model, IMAGES, labels, name, targets=labels)
    assert outcome.initially_met.all() and outcome.success.all()


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.int32])
def test_labels_of_any_whole_kind_are_taken(kind: torch.dtype) -> None:
    one, other = (attack(net(), IMAGES, labels, "pgd", eps=0.2) for labels in (LABELS, LABELS.to(kind)))
    assert torch.equal(one.images, other.images)


# Names and settings -------------------------------------------------------------------------------


def test_an_unknown_attack_is_refused_with_a_hint() -> None:
    assert told("fgms") == "'fgms' is no attack; did you mean 'fgsm'?"
    assert told("foolbox-carlini") == "'foolbox-carlini' is no attack; did you mean 'foolbox-carlini-wagner'?"
    assert told("?") == f"'?' is no attack; known: {', '.join([*ATTACKS][:12])} and {len(ATTACKS) - 12} more."


@pytest.mark.parametrize("name", ATTACKS)
def test_an_unknown_setting_is_refused(name: str) -> None:
    known = [each.name for each in fields(ATTACKS[name].settings)]
    assert told(name, zzz=1) == f"attack {name}: unknown setting 'zzz'; known: {', '.join(known)}."
    meant = known[-1]
    assert told(name, **{f"{meant}s": 1}) == f"attack {name}: unknown setting '{meant}s'; did you mean '{meant}'?"


NUMBER, WHOLE = "give a number such as 0.5, 5e-4 or 8/255.", "give a whole number."
# Values that no attack takes for a setting, and what is said of them.
BAD: dict[str, list[tuple[Any, str]]] = {
    "norm": [("linff", "is 'linff'; did you mean 'linf'?"), ("one", "is 'one'; known: l2, linf."), (2, "is '2'; ")],
    "eps": [
        (-0.1, "is -0.1; it must be at least 0."),
        ("-8/255", "it must be at least 0."),
        ("8/0", f"is '8/0'; {NUMBER}"),
        ("big", f"is 'big'; {NUMBER}"),
        (math.nan, f"is nan; {NUMBER}"),
        (math.inf, f"is inf; {NUMBER}"),
        (None, f"is None; {NUMBER}"),
        (True, f"is True; {NUMBER}"),
    ],
    "steps": [(-1, "is -1; it must be at least "), (1.5, f"is 1.5; {WHOLE}"), ("ten", f"is 'ten'; {WHOLE}")],
    "step_size": [(-0.1, "is -0.1; it must be at least 0."), ("x", f"is 'x'; {NUMBER}")],
    "random_start": [(1, "is 1; give true or false."), ("yes", "is 'yes'; give true or false.")],
    "restarts": [(0, "is 0; it must be at least 1."), (2.5, f"is 2.5; {WHOLE}")],
    "momentum": [(-0.1, "is -0.1; it must be at least 0."), (1, "is 1; it must be at most 0.999.")],
    "loss": [("cw", "is 'cw'; "), (1, "is '1'; known: ce, dlr.")],
    "searches": [(0, "is 0; it must be at least 1."), ("1/2", f"is '1/2'; {WHOLE}")],
    "weight": [(0, "is 0; it must be above 0."), (-1, "is -1; it must be above 0.")],
    "pixels": [(-1, "is -1; it must be at least "), ("one", "is 'one'; give a ")],
    "population": [(3, "is 3; it must be at least 4."), (4.5, f"is 4.5; {WHOLE}")],
    "generations": [(-1, "is -1; it must be at least 0."), ("x", f"is 'x'; {WHOLE}")],
    "degrees": [(-1, "is -1; it must be at least 0."), (181, "is 181; it must be at most 180.")],
    "angles": [(0, "is 0; it must be at least 1."), (1.5, f"is 1.5; {WHOLE}")],
    "shifts": [(0, "is 0; it must be at least 1."), (True, f"is True; {WHOLE}")],
    "tries": [(-1, "is -1; it must be at least "), (0.5, f"is 0.5; {WHOLE}")],
    "queries": [(0, "is 0; it must be at least 1."), (math.inf, f"is inf; {WHOLE}")],
    "share": [(0, "is 0; it must be above 0."), (1.01, "is 1.01; it must be at most 1.")],
    "classes": [(0, "is 0; it must be at least 1."), (2.5, f"is 2.5; {WHOLE}")],
}
# Where 0 is a bad value for some and leaves the choice to others.
BAD_BESIDES: dict[str, list[tuple[str, Any, str]]] = {
    "pixels": [("pixels", 0, "is 0; it must be at least 1."), ("pixels", 1001, "is 1001; it must be at most 1000.")],
    "noise": [("tries", 0, "is 0; it must be at least 1.")],
    **{name: [("steps", 0, "is 0; it must be at least 1.")] for name in ("pgd", "auto-pgd", "smallest", "ensemble")},
}


# Of those with one norm and no choice.
NORM_OF = {FoolboxL2: "l2", FoolboxLinf: "linf"}


def bad_norms(only: str) -> list[tuple[Any, str]]:
    other = "linf" if only == "l2" else "l2"
    return [*((value, f"is '{value}'; known: {only}.") for value in (other, "one")), (2, "is '2'; ")]


def bad_values() -> list[tuple[str, str, Any, str]]:
    rows = []
    for name, known in ATTACKS.items():
        bad = BAD | {"norm": bad_norms(NORM_OF[known.settings])} if known.settings in NORM_OF else BAD
        rows += [(name, each.name, *row) for each in fields(known.settings) for row in bad[each.name]]
    return rows + [(name, *row) for name, besides in BAD_BESIDES.items() for row in besides]


@pytest.mark.parametrize(("name", "setting", "value", "expected"), bad_values())
def test_a_bad_setting_is_refused(name: str, setting: str, value: Any, expected: str) -> None:
    sentence = told(name, **{setting: value})
    assert sentence.startswith(f"attack {name}: {setting} is ") and expected in sentence


def test_no_setting_hides_behind_a_parameter() -> None:
    taken = set(signature(attack).parameters) - {"options"}
    assert not [name for name, known in ATTACKS.items() if taken & {each.name for each in fields(known.settings)}]


@pytest.mark.parametrize("name", [name for name in ATTACKS if "eps" in settings_for(name, {}).__dict__])
def test_a_radius_may_be_a_fraction(name: str) -> None:
    assert settings_for(name, {"eps": "8/255"}).eps == 8 / 255


def test_a_fraction_means_the_same_in_a_call() -> None:
    text, number = (attack(net(), IMAGES, LABELS, "pgd", eps=eps) for eps in ("51/255", 0.2))
    assert torch.equal(text.images, number.images) and text.linf.max() == pytest.approx(0.2)


# What only some need ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in OWN])
def test_without_foolbox_one_is_told_how_to_get_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "foolbox", None)
    assert told(name, labels=net()(IMAGES).argmax(1)) == (
        f"attack {name} needs Foolbox: pip install 'featuregen[attacks]'."
    )


def test_two_classes_have_no_ratio() -> None:
    model = net(classes=2)
    labels = model(IMAGES).argmax(1)
    assert told("auto-pgd", model=model, labels=labels, loss="dlr") == (
        "the difference of logits ratio needs at least three classes; take the loss ce instead."
    )
    # The ensemble does without that part.
    assert attack(model, IMAGES, labels, "ensemble", steps=3, queries=3).images.isfinite().all()


@pytest.mark.parametrize("break_it", [lambda model: model.train(), lambda model: model[1].weight.data.fill_(math.nan)])
def test_a_refusal_leaves_the_model_as_it_was(break_it: Callable[[nn.Module], Any]) -> None:
    model = net()
    break_it(model)
    training = model.training
    told("pgd", model=model, labels=torch.tensor([0, 3]))
    assert model.training == training and all(each.requires_grad for each in model.parameters())


class Silent(nn.Module):
    """Answers without a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return x.detach().flatten(1)[:, :3]


@pytest.mark.parametrize("name", [name for name, known in ATTACKS.items() if known.threat == "white-box"])
def test_a_model_without_a_gradient_is_refused_by_what_follows_one(name: str) -> None:
    images = torch.rand(4, 1, 8, 8)
    with pytest.raises(UserError, match=r"none with respect to the images; .*, such as square"):
        attack(Silent().eval(), images, torch.zeros(4, dtype=torch.int64), name)


def test_a_model_without_a_gradient_can_still_be_asked() -> None:
    images = torch.rand(16, 1, 8, 8)
    model = Silent().eval()
    assert attack(model, images, model(images).argmax(1), "square", eps=0.3, queries=50).success_rate > 0.5
