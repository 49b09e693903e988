"""The shipped configs end to end, on a few random images, with few steps and epochs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featuregen.config.kinds import KINDS
from featuregen.config.loader import load_config
from featuregen.models.io import load_model
from tests.helpers.cli_runs import done

ROWS = 60
NAMES = [
    "mnist",
    "fashion-mnist",
    "cifar10-cpu",
    pytest.param("cifar10-fast", marks=pytest.mark.slow),
    pytest.param("cifar10-paper", marks=pytest.mark.slow),
]
# The third class name, which the base set's file name implies.
THIRD = {"mnist": "2", "fashion-mnist": "Pullover", "cifar10": "bird"}


def coloured(folder: Path, name: str) -> Path:
    """Images whose brightness depends on the class, so that a network learns something in one epoch."""
    draw, path = np.random.default_rng(0), folder / f"{name}.npz"
    shape = (32, 32, 3) if name == "cifar10" else (28, 28, 1)
    labels = np.arange(ROWS) % 10
    images = (draw.integers(0, 120, (2, ROWS, *shape)) + 13 * labels[:, None, None, None]).astype(np.uint8)
    np.savez(path, x_train=images[0], y_train=labels, x_test=images[1], y_test=labels)
    return path


def cut_down(name: str) -> list[str]:
    """One epoch, two steps, few rows; everything else is the config's."""
    config = load_config(name)
    values: dict[str, Any] = {"honesty.eps": f"[{config.synthesis['det'].eps}]", "runtime.jobs": 1}
    values |= {"evaluation.rows": 10, "evaluation.steps": 2, "evaluation.seeds": 1, "honesty.rows": 10}
    values |= {f"sources.{which}.epochs": 1 for which in ("standard", "robust")} | {"sources.robust.attack.steps": 1}
    for kind in config.synthesis:
        values |= {f"synthesis.{kind}.steps": 2, f"synthesis.{kind}.rows": 20, f"fresh.{kind}.epochs": 1}
    return [f"--set={key}={value}" for key, value in values.items()]


@pytest.mark.parametrize("name", NAMES)
def test_a_config_runs_from_end_to_end(name: str, tmp_path: Path) -> None:
    base = name.partition("-")[0] if name.startswith("cifar10") else name
    data = coloured(tmp_path, base.replace("-", "_"))
    done("reproduce", "--config", name, "--data", data, "--out", tmp_path, *cut_down(name))
    results = json.loads((tmp_path / name / "results.json").read_text(encoding="utf-8"))
    kinds = list(load_config(name).synthesis)
    assert [row["key"] for row in results["models"]] == ["standard", "adversarial", "sample", *kinds]
    assert {"robust", "nonrobust", "rand", "det"} <= {*kinds} <= {*KINDS}
    assert set(results["honesty"]) == {"rand", "det"}
    assert results["base"]["classes"][2] == THIRD[base] and results["config"]["data"]["name"] == data.name


def test_the_papers_recipes_are_those_of_the_paper() -> None:
    config = load_config("cifar10-paper")
    robust, standard = config.sources.robust, config.sources.standard
    assert (config.model.architecture, config.model.std) == ("resnet50", (0.2023, 0.1994, 0.2010))
    assert robust.attack is not None and not robust.attack.random_start
    assert (robust.attack.norm, robust.attack.eps, robust.attack.steps, robust.attack.step_size) == ("l2", 0.5, 7, 0.1)
    for recipe in (standard, robust, *config.fresh.values()):
        assert (recipe.optimizer, recipe.momentum, recipe.weight_decay, recipe.batch_size) == ("sgd", 0.9, 5e-4, 128)
        assert (recipe.epochs, recipe.schedule, recipe.milestones) == (150, "steps", (1 / 3, 2 / 3))
    rates = {kind: recipe.lr for kind, recipe in config.fresh.items()}
    assert rates == {
        "robust": 0.1,
        "nonrobust": 0.01,
        "robust-noise": 0.1,
        "nonrobust-noise": 0.01,
        "rand": 0.01,
        "det": 0.1,
    }
    blurred = {kind for kind, recipe in config.fresh.items() if recipe.augment == standard.augment}
    assert blurred == {*config.fresh} - {"det"} and config.fresh["det"].augment.crop == 0
    for kind, made in config.synthesis.items():
        steps, ball = (100, ("l2", 0.5)) if kind in ("rand", "det") else (1000, ("none", 0.0))
        assert (made.steps, made.step_size, made.schedule, (made.norm, made.eps)) == (steps, 0.1, "constant", ball)
        assert made.rows == 0 and made.momentum == 0


def test_mean_and_std_can_be_set(tmp_path: Path) -> None:
    data = coloured(tmp_path, "cifar10")
    words: tuple[str | Path, ...] = ("--config", "cifar10-cpu", "--data", data, *cut_down("cifar10-cpu"))
    own = ("--set=model.mean=[0.1,0.2,0.3]", "--set=model.std=[0.4,0.5,0.6]")
    done("train", *words, *own, "--out", tmp_path / "m.safetensors")
    model = load_model(tmp_path / "m.safetensors")
    assert model.mean.tolist() == pytest.approx([0.1, 0.2, 0.3]) and model.std.tolist() == pytest.approx(
        [0.4, 0.5, 0.6]
    )
    settings = model.record["settings"]["model"]
    assert (settings["mean"], settings["std"]) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
