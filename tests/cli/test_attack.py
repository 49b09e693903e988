"""`attack`: what it prints, the dataset and the picture it writes, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from featuregen.config.schema import Data
from featuregen.data.sources import load_images
from featuregen.models.io import load_model
from featuregen.storage.reader import read_columns
from featuregen.storage.torch_dataset import FeatureDataset
from tests.helpers.cli_runs import dataset, done, info, model, refused, tiny

ROWS = ("--rows", "40")


def attacked(out: Path, *words: str | Path) -> Any:
    return done("attack", model("standard"), "--out", out, "--json", *ROWS, *words).json()


def test_printed_rates_agree_with_predictions_on_the_file(tmp_path: Path) -> None:
    out = tmp_path / "a.h5"
    results = attacked(out, "--attack", "pgd", "--norm", "linf", "--eps", "0.15", "--set", "steps=5")
    net, data, columns = (
        load_model(model("standard")),
        FeatureDataset(out),
        read_columns(out, ["index", "source_pred"]),
    )
    test = load_images(Data()).test
    before, labels = test.images_tensor(torch.device("cpu"), columns["index"]), test.labels[columns["index"]]
    with torch.no_grad():
        first, then = (net(images).argmax(1).numpy() for images in (before, data.images))
    right = first == labels
    assert results["threat"] == "white-box" and results["attack"]["steps"] == 5
    assert np.array_equal(data.labels.numpy(), labels) and np.array_equal(then, columns["source_pred"])
    assert results["images"]["count"] == 40 and results["tried"] == right.sum() > 0
    assert results["success"] == pytest.approx((then != labels)[right].mean()) and results["success"] > 0
    assert results["accuracy"]["after"] == pytest.approx((then == labels).mean())
    assert results["distance"]["linf"]["largest"] == pytest.approx(0.15, abs=1e-6)
    # Misclassified images stay as they are.
    assert torch.equal(data.images[~right], before[~right])
    done("verify", out)
    assert info(out)["kind"] == "attacked" and info(out)["base"]["split"] == "test"
    told_of = done("info", out).out
    assert "adversarial examples, with true labels" in told_of
    assert "pgd: linf eps 0.15" in told_of and "steps 5" in told_of
    picture = Image.open(out.with_suffix(".png"))
    assert picture.size[0] > 800 and len(set(picture.convert("L").resize((64, 64)).tobytes())) > 10


def test_the_text_names_attack_and_success(tmp_path: Path) -> None:
    ran = done("attack", model("standard"), "--attack", "fgsm", "--eps", "8/255", "--out", tmp_path / "a.h5", *ROWS)
    assert "fgsm: linf eps 0.03137" in ran.out and "% of the attacked images" in ran.out
    assert ran.out.splitlines()[-2:] == [str(tmp_path / "a.h5"), str(tmp_path / "a.png")]


def test_images_found_on_another_model_transfer(tmp_path: Path) -> None:
    words = ("--attack", "pgd", "--norm", "l2", "--eps", "0.4")
    own, other = attacked(tmp_path / "a.h5", *words), attacked(tmp_path / "b.h5", *words, "--from", model("robust"))
    assert other["threat"] == "transfer" and other["origin"]["file"] == "robust.safetensors"
    assert 0 < other["success"] < own["success"] and other["origin"]["success"] > 0
    assert info(tmp_path / "a.h5")["recipe"] != info(tmp_path / "b.h5")["recipe"]


@pytest.mark.parametrize("target", ["next", "3"])
def test_targeted_attack(tmp_path: Path, target: str) -> None:
    results = attacked(tmp_path / "a.h5", "--attack", "pgd", "--norm", "l2", "--eps", "3", "--target", target)
    columns = read_columns(tmp_path / "a.h5", ["source_pred", "labels"])
    wanted = (columns["labels"] + 1) % 10 if target == "next" else np.full(40, 3)
    assert results["attack"]["target"] == target and results["success"] > 0.5
    assert (columns["source_pred"] == wanted).sum() >= round(results["success"] * results["tried"])


def test_any_dataset_can_be_attacked(tmp_path: Path) -> None:
    out = tmp_path / "a.h5"
    results = attacked(out, "--attack", "noise", "--eps", "0.1", "--data", dataset("robust"))
    assert results["images"] == {"name": "robust.h5", "split": "dataset", "count": 40} and results["threat"] == "query"
    assert np.array_equal(np.sort(read_columns(out, ["index"])["index"]), np.arange(40))
    assert "made from rows of robust.h5" in done("verify", out).out
    assert "need a dataset made from the training images" in refused("evaluate", out, "--config", tiny())


def test_attacked_training_images_are_a_dataset_to_train_on(tmp_path: Path) -> None:
    out = tmp_path / "a.h5"
    attacked(out, "--attack", "fgsm", "--eps", "0.1", "--part", "train")
    assert info(out)["base"]["split"] == "train"
    row = done("evaluate", out, "--config", tiny(), "--out", tmp_path, "--json").json()["models"][0]
    assert row["key"] == "attacked" and len(row["runs"]) == 1


def test_an_existing_output_is_reused_and_a_different_one_is_refused(tmp_path: Path) -> None:
    out, words = tmp_path / "a.h5", ("--attack", "fgsm", "--eps", "0.1")
    attacked(out, *words)
    before = info(out)["content_sha256"]
    attacked(out, *words)
    assert info(out)["content_sha256"] == before
    assert str(out) in refused("attack", model("standard"), "--attack", "fgsm", "--eps", "0.2", "--out", out, *ROWS)
    attacked(out, "--attack", "fgsm", "--eps", "0.2", "--force")
    assert info(out)["content_sha256"] != before


@pytest.mark.parametrize("words", [("pgd", "--norm", "l2", "--eps", "0.5"), ("smallest", "--norm", "l2")])
def test_rates_are_measured_on_the_stored_pixels(tmp_path: Path, words: tuple[str, ...]) -> None:
    out = tmp_path / "a.h5"
    results = attacked(out, "--attack", *words, "--dtype", "uint8")
    assert info(out)["dtype"] == "uint8"
    done("verify", out)
    columns = read_columns(out, ["source_pred", "labels"])
    assert results["accuracy"]["after"] == pytest.approx((columns["source_pred"] == columns["labels"]).mean())
    # Rounding undoes some of the smallest perturbations.
    assert 0 < results["success"] < 1


def test_all_attacks_are_listed() -> None:
    listed = done("attacks").out
    assert all(f"\n{name} " in listed for name in ("fgsm", "pgd", "pixels", "spatial", "smallest", "ensemble"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--attack", "fgms"], "'fgms' is no attack"),
        (["--attack", "pgd", "--eps", "-1"], "eps"),
        (["--attack", "pgd", "--norm", "linf", "--eps", "big"], "eps"),
        (["--attack", "pixels", "--eps", "0.1"], "eps"),
        (["--attack", "pgd", "--set", "stps=3"], "stps"),
        (["--attack", "pgd", "--set", "steps"], "--set takes key=value, for example --set steps=40; got 'steps'."),
        (["--attack", "pgd", "--set", "steps=3", "--set", "steps=4"], "--set steps is given twice"),
        (["--attack", "pgd", "--target", "eleven"], "--target eleven is no class; choose next, or one of 0, 1"),
        (["--attack", "noise", "--rows", "9999"], "9999 rows were asked for"),
        (["--attack", "pgd", "--out", "a.png"], "--out a.png should end in .h5"),
        (["--attack", "pgd", "--from", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--attack", "pgd", "--data", "nowhere.h5"], "nowhere.h5"),
        (["--attack", "pgd", "--data", "nowhere.h5", "--part", "train"], "--part train is for a base set"),
        (["--attack", "foolbox-mi-fgsm", "--norm", "l2"], "norm is 'l2'"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(tmp_path: Path, words: list[str | Path], expected: str) -> None:
    place: list[str | Path] = [] if "--out" in words else ["--out", tmp_path / "a.h5"]
    assert expected in refused("attack", model("standard"), *words, *place)
    assert not list(tmp_path.iterdir())


def test_an_existing_file_is_refused_before_the_attack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "a.h5"
    attacked(out, "--attack", "fgsm", "--eps", "0.1")

    def too_late(*_: Any, **__: Any) -> None:
        raise AssertionError("attacked all the same")

    monkeypatch.setattr("featuregen.evaluation.attack_run.attack", too_late)
    assert str(out) in refused("attack", model("standard"), "--attack", "fgsm", "--eps", "0.2", "--out", out, *ROWS)


def test_images_of_the_target_class_are_not_attacked(tmp_path: Path) -> None:
    out = tmp_path / "a.h5"
    results = attacked(out, "--attack", "pgd", "--norm", "linf", "--eps", "0.3", "--target", "3")
    data = FeatureDataset(out)
    net, columns = load_model(model("standard")), read_columns(out, ["index"])
    before = load_images(Data()).test.images_tensor(torch.device("cpu"), columns["index"])
    with torch.no_grad():
        seen = net(before).argmax(1)
    assert results["tried"] == ((data.labels != 3) & (seen != 3)).sum() > 0
    assert torch.equal(data.images[data.labels == 3], before[data.labels == 3])
