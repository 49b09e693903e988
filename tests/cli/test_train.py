"""`train`: models that record how they were trained and their accuracies."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from featuregen.models.io import read_model_record
from tests.helpers.cli_runs import Ran, done, model, refused, tiny, trace


def train(out: Path, *words: str | Path) -> Ran:
    return done("train", "--config", tiny(), "--out", out, *words)


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


def test_a_trained_model_is_cached_and_its_weights_are_reproducible(tmp_path: Path) -> None:
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
    message = refused("train", "--standard", "--eps", "0.5", "--out", tmp_path / "it.safetensors")
    assert "--standard" in message and "--eps" in message
