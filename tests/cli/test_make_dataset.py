"""`make-robust-dataset` and `make-dataset`: what they write, what they reuse, and what every option changes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pytest
from PIL import Image

from featuregen.config.kinds import KINDS, Kind
from featuregen.config.recipes import RECIPES, recipe_values
from featuregen.models.io import read_model_record
from tests.helpers.cli_runs import dataset, done, info, make, model, refused, run, tiny, trace


def made_robust(out: Path, *words: str | Path) -> Any:
    return done("make-robust-dataset", "--config", tiny(), "--out", out, *words)


def columns(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    with h5py.File(path) as file:
        return {name: file[name][:] for name in file}


def at(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree[part]
    return tree


def test_the_robust_dataset_is_written_with_its_preview_and_the_paths_are_printed(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "robust.h5"
    ran = made_robust(path)
    assert "training robust model" in ran.err
    assert ran.out.splitlines()[-2:] == [str(path), str(path.with_suffix(".png"))]
    assert info(path)["content_sha256"] in ran.out
    with Image.open(path.with_suffix(".png")) as picture:
        assert picture.format == "PNG" and min(picture.size) > 100
    found = columns(path)
    assert found["images"].shape == (40, 1, 8, 8) and len(set(found["labels"].tolist())) == 10


def test_the_second_call_finds_model_and_dataset(tmp_path: Path) -> None:
    path = tmp_path / "robust.h5"
    first = made_robust(path)
    before = trace(tmp_path)
    again = made_robust(path)
    after = trace(tmp_path)
    assert again.err == "" and again.out == first.out
    # Only the preview is drawn anew.
    assert {name for name in after if after[name] != before.get(name)} <= {"robust.png"}


def test_by_default_the_set_is_named_after_images_and_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done("make-dataset", "det", "--config", tiny(), "--source", model("standard"))
    assert {path.name for path in (tmp_path / "datasets_out").iterdir()} == {"digits-det.h5", "digits-det.png"}


OPTIONS: list[tuple[list[str], str, Any]] = [
    (["--steps", "2"], "recipe.synthesis.steps", 2),
    (["--step-size", "8/255"], "recipe.synthesis.step_size", 8 / 255),
    (["--seed", "7"], "recipe.seed", 7),
    (["--rows", "30"], "rows", 30),
    (["--dtype", "float16"], "dtype", "float16"),
    (["--dtype", "float32"], "recipe.synthesis.dtype", "float32"),
    (["--precision", "bf16"], "recipe.precision", "bf16"),
    (["--set", "synthesis.robust.schedule=linear"], "recipe.synthesis.schedule", "linear"),
]


@pytest.mark.parametrize(("words", "key", "value"), OPTIONS, ids=lambda value: str(value))
def test_every_option_of_make_robust_dataset_changes_the_pixels_and_is_recorded(
    tmp_path: Path, words: list[str], key: str, value: Any
) -> None:
    made_robust(tmp_path / "it.h5", "--source", model("robust"), *words)
    assert at(info(tmp_path / "it.h5"), key) == value
    assert not np.array_equal(columns(tmp_path / "it.h5")["images"], columns(dataset("robust"))["images"])


def test_make_dataset_takes_all_options_at_once(tmp_path: Path) -> None:
    words = "--steps 2 --step-size 8/255 --eps 16/255 --norm linf --rows 20 --dtype float32 --precision bf16 --seed 3"
    make("det", tmp_path / "it.h5", *words.split(), "--model", "convnet", "--set", "synthesis.det.schedule=cosine")
    found, values = info(tmp_path / "it.h5"), columns(tmp_path / "it.h5")["images"]
    wanted = {"steps": 2, "step_size": 8 / 255, "eps": 16 / 255, "norm": "linf", "rows": 20, "schedule": "cosine"}
    assert wanted.items() <= found["recipe"]["synthesis"].items()
    assert (found["recipe"]["seed"], found["recipe"]["precision"], found["rows"]) == (3, "bf16", 20)
    assert values.dtype == np.float32 and found["source_model"]["width"] == 16


NAMED: list[tuple[str, str, dict[str, Any]]] = [
    ("rand", "--recipe paper", {"steps": 100, "step_size": 0.1, "schedule": "constant", "momentum": 0.0, "eps": 0.5}),
    ("det", "--recipe fast", {"steps": 30, "step_size": 0.2, "schedule": "cosine", "momentum": 0.75, "eps": 1.0}),
    ("robust", "--recipe fast", {"steps": 60, "step_size": 1.0, "schedule": "polyak", "momentum": 0.9, "norm": "none"}),
    ("robust", "--recipe paper --start noise --steps 2", {"steps": 2, "step_size": 0.1, "schedule": "constant"}),
    ("det", "--eps 0.75 --steps 2 --recipe paper", {"steps": 2, "step_size": 0.1, "eps": 0.75}),
    ("det", "--recipe fast --steps 2 --step-size 1/4", {"steps": 2, "step_size": 0.25, "momentum": 0.75}),
    (
        "rand",
        "--set synthesis.rand.schedule=linear --set synthesis.rand.steps=3 --recipe paper --steps 2 --eps 0.75",
        {"steps": 3, "step_size": 0.1, "schedule": "linear", "momentum": 0.0, "norm": "l2", "eps": 0.75},
    ),
]


@pytest.mark.parametrize(("kind", "words", "wanted"), NAMED, ids=lambda value: value if isinstance(value, str) else "")
def test_options_and_settings_win_over_a_named_recipe(
    tmp_path: Path, kind: str, words: str, wanted: dict[str, Any]
) -> None:
    which = "robust" if kind == "robust" else "standard"
    make(kind, tmp_path / "it.h5", "--source", model(which), "--rows", "10", *words.split())
    with h5py.File(tmp_path / "it.h5") as file:
        made, recipe = file.attrs["kind"], json.loads(file.attrs["recipe"])["synthesis"]
        config = json.loads(file.attrs["config"])["synthesis"]
    assert wanted.items() <= recipe.items() and (recipe["rows"], recipe["batch_size"]) == (10, 64)
    assert made == (f"{kind}-noise" if "--start" in words else kind) and config[made] == recipe
    assert all(config[other]["steps"] == 3 for other in config if other != made), "of one kind and no other"


@pytest.mark.parametrize("name", RECIPES)
def test_a_named_recipe_is_recorded(name: str, tmp_path: Path) -> None:
    path = tmp_path / "robust.h5"
    words = ("--source", model("robust"), "--recipe", name, "--steps", "2", "--set", "synthesis.robust.momentum=0.25")
    made_robust(path, *words)
    made = info(path)["recipe"]["synthesis"]
    expected = {key.rpartition(".")[2]: value for key, value in recipe_values(name, "robust").items()}
    assert (made["schedule"], made["step_size"]) == (expected["schedule"], expected["step_size"])
    assert (made["steps"], made["momentum"], made["rows"]) == (2, 0.25, 40)


def test_polyak_may_stay_in_a_ball(tmp_path: Path) -> None:
    path = tmp_path / "near.h5"
    make("robust-noise", path, "--set", "synthesis.robust-noise.schedule=polyak", "--norm", "l2", "--eps", "0.7")
    assert 0 < columns(path)["norm"].max() <= 0.7 * (1 + 1e-6)


def test_a_smaller_ball_is_kept(tmp_path: Path) -> None:
    make("rand", tmp_path / "small.h5", "--eps", "0.25")
    norm = columns(tmp_path / "small.h5")["norm"]
    assert 0.1 < norm.max() <= 0.25 + 1e-6
    assert columns(dataset("rand"))["norm"].max() > 0.5


@pytest.mark.parametrize("command", ["make-robust-dataset", "make-dataset nonrobust"])
def test_start_noise_makes_the_kind_that_starts_from_noise(tmp_path: Path, command: str) -> None:
    done(*command.split(), "--start", "noise", "--config", tiny(), "--out", tmp_path / "it.h5")
    assert info(tmp_path / "it.h5")["kind"] == command.split("-")[1].replace("dataset ", "") + "-noise"
    assert (columns(tmp_path / "it.h5")["start_index"] == -1).all()


def test_start_image_is_the_plain_kind(tmp_path: Path) -> None:
    made_robust(tmp_path / "it.h5", "--start", "image")
    assert info(tmp_path / "it.h5")["content_sha256"] == info(dataset("robust"))["content_sha256"]


@pytest.mark.parametrize(
    ("kind", "start", "why"),
    [
        ("det", "noise", "does not apply to det"),
        ("rand", "image", "does not apply to rand"),
        ("robust-noise", "image", "make robust"),
    ],
)
def test_a_start_that_a_kind_cannot_have_is_refused(tmp_path: Path, kind: str, start: str, why: str) -> None:
    assert why in refused("make-dataset", kind, "--start", start, "--out", tmp_path / "it.h5")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("starts", "start", "why"),
    [
        ("self", "noise", "--start does not apply to mine"),
        ("image", "noise", "'mine-noise' is no kind of dataset"),
        ("noise", "image", "mine starts from noise; leave out --start."),
    ],
)
def test_a_start_that_a_registered_kind_cannot_have_is_refused(
    tmp_path: Path, starts: Literal["image", "noise", "self"], start: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, "mine", Kind("mine", "robust", "features", starts, "true", "mine"))
    assert why in refused("make-dataset", "mine", "--start", start, "--out", tmp_path / "it.h5")
    assert not list(tmp_path.iterdir())


def test_a_saved_source_is_used_and_none_is_trained(tmp_path: Path) -> None:
    ran = make("rand", tmp_path / "it.h5", "--source", model("robust"))
    assert ran.err == "" and not (tmp_path / "models").exists()
    found = info(tmp_path / "it.h5")
    assert found["source_model"]["weights_sha256"] == read_model_record(model("robust"))["weights_sha256"]
    assert found["content_sha256"] != info(dataset("rand"))["content_sha256"]


def test_the_device_asked_for_does_the_work(tmp_path: Path) -> None:
    make("det", tmp_path / "it.h5", "--device", "cpu", "--source", model("standard"))
    assert info(tmp_path / "it.h5")["software"]["device"].startswith("cpu")


def test_a_base_set_of_the_user(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = (draw.integers(0, 100, (60, 9, 9, 3)) + 50 * labels[:, None, None, None]).astype(np.uint8)
    np.savez(tmp_path / "mine.npz", x_train=images, y_train=labels, x_test=images[:30], y_test=labels[:30])
    out = tmp_path / "o" / "it.h5"
    words = ("--config", tiny(), "--data", tmp_path / "mine.npz")
    done("make-dataset", "det", *words, "--rows", "30", "--out", out)
    found = info(out)
    assert (found["base"]["name"], found["rows"], found["image_shape"]) == ("mine", 30, [3, 9, 9])
    assert "distance" in done("verify", out, "--data", tmp_path / "mine.npz").out
    assert "it.h5" in done("evaluate", out, "--data", tmp_path / "mine.npz", "--out", tmp_path / "o").out


def test_the_same_command_in_another_folder_gives_the_same_content(tmp_path: Path) -> None:
    digests = set()
    for folder in ("here", "there"):
        make("nonrobust", tmp_path / folder / "it.h5")
        digests.add(info(tmp_path / folder / "it.h5")["content_sha256"])
    assert len(digests) == 1


@pytest.mark.parametrize("kind", ["robust", "robust-noise", "rand"])
def test_the_batch_size_changes_neither_labels_nor_starts(tmp_path: Path, kind: str) -> None:
    which = "standard" if kind == "rand" else "robust"
    make(kind, tmp_path / "it.h5", "--source", model(which), "--set", f"synthesis.{kind}.batch_size=7")
    small, whole = columns(tmp_path / "it.h5"), columns(dataset(kind))
    for name in ("labels", "start_index", "index", "source_labels"):
        assert np.array_equal(small[name], whole[name])
    assert np.allclose(small["norm"], whole["norm"], atol=0.05)


def test_more_steps_reach_a_smaller_objective(tmp_path: Path) -> None:
    make("robust", tmp_path / "it.h5", "--steps", "30", "--source", model("robust"))
    near, far = columns(tmp_path / "it.h5")["objective"], columns(dataset("robust"))["objective"]
    assert near.mean() < far.mean() and math.isfinite(near.mean())


def test_other_settings_do_not_replace_a_file_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "it.h5"
    make("det", path, "--source", model("standard"))
    before = path.read_bytes()
    words = ("make-dataset", "det", "--config", tiny(), "--source", model("standard"), "--out", path, "--steps", "2")
    message = refused(*words)
    assert "steps is 3 there and 2 here" in message and "--force" in message and path.read_bytes() == before
    assert run(*words, "--force").code == 0
    assert info(path)["recipe"]["synthesis"]["steps"] == 2


def test_an_existing_file_is_refused_before_a_source_is_trained(tmp_path: Path) -> None:
    path = tmp_path / "it.h5"
    make("det", path, "--source", model("standard"))
    assert "--force" in refused("make-dataset", "det", "--config", tiny(), "--out", path, "--steps", "2")
    assert not (tmp_path / "models").exists()


def test_settings_of_the_evaluation_alone_do_not_make_another_dataset(tmp_path: Path) -> None:
    make("det", tmp_path / "it.h5")
    ran = make("det", tmp_path / "it.h5", "--set", "evaluation.steps=3")
    assert ran.err == ""


def test_the_picture_never_replaces_the_dataset(tmp_path: Path) -> None:
    assert "should end in .h5" in refused("make-dataset", "det", "--config", tiny(), "--out", tmp_path / "it.png")


def test_a_source_and_a_model_to_train_exclude_each_other(tmp_path: Path) -> None:
    words = ("make-dataset", "det", "--config", tiny(), "--source", model("standard"), "--model", "resnet9")
    assert "--model" in refused(*words, "--out", tmp_path / "it.h5")
