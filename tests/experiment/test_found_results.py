"""Folders from others: their numbers are measured again, the paths in their records are not followed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load, save_file

from featuregen.storage.diff import diff
from featuregen.storage.reader import read_info
from tests.helpers.cli_runs import Ran, dataset, done, info, make, model, refused, run
from tests.helpers.dataset_files import attribute, edited, sealed


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """The model file with another record, as somebody could write it."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["featuregen"])
    change(header["record"])
    save_file(load(path.read_bytes()), path, {"featuregen": json.dumps(header)})


@pytest.fixture
def received(tmp_path: Path) -> Path:
    """A dataset with the fresh model that was trained on it."""
    shutil.copy(dataset("det"), tmp_path / "det.h5")
    evaluated(tmp_path)
    return tmp_path


def evaluated(folder: Path) -> Ran:
    return done("evaluate", folder / "det.h5", "--out", folder, "--json")


def fresh(folder: Path) -> Path:
    (path,) = (folder / "models").glob("*.safetensors")
    return path


def test_forged_accuracies_are_measured_again(received: Path) -> None:
    honest = evaluated(received)
    assert "note:" not in honest.err

    def forge(record: dict[str, Any]) -> None:
        record["accuracy"] |= {"clean": 1.0, "l2": {"0.5": 1.0}, "linf": {"0.1": 1.0}}
        record["train_accuracy"] = 0.123456

    changed(fresh(received), forge)
    ran = evaluated(received)
    (run_,) = ran.json()["models"][0]["runs"]
    wanted = honest.json()["models"][0]["runs"][0]
    assert {name: run_[name] for name in ("clean", "l2", "linf")} == {
        name: wanted[name] for name in ("clean", "l2", "linf")
    }
    assert f"note: {fresh(received)} was not made on this machine, so its accuracy is measured again" in ran.err
    assert run_["train_accuracy"] is None and "0.123456" not in ran.out
    # Measured once, and then believed.
    again = evaluated(received)
    assert "measured again" not in again.err and again.json()["models"][0]["runs"][0]["train_accuracy"] is None


def test_the_training_accuracy_of_a_found_model_is_not_shown(tmp_path: Path) -> None:
    mine, theirs = model("standard"), Path(shutil.copy(model("standard"), tmp_path / "theirs.safetensors"))
    changed(theirs, lambda record: record.update(train_accuracy=0.123456))
    ran = done("evaluate", mine, theirs, "--json")
    known, claimed = (row["runs"][0]["train_accuracy"] for row in ran.json()["models"])
    assert known is not None and claimed is None and "0.123456" not in ran.out


def test_what_this_machine_made_is_believed_wherever_it_lies(received: Path, tmp_path: Path) -> None:
    shutil.copytree(received / "models", tmp_path / "moved" / "models")
    ran = done("evaluate", received / "det.h5", "--out", tmp_path / "moved", "--json")
    assert "note:" not in ran.err and ran.json()["models"][0]["runs"][0]["train_accuracy"] is not None


def test_tampered_pixels_under_the_old_digest(received: Path) -> None:
    """Results are kept by the digest, so it must be that of the pixels."""
    path = received / "det.h5"
    with edited(path) as root:
        images = root["images"]
        images[3] = 255 - images[3]
    assert "recorded is" in refused("evaluate", path, "--out", received)
    assert "recorded is" in refused(
        "attack", model("standard"), "--attack", "noise", "--data", path, "--out", received / "a.h5"
    )
    assert not diff(path, dataset("det")).same
    ran = run("diff", path, dataset("det"))
    assert ran.code == 1 and "content  differs" in ran.out.replace("  content  ", "content  ")
    ran = run("remake", path)
    assert ran.code == 1 and "differ in 1 rows" in ran.out


def test_a_dataset_of_another_machine_is_told(tmp_path: Path) -> None:
    make("det", tmp_path / "det.h5")
    attribute(tmp_path / "det.h5", "citation", "Somebody.")
    sealed(tmp_path / "det.h5")
    ran = make("det", tmp_path / "det.h5")
    assert f"note: {tmp_path / 'det.h5'} was not made on this machine" in ran.err


# results.json --------------------------------------------------------------------------------------


def experiment_results(digest: str) -> dict[str, Any]:
    run = {"seed": 0, "clean": 0.987, "l2": {"0.5": 0.5}, "linf": {}, "train_accuracy": 1.0, "seconds": 1.0}
    return {
        "format": "featuregen-results", "version": 1, "base": {"test_rows": 100},
        "config": {"evaluation": {"steps": 20, "restarts": 1, "rows": 0}},
        "models": [{"key": "det", "title": "D_det", "runs": [run]}],
        "datasets": [{"kind": "det", "content_sha256": digest, "eps": 1.0}],
        "honesty": {"det": [{"eps": 1.0, "rows": 4, "judges": {"robust model": {"true": 0.5, "stored": None}}}]},
    }  # fmt: skip


