"""What an experiment will cost: the work is counted as it is done, and nothing is written or downloaded for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featuregen.compute.optimize import move_pixels
from featuregen.config.loader import load_config, with_overrides
from featuregen.config.schema import Config, Data
from featuregen.data.sources import load_images, size_of
from featuregen.experiment.cost import Throughput
from featuregen.experiment.experiment import Experiment
from featuregen.experiment.reproduce import reproduce
from featuregen.experiment.stages import WorkCount, stages, work_by_title
from featuregen.models.io import save_model
from featuregen.models.registry import build_model
from featuregen.report.cost import cost_table
from featuregen.training.loop import train_many
from tests.helpers.cli_runs import done, model, refused, tiny

SMALL = (
    "evaluation.seeds=2", "evaluation.rows=30", "runtime.jobs=1", "sources.seeds=1", "honesty.eps=[0.5]",
    "honesty.rows=20", "sources.standard.epochs=1", "sources.robust.epochs=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def small() -> Config:
    return load_config(str(tiny()), SMALL)


def work_of(config: Config) -> dict[str, WorkCount]:
    return work_by_title(stages(config, size_of(config.data), Path()))


def test_the_work_counted_is_the_work_done(small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learnt, moved = [], []

    def counting_train(models: Sequence[Any], images: Any, labels: Any, recipe: Any, **options: Any) -> Any:
        learnt.append(len(models) * len(images) * recipe.epochs)
        return train_many(models, images, labels, recipe, **options)

    def counting_move(start: Any, objective: Any, **options: Any) -> Any:
        moved.append(len(start) * len(options["sizes"]))
        return move_pixels(start, objective, **options)

    monkeypatch.setattr("featuregen.experiment.model_cache.train_many", counting_train)
    monkeypatch.setattr("featuregen.synthesis.generate.move_pixels", counting_move)
    results = reproduce(Experiment(small, tmp_path), tmp_path)
    counted = work_of(small)
    assert sum(learnt) == sum(work.train_samples for work in counted.values())
    made = [work for title, work in counted.items() if title.startswith(("making", "judging"))]
    assert sum(moved) == sum(work.grad_steps for work in made) and len(made) == 6 + 2
    runs = {row["key"]: len(row["runs"]) for row in results["models"]}
    assert runs == {"standard": 1, "adversarial": 1, "sample": 2} | dict.fromkeys(small.synthesis, 2)


def test_a_source_from_elsewhere_is_not_learnt(small: Config) -> None:
    given = with_overrides(small, ["sources.robust_from=m.pt"])
    before, after = work_of(small)["robust model × 1"], work_of(given)["robust model × 1"]
    assert before.train_samples > 0 and (after.train_samples, after.forward_samples) == (0, before.forward_samples)


def test_defences_cost_what_they_do(small: Config) -> None:
    """Two epochs of 1438 images; mixed, each is learnt from twice; held out, it is attacked and looked at instead."""
    steps = ("sources.robust.attack.steps=3", "sources.robust.epochs=2")

    def learning(*changes: str) -> WorkCount:
        work = work_of(with_overrides(small, [*steps, *changes]))["robust model × 1"]
        tested = work_of(with_overrides(small, ["sources.robust_from=m.pt"]))["robust model × 1"]
        return WorkCount(
            work.grad_steps - tested.grad_steps, work.train_samples, work.forward_samples - tested.forward_samples
        )

    rows, held = 2 * 1438, 2 * 288
    assert learning() == WorkCount(3 * rows, rows, 0)
    assert learning("sources.robust.alpha=0.5") == WorkCount(3 * rows, 2 * rows, 0)
    stop = ("sources.robust.held_out=0.2", "sources.robust.early_stop=clean")
    assert learning(*stop) == WorkCount(3 * (rows - held), rows - held, held)
    assert learning(*stop[:1], "sources.robust.early_stop=adversarial") == WorkCount(3 * rows, rows - held, held)


def test_rates_turn_work_into_seconds() -> None:
    work = WorkCount(grad_steps=10, train_samples=20, forward_samples=30) + WorkCount(grad_steps=10) * 2
    assert work == WorkCount(30, 20, 30)
    assert Throughput(grad_steps=3, train_samples=2, forward_samples=10).seconds(work) == 10 + 10 + 3


@pytest.mark.parametrize("name", ["digits", "cifar10", "mnist", "fashion-mnist"])
def test_sizes_are_known_before_a_download(name: str, tmp_path: Path) -> None:
    size = size_of(Data(name=name, folder=str(tmp_path)))
    assert (size.name, size.classes) == (name, 10) and not list(tmp_path.iterdir())
    if name == "digits":
        base = load_images(Data())
        assert (size.train_rows, size.test_rows, size.image_shape) == (len(base.train), len(base.test), (1, 8, 8))
    else:
        assert size.train_rows + size.test_rows == {"cifar10": 60_000}.get(name, 70_000)


def test_a_dry_run_prints_the_plan_and_does_nothing(tmp_path: Path) -> None:
    words = ("reproduce", "--config", tiny(), "--out", tmp_path / "out", "--dry-run")
    told, plan = done(*words).out, done(*words, "--json").json()
    assert not list(tmp_path.iterdir())
    assert plan["format"] == "featuregen-plan" and plan["memory"] > 0 and plan["disk"] > 0
    assert plan["seconds"] == pytest.approx(sum(stage["seconds"] for stage in plan["stages"]) / plan["processes"])
    for stage in plan["stages"]:
        work = WorkCount(stage["moved"], stage["learnt"], stage["looked"])
        assert (
            stage["seconds"] == pytest.approx(Throughput(*plan["rates"].values()).seconds(work))
            and stage["stage"] in told
        )


def test_a_dry_run_reads_the_source_models_that_are_named(tmp_path: Path) -> None:
    words = ("reproduce", "--config", tiny(), "--out", tmp_path / "out", "--dry-run")
    done(*words, "--standard-from", model("standard"))
    (tmp_path / "m.safetensors").write_bytes(model("standard").read_bytes()[:-100])
    assert "m.safetensors" in refused(*words, "--standard-from", tmp_path / "m.safetensors")
    save_model(build_model("convnet", (3, 8, 8), classes=10, width=2), tmp_path / "rgb.safetensors")
    told = refused(*words, "--robust-from", tmp_path / "rgb.safetensors")
    assert "takes images of shape (3, 8, 8)" in told and "but digits has (1, 8, 8)" in told


def test_more_work_takes_longer_and_larger_batches_more_memory(tmp_path: Path) -> None:
    def plan(*words: str) -> Any:
        return done("reproduce", "--config", tiny(), "--out", tmp_path, "--dry-run", "--json", *words).json()

    plain, more = plan(), plan("--seeds", "5", "--set", "synthesis.det.batch_size=4096")
    assert sum(stage["learnt"] for stage in more["stages"]) > 2 * sum(stage["learnt"] for stage in plain["stages"])
    assert more["memory"] > plain["memory"] and more["disk"] > plain["disk"]
    assert plan("--set", "evaluation.batch_size=10")["memory"] < plain["memory"]


def test_a_plan_says_when_memory_is_short(tmp_path: Path) -> None:
    plan = done("reproduce", "--config", tiny(), "--out", tmp_path, "--dry-run", "--json").json()
    assert "too little" not in cost_table(plan)
    assert "too little" in cost_table(plan | {"memory_free": plan["memory"] - 1})


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--set", "evaluation.rows=360"], "evaluation.rows is 360, but digits has 359 test images; 0 means all."),
        (["--set", "synthesis.det.rows=1439"], "synthesis.det.rows is 1439, but digits has 1438 training images"),
        (["--set", "model.mean=[0.5]"], "model.mean and model.std go together"),
        (["--set", "model.mean=[0.5]", "--set", "model.std=[0]"], "it must be above 0"),
        (["--set", "model.mean=[0.5,0.5]", "--set", "model.std=[1,1]"], "2 means and 2 deviations for 1 channels"),
    ],
)
def test_impossible_settings_are_told_before_any_training(tmp_path: Path, words: list[str], expected: str) -> None:
    assert expected in refused("reproduce", "--config", tiny(), "--out", tmp_path / "out", *words)
    assert not list((tmp_path / "out").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        ("cifar10", "give --config, such as cifar10-cpu or cifar10-fast or cifar10-paper"),
        ("toy.npz", "give --config\n"),
        ("fashion_mnist.npz", "give --config, such as fashion-mnist\n"),
    ],
)
def test_a_set_without_a_config_of_its_name_is_told_which_fit(tmp_path: Path, data: str, hint: str) -> None:
    images, labels = np.zeros((10, 32, 32, 3), np.uint8), np.arange(10)
    name = data if data == "cifar10" else str(tmp_path / data)
    if name != data:
        np.savez(name, x_train=images, y_train=labels, x_test=images, y_test=labels)
    told = done("reproduce", "--data", name, "--dry-run", "--out", tmp_path, "--set", "model.width=4").err
    assert f"so the recipes are those of 'digits'; {hint}" in told
