"""What every kind of dataset is made of: plans, starts, targets, balls, stored values, batches and resuming."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from featuregen.compute.optimize import Ball, project, quantize, to_unit_range
from featuregen.config.kinds import KINDS
from featuregen.config.schema import Norm, Synthesis
from featuregen.data.base_dataset import BaseDataset, balanced_rows
from featuregen.errors import CheckFailed, UserError
from featuregen.models.classifier import Classifier
from featuregen.runtime.device import ComputeSpec
from featuregen.runtime.rng import RowRandom
from featuregen.synthesis.generate import Columns, RowPlan, make_plan, start_images, synthesize

CPU = torch.device("cpu")
SEED = 3
FREE = Synthesis(steps=5, step_size=0.3, schedule="cosine", batch_size=16, dtype="float32")
NEAR = Synthesis(steps=5, step_size=0.3, norm="l2", eps=1.25, batch_size=16, dtype="float32")
FEATURES = tuple(kind for kind in KINDS if KINDS[kind].objective == "features")
CLASSES = tuple(kind for kind in KINDS if KINDS[kind].objective == "class")
NORMS: tuple[Norm, ...] = ("l2", "linf")


class Maker:
    """Makes rows of digits with one of the shared nets."""

    def __init__(self, base: BaseDataset, standard: Classifier, robust: Classifier) -> None:
        self.split, self.nets = base.train, {"standard": standard, "robust": robust}

    def plan(self, kind: str, rows: int | NDArray[np.int64], seed: int = SEED) -> RowPlan:
        index = np.arange(rows, dtype=np.int64) if isinstance(rows, int) else rows
        return make_plan(kind, self.split.labels, index, 10, seed)

    def batches(self, kind: str, recipe: Synthesis, rows: int | NDArray[np.int64], done: int = 0) -> list[Columns]:
        model, plan = self.nets[KINDS[kind].source], self.plan(kind, rows)
        batches = synthesize(kind, recipe, model, self.split, plan, seed=SEED, compute=ComputeSpec(), done=done)
        return list(batches)

    def __call__(self, kind: str, recipe: Synthesis, rows: int | NDArray[np.int64], done: int = 0) -> Columns:
        parts = self.batches(kind, recipe, rows, done)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def base_pixels(self, columns: Columns) -> Tensor:
        return self.split.images_tensor(CPU, columns["index"])


@pytest.fixture(scope="module")
def make(digits: BaseDataset, standard: Classifier, robust: Classifier) -> Maker:
    return Maker(digits, standard, robust)


def recipe_of(kind: str) -> Synthesis:
    return NEAR if kind in CLASSES else FREE


def pixels(columns: Columns) -> Tensor:
    return to_unit_range(torch.from_numpy(columns["images"]))


def reach(norm: Norm, offset: Tensor) -> Tensor:
    return offset.flatten(1).abs().amax(1) if norm == "linf" else offset.flatten(1).norm(dim=1)


# Plans --------------------------------------------------------------------------------------------


def test_the_kinds_are_those_of_the_paper() -> None:
    assert list(KINDS) == ["robust", "nonrobust", "robust-noise", "nonrobust-noise", "rand", "det"]
    assert {kind: (rule.source, rule.objective, rule.start, rule.label) for kind, rule in KINDS.items()} == {
        "robust": ("robust", "features", "image", "true"),
        "nonrobust": ("standard", "features", "image", "true"),
        "robust-noise": ("robust", "features", "noise", "true"),
        "nonrobust-noise": ("standard", "features", "noise", "true"),
        "rand": ("standard", "class", "self", "random"),
        "det": ("standard", "class", "self", "next"),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_follows_the_rules_of_its_kind(make: Maker, kind: str) -> None:
    index = np.array([7, 3, 1400, 12, 900], dtype=np.int64)
    plan, true = make.plan(kind, index), make.split.labels[index]
    assert np.array_equal(plan.index, index) and np.array_equal(plan.source_labels, true)
    labels = {"true": true, "next": (true + 1) % 10, "random": RowRandom(SEED, "target").integers(index, 10)}
    starts = {
        "image": RowRandom(SEED, "start").integers(index, len(make.split)),
        "noise": np.full(5, -1),
        "self": index,
    }
    assert np.array_equal(plan.labels, labels[str(KINDS[kind].label)])
    assert np.array_equal(plan.start_index, starts[KINDS[kind].start])
    assert plan.labels.dtype == plan.start_index.dtype == np.int64


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_s_plan_depends_on_seed_and_row_alone(make: Maker, kind: str) -> None:
    everything = make.plan(kind, 500)
    some = np.array([499, 0, 250], dtype=np.int64)
    few = make.plan(kind, some)
    for name in ("source_labels", "labels", "start_index"):
        assert np.array_equal(getattr(few, name), getattr(everything, name)[some])


def test_random_targets_and_starts_are_even_and_drawn_anew_by_each_seed(make: Maker) -> None:
    rand, robust = make.plan("rand", len(make.split)), make.plan("robust", len(make.split))
    counts = np.bincount(rand.labels, minlength=10)
    assert counts.min() > 100 and counts.max() < 190
    # A target may be the true class; a start knows nothing of its row or class.
    assert 0.06 < (rand.labels == rand.source_labels).mean() < 0.14
    assert 0.06 < (make.split.labels[robust.start_index] == robust.source_labels).mean() < 0.14
    assert len(np.unique(robust.start_index)) > 0.55 * len(make.split)
    other = make.plan("rand", len(make.split), seed=SEED + 1)
    assert 0.06 < (other.labels == rand.labels).mean() < 0.14


# Starts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["robust", "det"])
def test_starts_are_images_of_the_split(make: Maker, kind: str) -> None:
    plan, rows = make.plan(kind, 20), np.array([4, 11], dtype=np.int64)
    start = start_images(make.split, plan, rows, noise=0.25, seed=SEED)
    expected = make.split.images[plan.start_index[rows]].transpose(0, 3, 1, 2) / np.float32(255)
    assert start.dtype == torch.float32 and torch.equal(start, torch.from_numpy(expected))


@pytest.mark.parametrize("sigma", [0.0, 0.05, 0.12])
def test_noise_is_grey_and_gaussian(make: Maker, sigma: float) -> None:
    plan, rows = make.plan("robust-noise", 300), np.arange(300, dtype=np.int64)
    start = start_images(make.split, plan, rows, sigma, SEED)
    assert start.shape == (300, 1, 8, 8) and start.dtype == torch.float32
    assert start.mean().item() == pytest.approx(0.5, abs=0.003)
    assert start.std().item() == pytest.approx(sigma, rel=0.02, abs=1e-7)
    if sigma:
        scaled = (start - 0.5) / sigma
        assert (scaled.abs() < 1).float().mean().item() == pytest.approx(0.683, abs=0.01)
        assert len(torch.unique(start, dim=0)) == 300
        # Pixels of one image, and images side by side, know nothing of each other.
        assert torch.corrcoef(scaled.flatten(1).T).fill_diagonal_(0).abs().mean() < 0.06


def test_noise_is_keyed_by_row_and_kept_in_the_box(make: Maker) -> None:
    plan = make.plan("robust-noise", 50)
    together = start_images(make.split, plan, np.arange(50, dtype=np.int64), 0.6, SEED)
    assert together.min() == 0 and together.max() == 1
    elsewhere = make.plan("robust-noise", np.array([31, 8], dtype=np.int64))
    assert torch.equal(start_images(make.split, elsewhere, np.array([1, 0]), 0.6, SEED), together[[8, 31]])
    assert not torch.equal(start_images(make.split, plan, np.array([8]), 0.6, SEED + 1), together[[8]])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_no_steps_store_the_start(make: Maker, kind: str, dtype: Any) -> None:
    recipe = replace(recipe_of(kind), steps=0, dtype=dtype)
    columns = make(kind, recipe, 20)
    start = start_images(make.split, make.plan(kind, 20), np.arange(20, dtype=np.int64), recipe.noise, SEED)
    assert columns["images"].dtype == np.dtype(dtype)
    assert (pixels(columns) - start).abs().max() <= (0.5 / 255 + 1e-6 if dtype == "uint8" else 0)


# Batches and resuming -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_batch_size_changes_neither_targets_nor_starts(make: Maker, kind: str) -> None:
    recipe = replace(recipe_of(kind), steps=2)
    small, large = (make(kind, replace(recipe, batch_size=size), 10) for size in (4, 64))
    for name in ("labels", "source_labels", "index", "start_index"):
        assert np.array_equal(small[name], large[name])
        assert np.array_equal(large[name], getattr(make.plan(kind, 10), name))
    assert np.abs(small["images"] - large["images"]).max() < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_going_on_gives_the_same_bytes(make: Maker, kind: str) -> None:
    recipe = replace(recipe_of(kind), steps=3)
    whole, rest = make(kind, recipe, 40), make(kind, recipe, 40, done=16)
    for name, values in rest.items():
        assert len(values) == 24
        assert values.tobytes() == whole[name][16:].tobytes(), name


def test_batches_have_one_shape_and_the_last_is_cut_to_its_rows(make: Maker) -> None:
    recipe = replace(NEAR, batch_size=4)
    parts = make.batches("det", recipe, 10)
    assert [len(part["images"]) for part in parts] == [4, 4, 2]
    assert all(len(values) == len(part["images"]) for part in parts for values in part.values())
    # The rows of the padded batch are those that a full batch makes of them, to the last bit.
    full = make.batches("det", recipe, 12)
    for name, values in parts[2].items():
        assert values.tobytes() == full[2][name][:2].tobytes(), name


def test_nothing_is_left_to_do_after_the_last_row(make: Maker) -> None:
    assert make.batches("det", NEAR, 20, done=20) == []


def test_a_plan_is_made_from_the_recipe_where_none_is_given(make: Maker) -> None:
    recipe = replace(NEAR, rows=30, steps=2, batch_size=30)
    (batch,) = synthesize("det", recipe, make.nets["standard"], make.split, seed=SEED)
    rows = balanced_rows(make.split.labels, 30, SEED)
    for name, values in make("det", recipe, rows).items():
        assert values.tobytes() == batch[name].tobytes(), name


# What the pixels become ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CLASSES)
def test_mislabelled_images_fool_their_source(make: Maker, kind: str) -> None:
    recipe = replace(NEAR, steps=50, step_size=0.1, batch_size=200, dtype="uint8")
    columns = make(kind, recipe, 200)
    assert (columns["source_pred"] == columns["labels"]).mean() >= 0.9
    assert columns["norm"].max() <= 1.25 + 1e-5
    untouched = make(kind, replace(recipe, steps=0), 200)
    assert (untouched["source_pred"] == untouched["source_labels"]).mean() > 0.95


@pytest.mark.parametrize("kind", FEATURES)
def test_features_are_brought_near_those_of_the_base(make: Maker, kind: str) -> None:
    recipe = replace(FREE, steps=100, batch_size=64)
    moved, start = make(kind, recipe, 64), make(kind, replace(recipe, steps=0), 64)
    assert start["objective"].mean() > 5 * moved["objective"].mean()
    assert (moved["objective"] < start["objective"]).all()
    assert (moved["source_pred"] == moved["labels"]).mean() > 0.9
    # Painted over the start, not put in its place.
    assert moved["norm"].mean() > 0.5


def test_a_fake_relu_changes_the_way_and_not_the_goal(make: Maker) -> None:
    recipe = replace(FREE, steps=40)
    real, fake = make("robust", recipe, 16), make("robust", replace(recipe, fake_relu=True), 16)
    assert np.abs(real["images"] - fake["images"]).max() > 0.01
    assert real["objective"].mean() < 0.5 and fake["objective"].mean() < 0.5


@pytest.mark.parametrize("change", [{"schedule": "constant"}, {"steps": 6}, {"step_size": 0.1}])
def test_settings_of_the_loop_reach_it(make: Maker, change: dict[str, Any]) -> None:
    unchanged, changed = make("robust", FREE, 8), make("robust", replace(FREE, **change), 8)
    assert not np.array_equal(unchanged["images"], changed["images"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_what_is_reported_is_measured_on_the_values_as_stored(make: Maker, kind: str, dtype: Any) -> None:
    columns = make(kind, replace(recipe_of(kind), dtype=dtype), 20)
    model, base, stored = make.nets[KINDS[kind].source], make.base_pixels(columns), pixels(columns)
    assert columns["images"].dtype == np.dtype(dtype) and columns["images"].shape == (20, 1, 8, 8)
    assert columns["norm"] == pytest.approx((stored - base).flatten(1).norm(dim=1).numpy(), rel=1e-5)
    with torch.no_grad():
        logits, aim, reached = model(stored), model.features(base), model.features(stored)
        if kind in CLASSES:
            objective = F.cross_entropy(logits, torch.from_numpy(columns["labels"]), reduction="none")
        else:
            objective = (reached - aim).norm(dim=1) / aim.norm(dim=1)
    assert columns["objective"] == pytest.approx(objective.numpy(), rel=1e-3, abs=1e-5)
    assert np.array_equal(columns["source_pred"], logits.argmax(1).numpy())


@pytest.mark.parametrize("training", [False, True])
def test_the_source_is_left_as_it_was(make: Maker, training: bool) -> None:
    model = make.nets["standard"].train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rows = synthesize("det", NEAR, model, make.split, make.plan("det", 8), seed=SEED, compute=ComputeSpec())
    in_training = next(rows)["images"]
    assert next(rows, None) is None
    assert model.training is training
    model.eval()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert np.array_equal(in_training, make("det", NEAR, 8)["images"])


# Balls and stored types ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["det", "rand", "robust"])
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
@pytest.mark.parametrize(("norm", "eps"), [("l2", 0.5), ("l2", 1.25), ("linf", 4 / 255), ("linf", 0.2)])
def test_the_ball_holds_for_stored_values(make: Maker, kind: str, dtype: Any, norm: Norm, eps: float) -> None:
    recipe = replace(NEAR, steps=4, step_size=eps / 2, norm=norm, eps=eps, dtype=dtype)
    columns = make(kind, recipe, 16)
    stored = pixels(columns)
    distance = reach(norm, (stored - make.base_pixels(columns)).double())
    assert (distance <= eps * (1 + 1e-6) + 2e-7).all()
    assert stored.min() >= 0 and stored.max() <= 1
    if kind in CLASSES:
        # And it is used: rounding inwards costs little. Starts from elsewhere lose more where the box cuts the ball.
        assert distance.max() > 0.97 * eps


def images_in(norm: Norm, eps: float, count: int = 20) -> tuple[Tensor, Ball]:
    """Random images on the border of balls around images of whole levels."""
    generator = torch.Generator().manual_seed(0)
    centre = torch.randint(0, 256, (count, 3, 16, 16), generator=generator).float() / 255
    ball = Ball(norm, eps, centre)
    return project(centre + torch.randn(centre.shape, generator=generator), ball), ball


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_pixels_that_are_no_numbers_are_not_rounded_for_ever(dtype: str) -> None:
    images, ball = images_in("l2", 0.5)
    images[3, 0, 0, 0] = float("nan")
    with pytest.raises(CheckFailed, match="moved pixels to NaN"):
        quantize(images, dtype, ball)


@pytest.mark.parametrize("levels", [1, 2, 4, 8, 16, 64])
def test_a_linf_ball_of_whole_levels_is_stored_to_its_last_level(levels: int) -> None:
    images, ball = images_in("linf", levels / 255)
    for dtype in ("uint8", "float32"):
        stored = quantize(images, dtype, ball)
        assert torch.equal(stored, quantize(images, dtype, None))
        assert reach("linf", to_unit_range(stored) - ball.centre).numpy() * 255 == pytest.approx(
            np.full(20, levels), abs=1e-3
        )


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
@pytest.mark.parametrize("eps", [0.03, 0.5])
def test_rounding_ends_inside_the_ball(norm: Norm, dtype: str, eps: float) -> None:
    images, ball = images_in(norm, eps)
    stored = quantize(images, dtype, ball)
    assert str(stored.dtype) == f"torch.{dtype}"
    assert (reach(norm, (to_unit_range(stored) - ball.centre).double()) <= eps * (1 + 1e-6) + 2e-7).all()


def test_rows_already_inside_are_rounded_and_nothing_else() -> None:
    images, ball = images_in("l2", 0.5)
    wide = Ball("l2", 5.0, ball.centre)
    for dtype in ("uint8", "float16", "float32"):
        assert torch.equal(quantize(images, dtype, wide), quantize(images, dtype, None))
    mixed = ball.centre.clone()
    mixed[0] = images[0]
    assert torch.equal(to_unit_range(quantize(mixed, "uint8", ball))[1:], ball.centre[1:])


@pytest.mark.parametrize(
    ("dtype", "pixels", "expected"),
    [
        ("uint8", [0.0, 1.0, 0.5, 100.4 / 255, 100.6 / 255], [0, 255, 128, 100, 101]),
        ("float16", [0.0, 1.0, 0.1], [0.0, 1.0, float(np.float16(0.1))]),
        ("float32", [0.0, 1.0, 0.1], [0.0, 1.0, float(np.float32(0.1))]),
    ],
)
def test_stored_types(dtype: str, pixels: list[float], expected: list[float]) -> None:
    images = torch.tensor(pixels).view(-1, 1, 1, 1)
    stored = quantize(images, dtype, None)
    assert stored.flatten().tolist() == expected
    back = to_unit_range(stored)
    assert back.dtype == torch.float32
    assert (back - images).abs().max() <= {"uint8": 0.5 / 255 + 1e-7, "float16": 2**-11, "float32": 0}[dtype]


def test_every_level_comes_back_from_uint8() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1)
    assert torch.equal(quantize(to_unit_range(levels), "uint8", None), levels)


@pytest.mark.parametrize(("dtype", "norm"), [("float16", "l2"), ("float16", "linf"), ("uint8", "l2")])
def test_a_ball_smaller_than_the_rounding_is_refused(dtype: str, norm: Norm) -> None:
    centre = torch.full((2, 1, 8, 8), 100.25 / 255)
    with pytest.raises(UserError, match=rf"eps 1e-05 \({norm}\) .*rounding to {dtype}.*float32"):
        quantize(centre + 1e-6, dtype, Ball(norm, 1e-5, centre))
