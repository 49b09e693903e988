"""Models that are whole, and whose weights are too large to compute with, or all zero: a failed check, exit code 1."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch

from featuregen.models.io import load_model, save_model
from tests.helpers.cli_runs import ROOM, dataset, model, run, tiny


@cache
def filled(value: float) -> Path:
    path = ROOM / f"filled-{value:g}.safetensors"
    net = load_model(model("standard"))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(value)
    save_model(net, path)
    return path


def failed(*words: str | Path) -> str:
    ran = run(*words)
    lines = [line for line in ran.err.splitlines() if not line.startswith("note: ")]
    assert (ran.code, ran.out, len(lines)) == (1, "", 1) and lines[0].startswith("failed: "), ran
    return lines[0]


@pytest.mark.parametrize(
    "words",
    [
        "evaluate {model} --out {out}",
        "attack {model} --attack pgd --norm l2 --eps 0.5 --rows 5 --out {out}/a.h5",
        "attack {model} --sanity --rows 20 --out {out}/a.json",
        "make-dataset det --source {model} --rows 5 --out {out}/det.h5",
    ],
)
def test_weights_too_large_to_compute_with_are_told_by_name(tmp_path: Path, words: str) -> None:
    filling = {"model": filled(1e30), "out": tmp_path}
    line = failed(*(word.format(**filling) for word in words.split()), "--config", tiny())
    assert line.startswith(f"failed: {filled(1e30)} gives logits that are not finite")


def test_a_source_model_that_cannot_compute_verifies_nothing() -> None:
    assert "gives logits that are not finite" in failed("verify", dataset("det"), "--source", filled(1e30))


@pytest.mark.parametrize("rows", ["5", "40"])
def test_a_model_that_is_right_about_too_few_images_fails_the_sanity_checks(tmp_path: Path, rows: str) -> None:
    words = ("--sanity", "--rows", rows, "--config", tiny(), "--out", tmp_path / "a.json")
    assert "with fewer than 7 to attack" in failed("attack", filled(0.0), *words)
    assert not list(tmp_path.iterdir())
