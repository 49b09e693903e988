"""`train` as a defence: the mixed loss, single steps, early stopping, and a dataset to train on alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from featuregen.models.io import read_model_record
from tests.helpers.cli_runs import Ran, dataset, done, model, refused, tiny, trace


def train(out: Path, *words: str | Path) -> Ran:
    return done("train", "--config", tiny(), "--out", out, *words)


def record(path: Path) -> Any:
    return read_model_record(path)["record"]


def recipe_of(path: Path) -> Any:
    return record(path)["settings"]["training"]


@pytest.mark.parametrize(
    ("words", "attacked", "alpha"),
    [
        (("--loss", "standard"), False, None),
        (("--loss", "adversarial"), True, None),
        (("--loss", "mixed"), True, 0.5),
        (("--loss", "mixed", "--alpha", "0.2", "--robust"), True, 0.2),
        (("--loss", "adversarial", "--set", "sources.robust.alpha=0.3"), True, 0.3),
    ],
)
def test_the_loss(tmp_path: Path, words: tuple[str, ...], attacked: bool, alpha: float | None) -> None:
    output = train(tmp_path / "it.safetensors", *words).out
    recipe = recipe_of(tmp_path / "it.safetensors")
    assert (recipe["attack"] is not None) == attacked and recipe.get("alpha") == alpha
    assert f"digits, {'mixed' if alpha else 'robust' if attacked else 'standard'} " in output


def test_equal_losses_train_equal_models(tmp_path: Path) -> None:
    for loss, which in (("standard", "standard"), ("adversarial", "robust")):
        train(tmp_path / f"{loss}.safetensors", "--loss", loss)
        found, known = (read_model_record(path) for path in (tmp_path / f"{loss}.safetensors", model(which)))
        assert found["weights_sha256"] == known["weights_sha256"]
        assert found["record"]["settings"] == known["record"]["settings"]
    train(tmp_path / "mixed.safetensors", "--loss", "mixed")
    digests = {read_model_record(path)["weights_sha256"] for path in tmp_path.glob("*.safetensors")}
    assert len(digests) == 3


def test_fast_gradient_training(tmp_path: Path) -> None:
    words = ("--norm", "linf", "--eps", "8/255", "--steps", "1", "--step-size", "8/255", "--random-start")
    train(tmp_path / "it.safetensors", *words)
    attack = recipe_of(tmp_path / "it.safetensors")["attack"]
    assert attack == {
        "norm": "linf", "eps": 8 / 255, "steps": 1, "step_size": 8 / 255, "random_start": True, "restarts": 1,
    }  # fmt: skip


def test_a_random_start_alone_leaves_the_rest_of_the_attack_as_it_is(tmp_path: Path) -> None:
    words = ("--set", "sources.robust.attack.step_size=0.3")
    train(tmp_path / "it.safetensors", "--random-start", *words)
    attack = recipe_of(tmp_path / "it.safetensors")["attack"]
    assert attack["random_start"] and attack["step_size"] == 0.3 and attack["steps"] == 1


def test_early_stopping_is_reported_and_recorded(tmp_path: Path) -> None:
    path = tmp_path / "it.safetensors"
    words = ("--loss", "mixed", "--early-stop", "adversarial", "--epochs", "4", "--held-out", "0.2", "--patience", "9")
    output = train(path, *words).err
    found = record(path)
    asked = {"early_stop": "adversarial", "held_out": 0.2, "patience": 9, "alpha": 0.5}
    assert asked.items() <= recipe_of(path).items()
    errors = found["early_stop"]["errors"]
    kept = found["early_stop"]["kept"]
    assert len(errors) == 4 and kept == 1 + errors.index(min(errors))
    assert found["early_stop"]["ended"] == "all epochs are run"
    assert f"note: robust model 0: the weights of epoch {kept} of 4 are kept, {min(errors):.1%} error" in output
    # Found again, with nothing to tell; and what it was trained with is read back as settings.
    before = trace(tmp_path / "models")
    assert train(path, *words).err == "" and trace(tmp_path / "models") == before
    (row,) = done("evaluate", path, "--out", tmp_path, "--json").json()["models"]
    assert row["runs"][0]["clean"] == found["accuracy"]["clean"]
    assert row["runs"][0]["train_accuracy"] == found["train_accuracy"]


def test_a_model_without_early_stopping_records_nothing_of_it() -> None:
    assert "early_stop" not in record(model("robust")) and "early_stop" not in recipe_of(model("robust"))


def test_a_standard_model_can_stop_by_its_clean_error(tmp_path: Path) -> None:
    train(tmp_path / "it.safetensors", "--early-stop", "clean")
    assert recipe_of(tmp_path / "it.safetensors")["early_stop"] == "clean"
    assert len(record(tmp_path / "it.safetensors")["early_stop"]["errors"]) == 2


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("--alpha 0.5", "--alpha 0.5 is for the mixed loss; add --loss mixed"),
        ("--alpha 0.5 --robust", "--alpha 0.5 is for the mixed loss"),
        ("--loss adversarial --alpha 0.5", "--alpha 0.5 is for the mixed loss"),
        ("--loss mixed --alpha 0", "--alpha 0 trains on adversarial images alone; choose --loss adversarial"),
        ("--loss mixed --alpha 1", "alpha is 1.0; it must be at most 0.99"),
        ("--loss mixed --alpha -1", "alpha is -1.0; it must be at least 0"),
        ("--loss mixed --alpha nan", "alpha is nan; give a number"),
        ("--loss mixed --alpha half", "--alpha"),
        ("--loss mixd", "'mixd'"),
        ("--loss mixed --standard", "--standard and --loss mixed disagree"),
        ("--loss standard --robust", "--robust and --loss standard disagree"),
        ("--loss standard --eps 0.5", "--loss standard trains without an attack; leave out --eps, or --loss standard."),
        ("--standard --step-size 0.1 --random-start", "leave out --step-size and --random-start, or --standard"),
        ("--step-size -1", "step_size is -1; it must be at least 0"),
        ("--early-stop adversarial", "--early-stop adversarial needs an attack to train against; add --robust"),
        ("--early-stop soon", "'soon'"),
        ("--patience 3", "--patience: without early stopping there is no validation set; add --early-stop"),
        (
            "--held-out 0.2 --patience 3 --early-stop none",
            "--patience and --held-out: without early stopping there is no validation set",
        ),
        ("--early-stop clean --patience -1", "patience is -1; it must be at least 0"),
        ("--early-stop clean --held-out 0", "held_out is 0.0; it must be above 0"),
        ("--early-stop clean --held-out 1", "held_out is 1.0; it must be at most 0.9"),
        ("--on nowhere.h5", "nowhere.h5"),
        ("--on it.npz", "--on it.npz should end in .h5"),
    ],
)
def test_options_that_contradict_each_other(
    words: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert why in refused("train", "--config", tiny(), *words.split())
    assert not list(tmp_path.iterdir()), "nothing is begun"


# On a dataset alone --------------------------------------------------------------------------------


def test_a_model_of_a_dataset_is_the_fresh_model_of_its_evaluation(tmp_path: Path) -> None:
    path = tmp_path / "dr.safetensors"
    ran = done("train", "--on", dataset("robust"), "--out", path)
    assert ran.out.splitlines()[-1] == str(path) and "robust (robust.h5)" in ran.out
    (row,) = done("evaluate", dataset("robust"), "--out", tmp_path, "--json").json()["models"]
    found = record(path)
    assert found["trained_on"] == {"name": "robust (robust.h5)", "sha256": row["content_sha256"]}
    assert found["accuracy"]["clean"] == row["runs"][0]["clean"] and found["settings"]["seed"] == 1000
    assert recipe_of(path) == row["training"] and recipe_of(path)["epochs"] == 1
    assert len(list((tmp_path / "models").iterdir())) == 1, "it was trained once"


def test_the_recipe_of_a_dataset_s_model_can_be_changed(tmp_path: Path) -> None:
    path = tmp_path / "dr.safetensors"
    words = ("--epochs", "3", "--lr", "0.05", "--early-stop", "clean", "--seed", "4", "--model", "convnet")
    done("train", "--on", dataset("robust"), "--out", path, *words)
    assert {"epochs": 3, "lr": 0.05, "early_stop": "clean"}.items() <= recipe_of(path).items()
    assert record(path)["settings"]["seed"] == 1004 and read_model_record(path)["width"] == 16
    done("train", "--on", dataset("robust"), "--config", tiny(), "--out", path, "--force", "--standard")
    assert recipe_of(path)["epochs"] == 1 and read_model_record(path)["width"] == 8


def test_an_attack_of_a_dataset_s_own_recipe_is_a_setting(tmp_path: Path) -> None:
    path = tmp_path / "dr.safetensors"
    words = (
        "--set",
        "fresh.robust.attack.eps=0.5",
        "--set",
        "fresh.robust.attack.steps=1",
        "--early-stop",
        "adversarial",
    )
    done("train", "--on", dataset("robust"), "--out", path, *words)
    assert recipe_of(path)["attack"]["eps"] == 0.5 and len(record(path)["early_stop"]["errors"]) == 1


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("--eps 0.5 --loss mixed", "leave out --eps, --loss mixed, or set the attack in that recipe"),
        ("--robust", "leave out --robust, or set"),
        ("--recipe paper", "leave out --recipe, or set"),
        ("--early-stop adversarial", "fresh.robust.early_stop is adversarial, but that recipe has no attack"),
        ("--patience 2", "--patience: without early stopping there is no validation set"),
        ("--data nowhere.npz", "nowhere.npz"),
        ("--epochs 0", "fresh.robust.epochs is 0; it must be at least 1"),
    ],
)
def test_options_that_contradict_training_on_a_dataset(tmp_path: Path, words: str, why: str) -> None:
    out = tmp_path / "it.safetensors"
    assert why in refused("train", "--on", dataset("robust"), "--out", out, *words.split())
    assert not list(tmp_path.iterdir())


def test_another_model_is_replaced_only_by_force(tmp_path: Path) -> None:
    path = tmp_path / "dr.safetensors"
    done("train", "--on", dataset("robust"), "--out", path)
    before = path.read_bytes()
    done("train", "--on", dataset("robust"), "--out", path)
    assert "--force" in refused("train", "--on", dataset("det"), "--out", path) and path.read_bytes() == before
    done("train", "--on", dataset("det"), "--out", path, "--force")
    assert record(path)["trained_on"]["name"] == "det (det.h5)"


def test_defences_are_compared_in_one_table(tmp_path: Path) -> None:
    done("train", "--on", dataset("robust"), "--out", tmp_path / "dr.safetensors")
    train(tmp_path / "mixed.safetensors", "--loss", "mixed")
    paths = (model("standard"), model("robust"), tmp_path / "mixed.safetensors", tmp_path / "dr.safetensors")
    output = done("evaluate", *paths, "--out", tmp_path, "--set", "evaluation.linf=[0.1,0.2]").out
    lines = [line for line in output.splitlines() if ".safetensors" in line]
    assert [line.split()[0] for line in lines] == [path.name for path in paths]
    assert all(len(line.split()) == 1 + 5 for line in lines), "clean, one L2, two Linf, and training accuracy"
