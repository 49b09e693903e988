"""`train` and `evaluate`: models that say how they were trained, and numbers that agree with one another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from featuregen.models import load_model, read_model_record
from tests.helpers.cli_runs import Ran, dataset, done, model, refused, tiny, trace


def train(out: Path, *words: str | Path) -> Ran:
    return done("train", "--config", tiny(), "--out", out, *words)


def evaluate(path: Path, out: Path, *words: str | Path) -> Any:
    found = done("evaluate", path, "--out", out, "--json", *words).json()
    assert (found["format"], found["version"]) == ("featuregen-evaluation", 1)
    return found["models"]


@pytest.mark.parametrize(
    ("words", "attack"),
    [
        ((), None),
        (("--standard",), None),
        (("--robust",), {"norm": "l2", "eps": 0.5, "steps": 1}),
        (("--norm", "l2", "--eps", "0.25", "--steps", "2"), {"norm": "l2", "eps": 0.25, "steps": 2, "step_size": 0}),
        (("--norm", "linf", "--eps", "8/255"), {"norm": "linf", "eps": 8 / 255, "step_size": 0}),
    ],
    ids=["default", "standard", "robust", "l2", "linf"],
)
def test_a_model_says_how_it_was_trained_and_how_good_it_is(
    tmp_path: Path, words: tuple[str, ...], attack: dict[str, Any] | None
) -> None:
    path = tmp_path / "deep" / "it.safetensors"
    ran = train(path, *words, "--seed", "5")
    assert ran.out.splitlines()[-1] == str(path)
    record = read_model_record(path)["record"]
    recipe = record["settings"]["training"]
    assert (recipe["epochs"], recipe["lr"], record["settings"]["seed"]) == (2, 0.1, 5)
    if attack is None:
        assert recipe["attack"] is None
    else:
        assert attack.items() <= recipe["attack"].items()
    assert set(record["accuracy"]) >= {"clean", "l2", "linf"} and 0 < record["accuracy"]["clean"] <= 1
    assert f"{100 * record['accuracy']['clean']:.1f}" in ran.out


def test_epochs_rate_seed_and_precision_make_other_models(tmp_path: Path) -> None:
    digests = {read_model_record(model("standard"))["weights_sha256"]}
    choices = (("--epochs", "1"), ("--lr", "0.05"), ("--seed", "1"), ("--precision", "bf16"))
    for number, words in enumerate(choices):
        train(tmp_path / f"{number}.safetensors", *words)
        digests.add(read_model_record(tmp_path / f"{number}.safetensors")["weights_sha256"])
    assert len(digests) == 1 + len(choices)


def test_a_trained_model_is_found_again_and_its_weights_come_the_same_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "it.safetensors"
    assert "training standard model" in train(path).err
    before = trace(tmp_path / "models")
    assert train(path).err == "" and trace(tmp_path / "models") == before
    assert read_model_record(path)["weights_sha256"] == read_model_record(model("standard"))["weights_sha256"]
    shutil.rmtree(tmp_path / "models")
    assert "training" in train(path).err


def test_a_model_with_other_settings_is_replaced_only_by_force(tmp_path: Path) -> None:
    path = tmp_path / "it.safetensors"
    train(path)
    before = path.read_bytes()
    words = ("train", "--config", tiny(), "--out", path, "--epochs", "1")
    assert "--force" in refused(*words) and path.read_bytes() == before
    done(*words, "--force")
    assert read_model_record(path)["record"]["settings"]["training"]["epochs"] == 1
    path.write_text("a letter")
    assert "--force" in refused(*words) and path.read_text() == "a letter"


def test_standard_and_an_attack_contradict_each_other(tmp_path: Path) -> None:
    told = refused("train", "--standard", "--eps", "0.5", "--out", tmp_path / "it.safetensors")
    assert "--standard" in told and "--eps" in told


# Evaluating ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["standard", "robust"])
def test_evaluating_a_model_gives_the_accuracies_it_records(tmp_path: Path, which: str) -> None:
    (row,) = evaluate(model(which), tmp_path)
    recorded = read_model_record(model(which))["record"]
    (one,) = row["runs"]
    assert {name: one[name] for name in ("clean", "l2", "linf")} == {
        name: recorded["accuracy"][name] for name in ("clean", "l2", "linf")
    }
    assert not list(tmp_path.iterdir())


def test_a_model_meets_the_attacks_asked_for(tmp_path: Path) -> None:
    (row,) = evaluate(model("standard"), tmp_path, "--set", "evaluation.l2=[0.25,0.5,1]", "--set", "evaluation.linf=[]")
    (one,) = row["runs"]
    assert set(one["l2"]) == {"0.25", "0.5", "1"} and one["linf"] == {}
    assert one["clean"] >= one["l2"]["0.25"] >= one["l2"]["0.5"] >= one["l2"]["1"]


def test_a_dataset_is_worth_what_fresh_models_learn_from_it(tmp_path: Path) -> None:
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


def test_fresh_models_are_found_again(tmp_path: Path) -> None:
    first = evaluate(dataset("det"), tmp_path)
    before = trace(tmp_path)
    assert evaluate(dataset("det"), tmp_path) == first and trace(tmp_path) == before


def test_several_files_stand_in_one_table(tmp_path: Path) -> None:
    told = done("evaluate", dataset("det"), model("robust"), "--out", tmp_path).out
    assert "det.h5" in told and "robust.safetensors" in told and "L2 eps" in told


def test_the_recipes_of_another_config_can_be_taken(tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(tiny().read_text(encoding="utf-8").replace("{epochs: 1,", "{epochs: 2,"), encoding="utf-8")
    (row,) = evaluate(dataset("det"), tmp_path, "--config", other)
    assert row["training"]["epochs"] == 2


def test_the_training_options_do_not_apply_to_a_model(tmp_path: Path) -> None:
    assert "--epochs" in refused("evaluate", model("robust"), "--epochs", "3", "--out", tmp_path)


def test_a_sweep_tells_all_of_it(tmp_path: Path) -> None:
    words = ("--sweep", "lr", "--sweep", "optimizer=sgd,adamw", "--epochs", "2")
    rows = evaluate(dataset("det"), tmp_path, *words)
    tried = [(row["sweep"]["lr"], row["sweep"]["optimizer"]) for row in rows]
    assert tried == [(lr, name) for lr in (0.01, 0.0333, 0.1, 0.3) for name in ("sgd", "adamw")]
    for row in rows:
        assert {name: row["training"][name] for name in row["sweep"]} == row["sweep"]
        assert row["training"]["epochs"] == 2 and row["training"]["batch_size"] == 20
        assert row["runs"][0]["train_accuracy"] is not None
    assert len({json.dumps(row["runs"]) for row in rows}) == len(rows)
    told = done("evaluate", dataset("det"), *words, "--config", tiny(), "--out", tmp_path).out
    assert "det.h5, lr 0.0333, optimizer adamw" in told and "training" in told


def test_a_part_of_the_augmentation_can_be_swept(tmp_path: Path) -> None:
    rows = evaluate(dataset("det"), tmp_path, "--sweep", "augment.crop=0,1")
    assert [row["training"]["augment"]["crop"] for row in rows] == [0, 1]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--sweep", "rate=0.1"], "unknown setting 'fresh.det.rate'"),
        (["--sweep", "epochs"], "--sweep epochs names no values; give them as epochs=a,b."),
        (["--sweep", "="], "names no values"),
        (["--sweep", "lr=0.1,fast"], "fresh.det.lr is 'fast'; give a number"),
        (["--sweep", "lr", "--lr", "0.1"], "--sweep lr tries several and --lr 0.1 sets one"),
        (["--sweep", "lr=0.1", "--sweep", "lr=0.2"], "--sweep lr is given twice"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(tmp_path: Path, words: list[str], expected: str) -> None:
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
