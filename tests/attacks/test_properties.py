"""Whatever the model, the images and the settings: attacks stay in the ball and in [0, 1], and never give nan."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import hypothesis.strategies as st
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from featuregen.attacks.api import attack
from featuregen.attacks.criterion import Criterion
from featuregen.attacks.registry import ATTACKS
from featuregen.attacks.result import AttackResult, clip_exact
from featuregen.compute.optimize import Ball
from featuregen.config.schema import Norm
from tests.helpers.attack_cases import distance

NORMS = st.sampled_from(["l2", "linf"])
# From less than the last bit of a pixel to more than the image has room for.
RADII = st.one_of(st.just(0.0), st.floats(-9, 1).map(lambda power: 10.0**power), st.sampled_from([8 / 255, 0.5, 100.0]))
STEPS = st.integers(1, 4)
# Of logits: from a model that says nothing to one that is always sure.
SCALES = st.sampled_from([0.0, 1e-6, 1.0, 1e4])
OPTIONS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "fgsm": {"norm": NORMS, "eps": RADII},
    "pgd": {
        "norm": NORMS,
        "eps": RADII,
        "steps": STEPS,
        "step_size": st.sampled_from([0.0, 1e-3, 10.0]),
        "random_start": st.booleans(),
        "restarts": st.integers(1, 2),
        "momentum": st.sampled_from([0.0, 0.9]),
    },
    "auto-pgd": {
        "norm": NORMS,
        "eps": RADII,
        "steps": STEPS,
        "restarts": st.integers(1, 2),
        "random_start": st.booleans(),
        "loss": st.sampled_from(["ce", "dlr"]),
    },
    "smallest": {"norm": NORMS, "steps": STEPS},
    "lbfgs": {"steps": STEPS, "searches": st.integers(1, 3), "weight": st.sampled_from([1e-6, 1.0, 1e6])},
    "pixels": {"pixels": st.integers(1, 3), "population": st.integers(4, 6), "generations": st.integers(0, 2)},
    "spatial": {
        "degrees": st.floats(0, 180),
        "pixels": st.floats(0, 10),
        "angles": st.integers(1, 3),
        "shifts": st.integers(1, 2),
        "tries": st.integers(0, 3),
    },
    "square": {"norm": NORMS, "eps": RADII, "queries": st.integers(1, 12), "share": st.sampled_from([0.05, 0.8, 1.0])},
    "noise": {"norm": NORMS, "eps": RADII, "tries": st.integers(1, 3)},
    "ensemble": {
        "norm": NORMS,
        "eps": RADII,
        "steps": STEPS,
        "classes": st.integers(1, 3),
        "queries": st.integers(1, 5),
    },
}


class Tiny(nn.Module):
    """Random weights of any scale; `kind` says what stands between them and the classes."""

    def __init__(self, shape: tuple[int, int, int], classes: int, kind: str, scale: float, seed: int) -> None:
        super().__init__()
        channels, height, width = shape
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(channels, 3, 3, padding=1)
            self.linear = nn.Linear((3 if kind == "conv" else channels) * height * width, classes)
        self.kind, self.scale = kind, scale

    def forward(self, x: Tensor) -> Tensor:
        features = self.conv(x).relu() if self.kind == "conv" else x
        logits: Tensor = self.linear(features.flatten(1)) * self.scale
        if self.kind in ("sigmoid", "softmax"):
            return logits.sigmoid() if self.kind == "sigmoid" else logits.softmax(1)
        return logits


@st.composite
def nets(draw: st.DrawFn) -> tuple[Tiny, Tensor, Tensor]:
    """A model in eval mode, images for it, and labels."""
    shape = draw(st.tuples(st.sampled_from([1, 3]), st.integers(1, 7), st.integers(1, 7)))
    classes, count, seed = draw(st.integers(2, 5)), draw(st.integers(1, 3)), draw(st.integers(0, 10**6))
    kind, scale = draw(st.sampled_from(["linear", "conv", "sigmoid", "softmax"])), draw(SCALES)
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand((count, *shape), generator=generator)
    look = draw(st.sampled_from(["any", "black", "white", "both", "edge"]))
    if look in ("black", "white"):
        images.fill_(float(look == "white"))
    elif look == "both":
        images = images.round()
    elif look == "edge":
        extremes = torch.tensor([0, 1e-45, 1e-30, 2**-24, 0.5, 1 - 2**-24, 1])
        images = extremes[(images * len(extremes)).long().clamp_max(len(extremes) - 1)]
    labels = torch.randint(classes, (count,), generator=generator)
    model, wide = Tiny(shape, classes, kind, scale, seed).eval(), draw(st.booleans())
    return (model.double(), images.double(), labels) if wide else (model, images, labels)


def check(
    name: str, model: nn.Module, images: Tensor, goal: Criterion, outcome: AttackResult, chosen: dict[str, Any]
) -> None:
    found = outcome.images
    assert found.shape == images.shape and found.dtype == images.dtype
    # In this form nan fails too.
    assert ((found >= 0) & (found <= 1)).all()
    if "eps" in chosen:
        assert (distance(found, images, chosen["norm"]) <= chosen["eps"]).all()
    if name == "pixels":
        assert (outcome.l0 <= chosen["pixels"]).all()
    with torch.no_grad():
        logits = model(found).float()
    assert torch.equal(outcome.success, goal.is_met(logits)) and torch.equal(outcome.after, logits.argmax(1))
    for values in (outcome.confidence_before, outcome.confidence_after, outcome.l1, outcome.l2, outcome.linf):
        assert values.isfinite().all()


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_nothing_leaves_the_ball_or_the_range(data: st.DataObject) -> None:
    model, images, labels = data.draw(nets())
    name = data.draw(st.sampled_from(list(OPTIONS)))
    chosen = data.draw(st.fixed_dictionaries(OPTIONS[name]))
    classes = model.linear.out_features
    if classes == 2 and chosen.get("loss") == "dlr":
        chosen["loss"] = "ce"
    targets = (labels + 1) % classes if data.draw(st.booleans()) else None
    goal = Criterion(labels) if targets is None else Criterion(targets, targeted=True)
    size = data.draw(st.integers(1, 4))
    outcome = attack(model, images, labels, name, targets=targets, batch_size=size, **chosen)
    check(name, model, images, goal, outcome, chosen)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    norm=NORMS,
    power=st.one_of(st.floats(-9, -5), st.floats(-5, 1)),
    seed=st.integers(0, 10**6),
    pixels=st.integers(1, 8),
    wide=st.booleans(),
)
def test_the_ball_holds_to_the_last_bit(norm: Norm, power: float, seed: int, pixels: int, wide: bool) -> None:
    """Also where its radius is less than the distance between two floats."""
    generator, eps = torch.Generator().manual_seed(seed), 10**power
    kind = torch.float64 if wide else torch.float32
    centre, x = torch.rand((2, 4, 1, pixels, pixels), generator=generator, dtype=kind).unbind()
    kept = clip_exact(x, Ball(norm, eps, centre))
    assert (distance(kept, centre, norm) <= eps).all()
    assert (torch.minimum(x, centre) <= kept).all() and (kept <= torch.maximum(x, centre)).all()
    # No further in than rounding asks for: a last bit of every pixel.
    room = distance(x, centre, norm).clamp_max(eps)
    assert (distance(kept, centre, norm) >= room * (1 - 1e-9) - torch.finfo(kind).eps * pixels).all()


def test_every_own_attack_is_tried() -> None:
    assert set(OPTIONS) == {name for name in ATTACKS if not name.startswith("foolbox-")}
    for name, options in OPTIONS.items():
        assert set(options) == {each.name for each in fields(ATTACKS[name].settings)}, name