def test_a_results_file_of_somebody_else_is_not_put_into_the_card(tmp_path: Path) -> None:
    path = tmp_path / "det.h5"
    shutil.copy(dataset("det"), path)
    (tmp_path / "results.json").write_text(json.dumps(experiment_results(info(path)["content_sha256"])))
    ran = done("share", path, "--without-source")
    assert "results.json was not written on this machine" in ran.err
    assert "98.7" not in (tmp_path / "det-share" / "README.md").read_text(encoding="utf-8")
    done("share", path, "--without-source", "--results", tmp_path / "results.json", "--force")
    assert "98.7" in (tmp_path / "det-share" / "README.md").read_text(encoding="utf-8")


def broken_results() -> dict[str, Callable[[dict[str, Any]], object]]:
    def run_of(tree: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = tree["models"][0]["runs"][0]
        return found

    return {
        "accuracy of 400 digits": lambda tree: run_of(tree).update(clean=10**400),
        "accuracy in words": lambda tree: run_of(tree).update(clean="\x1b[2J"),
        "steps in words": lambda tree: tree["config"]["evaluation"].update(steps="# A heading"),
        "a radius in words": lambda tree: run_of(tree).update(l2={"[x](y)": 0.5}),
        "no models": lambda tree: tree.pop("models"),
        "a judge that is a list": lambda tree: tree["honesty"]["det"][0].update(judges=[]),
        "another format": lambda tree: tree.update(format="mine"),
    }


@pytest.mark.parametrize("name", broken_results())
def test_broken_results_are_one_sentence(tmp_path: Path, name: str) -> None:
    tree = experiment_results(info(dataset("det"))["content_sha256"])
    broken_results()[name](tree)
    place = tmp_path / "mine.json"
    place.write_text(json.dumps(tree))
    line = refused("share", dataset("det"), "--without-source", "--results", place, "--out", tmp_path / "out")
    assert str(place) in line and len(line) < 400 and not (tmp_path / "out").exists()


# Recorded paths ------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A dataset made from images of one's own."""
    (tmp_path / "private").mkdir()
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {f"x_{part}": rng.integers(0, 256, (40, 8, 8), np.uint8) for part in ("train", "test")}
    arrays |= {f"y_{part}": np.arange(40) % 4 for part in ("train", "test")}
    np.savez(tmp_path / "private" / "mine.npz", **arrays)
    make("det", tmp_path / "out" / "det.h5", "--data", tmp_path / "private" / "mine.npz")
    return tmp_path / "out" / "det.h5"


def test_files_do_not_tell_where_the_base_set_lies(own: Path) -> None:
    done("evaluate", own, "--data", own.parents[1] / "private" / "mine.npz", "--out", own.parent)
    done("share", own, "--data", own.parents[1] / "private" / "mine.npz")
    files = [path for path in own.parent.rglob("*") if path.is_file()]
    assert len(files) > 8
    for path in files:
        assert b"private" not in path.read_bytes() and str(own.parents[1]).encode() not in path.read_bytes(), path
    assert read_info(own).config["data"] == {"name": "mine.npz", "folder": "data"}


def test_a_base_set_that_only_its_owner_can_find_must_be_named(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own.parents[1] / "private")
    for command in ("evaluate", "preview", "remake", "share"):
        line = refused(command, own)
        assert "the base set mine.npz" in line and "--data" in line
    ran = done("verify", own)
    assert "not compared with its base images" in ran.err
    assert "distance: as computed from the pixels" in done("verify", own, "--data", "mine.npz").out


@pytest.mark.parametrize("name", ["~nosuch/x", "~", "/dev/zero", "\x1b[2Jx.npz", "A" * 4000])
def test_a_path_in_a_record_is_never_followed(tmp_path: Path, name: str) -> None:
    path = tmp_path / "det.h5"
    shutil.copy(dataset("det"), path)
    config = dict(info(path)["config"]) | {"data": {"name": name, "folder": name}}
    attribute(path, "config", json.dumps(config))
    sealed(path)
    for command in ("evaluate", "preview", "remake"):
        line = refused(command, path)
        assert "--data" in line and line.isprintable() and len(line) < 1000
    assert run("verify", path).code == 0
    assert run("verify", path, "--data", "digits").code == 0


def test_a_model_that_a_record_names_is_not_opened(tmp_path: Path) -> None:
    path, secret = tmp_path / "sent" / "det.h5", tmp_path / "secret" / "mine.safetensors"
    for file, source in ((path, dataset("det")), (secret, model("robust"))):
        file.parent.mkdir()
        shutil.copy(source, file)
    config = dict(info(path)["config"])
    config["sources"] |= {"standard_from": str(secret), "robust_from": str(secret)}
    attribute(path, "config", json.dumps(config))
    sealed(path)
    assert run("remake", path).code == 0
    weights = info(model("robust"))["weights_sha256"]
    made = list((tmp_path / "sent" / "models").glob("*.safetensors"))
    assert made and all(info(file)["weights_sha256"] != weights for file in made)
