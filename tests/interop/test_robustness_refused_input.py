"""Checkpoints of robustness that are whole, and hold numbers that no training has."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from featuregen.config.schema import Model
from featuregen.errors import UserError
from featuregen.interop.robustness import load_checkpoint, save_checkpoint
from featuregen.models.registry import build_classifier
from featuregen.runtime.torch_files import read_torch_file


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "whole.pt"
    save_checkpoint(build_classifier(Model("resnet18"), (3, 32, 32), 10, [0.5] * 3, [0.5] * 3, seed=0), path)
    return path


def spoilt(written: Path, path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    content = read_torch_file(written)
    change(content)
    torch.save(content, path)
    return path


@pytest.mark.parametrize("name", ["epoch", "nat_prec1", "adv_prec1"])
@pytest.mark.parametrize("number", [2**63, 2**100, math.nan, -math.inf, torch.tensor(math.nan)])
def test_numbers_of_a_training_are_finite_and_fit_64_bits(
    written: Path, tmp_path: Path, name: str, number: int | float | Tensor
) -> None:
    path = spoilt(written, tmp_path / "x.pt", lambda content: content.update({name: number}))
    with pytest.raises(UserError, match=rf"x\.pt records {name} .*; a number of a training is finite and fits 64 bits"):
        load_checkpoint(path)


@pytest.mark.parametrize("value", [False, "ten", None, [1], torch.zeros(2)])
def test_what_is_no_number_is_not_recorded(written: Path, tmp_path: Path, value: Any) -> None:
    path = spoilt(written, tmp_path / "x.pt", lambda content: content.update(epoch=value, adv_prec1=value))
    assert set(load_checkpoint(path).record["origin"]) == {"format", "file", "sha256"}


STATES: dict[str, tuple[str, Tensor, str]] = {
    "beyond single precision": (
        "normalizer.new_mean",
        torch.full((3, 1, 1), 1e300, dtype=torch.float64),
        "its normaliser holds",
    ),
    "below single precision": (
        "normalizer.new_std",
        torch.full((3, 1, 1), 1e-300, dtype=torch.float64),
        "its normaliser divides by",
    ),
    "one number instead of a layer": ("model.linear.bias", torch.tensor(1.0), "no net with one last layer"),
}


@pytest.mark.parametrize("case", STATES)
def test_odd_tensors_are_told_in_one_sentence(written: Path, tmp_path: Path, case: str) -> None:
    name, tensor, why = STATES[case]
    path = spoilt(written, tmp_path / "x.pt", lambda content: content["model"].update({f"module.{name}": tensor}))
    with pytest.raises(UserError, match=rf"x\.pt.*{why}"):
        load_checkpoint(path)
