"""`evaluate`: fresh models of a dataset, saved models, and sweeps of training settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from featuregen.models.io import load_model, read_model_record
from tests.helpers.cli_runs import dataset, done, model, refused, tiny, trace


def evaluate(path: Path, out: Path, *words: str | Path) -> Any:
    found = done("evaluate", path, "--out", out, "--json", *words).json()
    assert (found["format"], found["version"]) == ("featuregen-evaluation", 1)
    return found["models"]


@pytest.mark.parametrize("which", ["standard", "robust"])
def test_evaluating_a_model_gives_the_accuracies_it_records(tmp_path: Path, which: str) -> None:
    (row,) = evaluate(model(which), tmp_path)
    recorded = read_model_record(model(which))["record"]
    (one,) = row["runs"]
    assert {name: one[name] for name in ("clean", "l2", "linf")} == {
        name: recorded["accuracy"][name] for name in ("clean", "l2", "linf")
    }
    assert not list(tmp_path.iterdir())


def test_a_model_is_attacked_with_the_radii_of_the_settings(tmp_path: Path) -> None:
    (row,) = evaluate(model("standard"), tmp_path, "--set", "evaluation.l2=[0.25,0.5,1]", "--set", "evaluation.linf=[]")
    (one,) = row["runs"]
    assert set(one["l2"]) == {"0.25", "0.5", "1"} and one["linf"] == {}
    assert one["clean"] >= one["l2"]["0.25"] >= one["l2"]["0.5"] >= one["l2"]["1"]


def test_a_dataset_is_evaluated_by_fresh_models(tmp_path: Path) -> None:
    (row,) = evaluate(dataset("det"), tmp_path)
    assert row["key"] == "det" and row["training"]["epochs"] == 1 and len(row["runs"]) == 1
    (path,) = (tmp_path / "models").iterdir()
    fresh = load_model(path)
    assert fresh.record["trained_on"]["sha256"] == row["content_sha256"]
    assert fresh.record["accuracy"]["clean"] == row["runs"][0]["clean"] and not fresh.training


def test_seeds_epochs_and_rate_of_fresh_models(tmp_path: Path) -> None:
    plain, seeds = (evaluate(dataset("det"), tmp_path, "--seeds", number)[0]["runs"] for number in ("1", "3"))
    assert [run["seed"] for run in seeds] == [1000, 1001, 1002]
    assert seeds[0]["train_accuracy"] != seeds[1]["train_accuracy"] or seeds[0]["l2"] != seeds[1]["l2"]
    for words in (("--epochs", "3"), ("--lr", "0.01"), ("--seed", "9")):
        (row,) = evaluate(dataset("det"), tmp_path, *words)
        assert {**row["runs"][0], "seconds": 0} != {**plain[0], "seconds": 0}, words


def test_fresh_models_are_cached(tmp_path: Path) -> None:
    first = evaluate(dataset("det"), tmp_path)
    before = trace(tmp_path)
    assert evaluate(dataset("det"), tmp_path) == first and trace(tmp_path) == before


def test_several_files_share_a_table(tmp_path: Path) -> None:
    output = done("evaluate", dataset("det"), model("robust"), "--out", tmp_path).out
    assert "det.h5" in output and "robust.safetensors" in output and "L2 eps" in output


def test_the_recipes_of_another_config_can_be_taken(tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(tiny().read_text(encoding="utf-8").replace("{epochs: 1,", "{epochs: 2,"), encoding="utf-8")
    (row,) = evaluate(dataset("det"), tmp_path, "--config", other)
    assert row["training"]["epochs"] == 2


def test_the_training_options_do_not_apply_to_a_model(tmp_path: Path) -> None:
    assert "--epochs" in refused("evaluate", model("robust"), "--epochs", "3", "--out", tmp_path)


def test_a_sweep_reports_every_combination(tmp_path: Path) -> None:
    words = ("--sweep", "lr", "--sweep", "optimizer=sgd,adamw", "--epochs", "2")
    rows = evaluate(dataset("det"), tmp_path, *words)
    tried = [(row["sweep"]["lr"], row["sweep"]["optimizer"]) for row in rows]
    assert tried == [(lr, name) for lr in (0.01, 0.0333, 0.1, 0.3) for name in ("sgd", "adamw")]
    for row in rows:
        assert {name: row["training"][name] for name in row["sweep"]} == row["sweep"]
        assert row["training"]["epochs"] == 2 and row["training"]["batch_size"] == 20
        assert row["runs"][0]["train_accuracy"] is not None
    assert len({json.dumps(row["runs"]) for row in rows}) == len(rows)
    output = done("evaluate", dataset("det"), *words, "--config", tiny(), "--out", tmp_path).out
    assert "det.h5, lr 0.0333, optimizer adamw" in output and "training" in output


def test_a_part_of_the_augmentation_can_be_swept(tmp_path: Path) -> None:
    rows = evaluate(dataset("det"), tmp_path, "--sweep", "augment.crop=0,1")
    assert [row["training"]["augment"]["crop"] for row in rows] == [0, 1]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--sweep", "rate=0.1"], "unknown setting 'fresh.det.rate'"),
        (["--sweep", "epochs"], "--sweep epochs names no values; give them as epochs=a,b."),
        (["--sweep", "="], "--sweep takes key=value, for example --sweep optimizer=sgd,adamw; got '='."),
        (["--sweep", "lr=0.1,fast"], "fresh.det.lr is 'fast'; give a number"),
        (["--sweep", "lr", "--lr", "0.1"], "--sweep lr tries several and --lr 0.1 sets one"),
        (["--sweep", "lr=0.1", "--sweep", "lr=0.2"], "--sweep lr is given twice"),
    ],
)
def test_wrong_sweeps_are_refused(tmp_path: Path, words: list[str], expected: str) -> None:
    assert expected in refused("evaluate", dataset("det"), "--config", tiny(), "--out", tmp_path, *words)


def test_a_sweep_is_for_datasets(tmp_path: Path) -> None:
    assert "--sweep" in refused("evaluate", model("robust"), "--sweep", "lr", "--out", tmp_path)


def test_attacks_can_be_tried_on_a_sample(tmp_path: Path) -> None:
    words = ("--set", "evaluation.l2=[0,0.5]")
    (whole,) = evaluate(model("standard"), tmp_path, *words)
    (part,) = evaluate(model("standard"), tmp_path, *words, "--set", "evaluation.rows=36")
    assert part["runs"][0]["clean"] == whole["runs"][0]["clean"]
    # On 36 images there are 37 accuracies, and the sample's is seldom that of all.
    assert (part["runs"][0]["l2"]["0"] * 36).is_integer() and part["runs"][0]["l2"] != whole["runs"][0]["l2"]
