"""Kinds of a user's own: what they may be made of, and what is refused in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from featuregen.config.kinds import KINDS
from featuregen.config.loader import from_dict, load_config, with_overrides
from featuregen.config.recipes import recipe_values
from featuregen.config.schema import Config, Synthesis
from featuregen.config.serialize import to_dict
from featuregen.data.base_dataset import BaseDataset
from featuregen.errors import UserError
from featuregen.models.classifier import Classifier
from featuregen.synthesis.generate import make_plan, synthesize
from featuregen.synthesis.kinds import find_kind, meaning_of, register_kind

NEAR = Synthesis(steps=3, step_size=0.3, norm="l2", eps=1.0, rows=20, batch_size=8, dtype="float32")


@pytest.fixture(autouse=True)
def table() -> Iterator[None]:
    before = dict(KINDS)
    yield
    KINDS.clear()
    KINDS.update(before)


def register(name: str = "mine", **rules: Any) -> None:
    usual: dict[str, Any] = {"source": "standard", "objective": "class", "start": "self", "label": "next"}
    register_kind(name, **usual | rules, meaning="an example")


def columns(model: Classifier, digits: BaseDataset, kind: str) -> dict[str, NDArray[Any]]:
    batches = list(synthesize(kind, NEAR, model, digits.train, seed=3))
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def test_a_kind_with_known_rules_is_made_like_one_of_the_paper(standard: Classifier, digits: BaseDataset) -> None:
    register()
    ours, theirs = columns(standard, digits, "mine"), columns(standard, digits, "det")
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    assert meaning_of("mine") == "an example" and find_kind("mine").name == "mine"


def test_the_objective_may_be_a_function(standard: Classifier, digits: BaseDataset) -> None:
    def cross_entropy(model: Classifier, images: Tensor, labels: Tensor) -> Any:
        assert images.shape == (8, 1, 8, 8) and labels.shape == (8,)
        return lambda x: torch.nn.functional.cross_entropy(model(x), labels, reduction="none")

    register(objective=cross_entropy)
    ours, theirs = columns(standard, digits, "mine"), columns(standard, digits, "det")
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    register(objective=lambda model, images, labels: lambda x: model(x))
    with pytest.raises(UserError, match=r"kind mine: its objective gives the shape \(8, 10\) for 8 images"):
        columns(standard, digits, "mine")


def test_the_label_may_be_a_function(digits: BaseDataset) -> None:
    register(label=lambda true, classes: classes - 1 - true)
    labels, index = digits.train.labels, np.arange(30)
    plan = make_plan("mine", labels, index, 10, seed=0)
    assert np.array_equal(plan.labels, 9 - labels[:30]) and plan.labels.dtype == np.int64
    assert np.array_equal(plan.source_labels, labels[:30])


@pytest.mark.parametrize(
    "rule",
    [
        lambda true, classes: true + classes,
        lambda true, classes: true / 2,
        lambda true, classes: true[:3],
        lambda true, classes: -1 - true,
        lambda true, classes: 1,
    ],
)
def test_labels_that_are_none_are_refused(digits: BaseDataset, rule: Any) -> None:
    register(label=rule)
    with pytest.raises(UserError, match=r"kind mine: its label rule gives .* one whole number from 0 to 9 for each\."):
        make_plan("mine", digits.train.labels, np.arange(5), 10, seed=0)


@pytest.mark.parametrize(
    ("name", "rules", "message"),
    [
        ("det", {}, "'det' is a kind of featuregen's; register yours by another name."),
        ("attacked", {}, "'attacked' is a kind of featuregen's; register yours by another name."),
        ("My kind", {}, "'My kind' cannot name a kind; use lower-case letters, digits and hyphens."),
        ("a.b", {}, "'a.b' cannot name a kind; use lower-case letters, digits and hyphens."),
        ("mine", {"source": "robsut"}, "kind mine: source is 'robsut'; did you mean 'robust'?"),
        ("mine", {"objective": "logits"}, "kind mine: objective is 'logits'; known: features, class."),
        ("mine", {"start": min}, "kind mine: start is <built-in function min>; known: image, noise, self."),
        ("mine", {"label": 3}, "kind mine: label is 3; known: true, random, next."),
    ],
)
def test_what_cannot_be_a_kind_is_refused(name: str, rules: dict[str, Any], message: str) -> None:
    before = dict(KINDS)
    with pytest.raises(UserError) as refused:
        register(name, **rules)
    assert str(refused.value) == message and before == KINDS


def test_a_kind_of_ones_own_may_be_registered_again() -> None:
    register(label="true")
    register(label="random")
    assert find_kind("mine").label == "random" and list(KINDS)[-1] == "mine" and len(KINDS) == 7


def test_a_config_has_recipes_for_it(tmp_path: Path) -> None:
    overrides = ["synthesis.mine={norm: l2, eps: 1.0}", "fresh.mine.epochs=3"]
    with pytest.raises(UserError, match=r"synthesis\.mine is no kind of dataset"):
        load_config("digits", overrides)
    register()
    config = load_config("digits", overrides)
    assert config.synthesis["mine"].eps == 1 and config.fresh["mine"].epochs == 3
    with pytest.raises(UserError, match=r"synthesis\.mine\.norm is 'none'; mine needs a ball"):
        load_config("digits", ["synthesis.mine.steps=3"])
    assert recipe_values("fast", "mine")["synthesis.mine.schedule"] == "cosine"
    register(objective="features")
    assert recipe_values("fast", "mine")["synthesis.mine.schedule"] == "polyak"
    assert load_config("digits", ["synthesis.mine.fake_relu=true"]).synthesis["mine"].fake_relu
    register(objective=lambda model, images, labels: None)
    with pytest.raises(UserError, match="fake_relu is true; it is for sets made from features, not for mine"):
        load_config("digits", ["synthesis.mine.fake_relu=true"])
    assert load_config("digits", ["synthesis.mine.steps=3"]).synthesis["mine"].norm == "none"


def test_recorded_settings_may_name_kinds_that_are_registered_elsewhere() -> None:
    register()
    recorded = to_dict(load_config("digits", ["synthesis.mine={norm: l2, eps: 1.0}", "fresh.mine.epochs=3"]))
    del KINDS["mine"]
    config = with_overrides(from_dict(Config, recorded, "a.h5, recorded settings"), ["seed=3"])
    assert config.fresh["mine"].epochs == 3 and to_dict(config) == {**recorded, "seed": 3}
    with pytest.raises(UserError, match=r"fresh\.other is no kind of dataset"):
        with_overrides(config, ["fresh.other.epochs=3"])
    with pytest.raises(UserError, match="'mine' is no kind of dataset"):
        find_kind("mine")
