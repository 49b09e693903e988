"""Attacks, gradient masking and label flips recorded without an experiment: models and settings are arguments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from featuregen.data.base_dataset import BaseDataset
from featuregen.errors import UserError
from featuregen.evaluation.attack_run import (
    AttackInputs,
    AttackRun,
    attack_to_file,
    inputs_from_file,
    inputs_from_split,
)
from featuregen.evaluation.gradient_masking import gradient_masking_to_file
from featuregen.evaluation.label_flips import expand_grid, label_flips_to_folder
from featuregen.models.classifier import Classifier
from featuregen.models.io import TrainedModel
from featuregen.runtime.device import ComputeSpec
from featuregen.storage.torch_dataset import FeatureDataset

CPU = torch.device("cpu")
SETTINGS: dict[str, Any] = {"seed": 0, "batch_size": 16, "compute": ComputeSpec(CPU)}


@pytest.fixture(scope="module")
def target(standard: Classifier) -> TrainedModel:
    return TrainedModel(standard, {}, Path("standard.safetensors"))


@pytest.fixture(scope="module")
def inputs(digits: BaseDataset) -> AttackInputs:
    return inputs_from_split(digits, "test", 40, 0, CPU)


def test_an_attack_becomes_a_dataset_that_can_be_attacked_again(
    target: TrainedModel, inputs: AttackInputs, digits: BaseDataset, tmp_path: Path
) -> None:
    path = tmp_path / "attacked.h5"
    run = AttackRun(target, inputs, "pgd", {"norm": "linf", "eps": 0.15, "steps": 5})
    result = attack_to_file(path, run, **SETTINGS, config={"name": "a test"})
    assert torch.equal(FeatureDataset(path).images, result.outcome.images)
    assert FeatureDataset(path).info.config == {"name": "a test"}
    assert result.record["success"] == result.succeeded.sum().item() / result.eligible.sum().item() > 0.2
    again = inputs_from_file(path, digits, 0, 0, CPU)
    assert torch.equal(again.images, result.outcome.images) and torch.equal(again.labels, inputs.labels)
    assert again.base["name"] == "attacked.h5"


def test_examples_are_successes_first_and_of_every_class(
    target: TrainedModel, inputs: AttackInputs, tmp_path: Path
) -> None:
    run = AttackRun(target, inputs, "pgd", {"norm": "linf", "eps": 0.15, "steps": 5})
    result = attack_to_file(tmp_path / "a.h5", run, **SETTINGS, config={"name": "a test"})
    rows, successes = result.example_rows(), set(result.succeeded.nonzero().flatten().tolist())
    assert rows == sorted(rows) and len(set(rows)) == 10
    assert len(successes & set(rows)) == min(10, len(successes))
    classes = {int(inputs.labels[row]) for row in successes}
    assert {int(inputs.labels[row]) for row in rows} >= classes


@pytest.mark.parametrize(("name", "expected"), [("next", (2, 3, 0)), ("cat", (0, 0, 0)), ("3", (3, 3, 3))])
def test_a_target_class_is_next_or_a_name_or_a_number(name: str, expected: tuple[int, ...]) -> None:
    labels = torch.tensor([1, 2, 3])
    inputs = AttackInputs(torch.zeros(3, 1, 1, 1), labels, labels.numpy(), ("cat", "dog", "elk", "fox"), {}, "")
    found = inputs.criterion(name)
    assert found.targeted and found.classes.tolist() == list(expected)
    assert not inputs.criterion("").targeted and torch.equal(inputs.criterion("").classes, labels)
    with pytest.raises(UserError, match="choose next, or one of cat, dog, elk, fox"):
        inputs.criterion("4")


def test_gradient_masking_is_recorded(target: TrainedModel, inputs: AttackInputs, tmp_path: Path) -> None:
    path = tmp_path / "new" / "masking.json"
    record = gradient_masking_to_file(path, target, inputs, {"eps": 0.1, "steps": 2, "queries": 5}, **SETTINGS)
    assert json.loads(path.read_text(encoding="utf-8")) == json.loads(json.dumps(record))
    assert (record["format"], record["images"]["count"], record["seed"]) == ("featuregen-sanity", 40, 0)


def test_label_flips_are_recorded(
    target: TrainedModel, inputs: AttackInputs, digits: BaseDataset, tmp_path: Path
) -> None:
    specs = expand_grid(["fgsm"], [0.1, 0.2], "linf")
    record = label_flips_to_folder(tmp_path, [target, target], inputs, specs, base=digits.description(), **SETTINGS)
    assert json.loads((tmp_path / "flips.json").read_text(encoding="utf-8")) == json.loads(json.dumps(record))
    assert [model["title"] for model in record["models"]] == ["standard-1", "standard-2"]
    assert record["agreement"]["models"][0]["share"] == 1.0 and len(record["runs"]) == 4
