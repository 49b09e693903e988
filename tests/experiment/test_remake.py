"""A dataset made again from its own record, and two datasets held against each other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featuregen.compute.autotune
from featuregen.storage.diff import diff
from tests.helpers.cli_runs import dataset, done, info, model, refused, run, tiny
from tests.helpers.dataset_files import BASE_ROWS, columns_of, edited, header, sealed, write


@pytest.fixture
def sent(tmp_path: Path) -> Path:
    """A dataset alone in a folder, as a collaborator gets it."""
    path = tmp_path / "sent" / "det.h5"
    path.parent.mkdir()
    shutil.copy(dataset("det"), path)
    return path


# Making again --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["robust", "nonrobust-noise", "rand", "det"])
def test_the_record_is_enough(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"{kind}.h5"
    shutil.copy(dataset(kind), path)
    ran = done("remake", path)
    assert "training" in ran.err and "the same, byte for byte" in ran.out
    assert diff(path, tmp_path / f"{kind}-remade.h5").same
    again = done("remake", path, "--json")
    assert "training" not in again.err and again.json()["same"] is True


def test_a_set_is_made_again_in_smaller_batches_where_memory_is_small(
    sent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(featuregen.compute.autotune, "bytes_per_image", lambda net: 100)
    monkeypatch.setattr(featuregen.compute.autotune, "free_memory", lambda device: 4000)
    ran = run("remake", sent, "--source", model("standard"))
    assert "10 images at once instead of 40" in ran.err
    # Rounding may differ, and if so that is told.
    assert (ran.code, "the same, byte for byte" in ran.out) in ((0, True), (1, False))
    assert info(sent.with_name("det-remade.h5"))["software"]["batch"] == "10"


@pytest.mark.parametrize("place", ["here", "models", "named"])
def test_a_model_that_is_there_is_not_trained_again(sent: Path, place: str, tmp_path: Path) -> None:
    target = {"here": sent.parent, "models": sent.parent / "models", "named": tmp_path / "elsewhere"}[place]
    target.mkdir(exist_ok=True)
    (sent.parent / "a.safetensors").write_bytes(b"no model at all")
    given = shutil.copy(model("standard"), target / "given.safetensors")
    ran = done("remake", sent, "--source", given) if place == "named" else done("remake", sent)
    assert "training" not in ran.err and "the same, byte for byte" in ran.out


def test_an_attack_is_made_again(tmp_path: Path) -> None:
    path, own = tmp_path / "fgsm.h5", model("standard")
    done("attack", own, "--attack", "fgsm", "--eps", "0.1", "--rows", "20", "--target", "next", "--out", path)
    told = refused("remake", path)
    assert "that is neither beside it nor in a models folder there" in told and "--source" in told
    assert "the same, byte for byte" in done("remake", path, "--source", own).out
    shutil.copy(own, tmp_path / "own.safetensors")
    assert "the same, byte for byte" in done("remake", path, "--out", tmp_path / "again.h5").out


def test_without_a_split_the_rows_of_an_attack_are_training_images(sent: Path) -> None:
    attack = {"name": "fgsm", "norm": "l2", "eps": 0.1, "target": ""}
    with edited(sent) as root:
        base, recipe = (json.loads(root.attrs[name]) for name in ("base", "recipe"))
        del base["split"]
        root.attrs["kind"] = "attacked"
        root.attrs["base"] = json.dumps(base)
        root.attrs["recipe"] = json.dumps({"seed": recipe["seed"], "attack": attack})
    sealed(sent)
    ran = run("remake", sent, "--source", model("standard"))
    made = info(sent.with_name("det-remade.h5"))
    assert ran.code == 1 and made["base"]["split"] == "train" and made["recipe"]["attack"]["name"] == "fgsm"


def test_an_attack_from_another_model_is_made_again(tmp_path: Path) -> None:
    path, target = tmp_path / "transfer.h5", model("robust")
    words: list[str | Path] = [
        "--from",
        model("standard"),
        "--attack",
        "pgd",
        "--eps",
        "0.5",
        "--set",
        "steps=2",
        "--rows",
        "20",
    ]
    done("attack", target, *words, "--out", path)
    shutil.copy(target, tmp_path / "target.safetensors")
    assert "that is neither beside it" in refused("remake", path)
    shutil.copy(model("standard"), tmp_path / "origin.safetensors")
    assert "the same, byte for byte" in done("remake", path).out


def test_what_differs_is_told_and_is_a_failed_check(sent: Path) -> None:
    with edited(sent) as root:
        root["images"][3, 0, 0, 0] = 255 - root["images"][3, 0, 0, 0]
        root["labels"][5] = (root["labels"][5] + 1) % 10
    sealed(sent)
    ran = run("remake", sent)
    assert ran.code == 1 and ran.err.endswith(
        f"failed: the contents of {sent.with_name('det-remade.h5')} and {sent} differ\n"
    )
    found = diff(sent, sent.with_name("det-remade.h5"))
    assert found.columns["labels"] == 1 and found.pixels and found.pixels.images == 1
    assert "labels   differ in 1 rows" in ran.out and "images   differ in 1 rows, a pixel by at most" in ran.out


def test_a_trained_model_that_comes_out_otherwise_is_no_excuse(sent: Path) -> None:
    """The record says which weights the source had."""
    with edited(sent) as root:
        root.attrs["source_model"] = root.attrs["source_model"].replace('"weights_sha256":"', '"weights_sha256":"0')
    sealed(sent)
    ran = run("remake", sent)
    assert ran.code == 1 and "source_model.weights_sha256: " in ran.out


def test_what_cannot_be_made_again_is_refused(sent: Path, tmp_path: Path) -> None:
    other = model("robust")
    assert "give that one" in refused("remake", sent, "--source", other)
    assert "is the file itself" in refused("remake", sent, "--out", sent)
    assert "should end in .h5" in refused("remake", sent, "--out", tmp_path / "x.npz")
    assert "does not exist" in refused("remake", tmp_path / "no.h5")
    taken = tmp_path / "taken.h5"
    shutil.copy(dataset("rand"), taken)
    assert "is another dataset" in refused("remake", sent, "--out", taken)
    with np.load(digits_file(tmp_path)) as arrays:
        changed = dict(arrays)
    changed["x_train"][0, 0, 0] ^= 1
    np.savez(tmp_path / "other.npz", **changed)
    told = refused("remake", sent, "--data", tmp_path / "other.npz")
    assert f"{sent} was made from digits with digest" in told and "name its base set with --data" in told


def digits_file(folder: Path) -> Path:
    from featuregen.config.schema import Data
    from featuregen.data.sources import load_images

    base, path = load_images(Data()), folder / "digits.npz"
    parts = {"train": base.train, "test": base.test}
    np.savez(path, **{f"{axis}_{part}": getattr(split, name) for part, split in parts.items() for axis, name in AXES})
    return path


AXES = (("x", "images"), ("y", "labels"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"recipe": {"imported": {}}}, "was imported"),
        ({"kind": "attacked"}, "does not record the attack"),
        ({"base": {"name": "det.h5", "split": "dataset", "sha256": "00"}}, "was made from the rows of det.h5"),
    ],
)
def test_what_was_not_made_from_a_base_set_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    write(tmp_path / "a.h5", header(**change))
    assert words in refused("remake", tmp_path / "a.h5")


def test_a_model_the_record_cannot_train_is_asked_for(tmp_path: Path) -> None:
    """It was trained with other settings than the rest of the experiment, and given with --source."""
    words = ("--config", tiny(), "--set", "sources.standard.epochs=1")
    done("train", *words, "--out", tmp_path / "mine" / "own.safetensors")
    path = tmp_path / "alone" / "det.h5"
    done("make-dataset", "det", "--config", tiny(), "--source", tmp_path / "mine" / "own.safetensors", "--out", path)
    assert "was made with a model that its record cannot train again" in refused("remake", path)


# Comparing -----------------------------------------------------------------------------------------


def test_a_file_is_the_same_as_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path)
    ran = done("diff", path, path)
    assert "content  the same, byte for byte" in ran.out and "images   the same, pixel for pixel" in ran.out


def test_rows_are_matched_by_what_they_were_made_from(tmp_path: Path) -> None:
    first, second = tmp_path / "a.h5", tmp_path / "b.h5"
    write(first)
    columns = columns_of(header())
    order = np.array([9, 8, 0, 1, 2, 3, 4, 5])
    part = {name: values[order] for name, values in columns.items()}
    part["images"][0] += np.where(part["images"][0] < 0.5, 0.25, -0.25).astype("f4")
    part["labels"][1] = (part["labels"][1] + 1) % 3
    part["objective"][:3] = np.nan
    write(second, header(rows=len(order)), part)
    found = diff(first, second)
    assert (found.by, found.shared, found.only_first, found.only_second) == ("index", 8, 2, 0)
    assert found.columns == {name: 0 for name in found.columns} | {"labels": 1, "objective": 3}
    assert found.pixels and found.pixels.images == 1
    assert found.pixels.largest == pytest.approx(0.25) and found.pixels.median == pytest.approx(0.25 * 5)
    assert run("diff", first, second).code == 1
    assert run("diff", second, first, "--json").json()["only_second"] == 2


def test_files_without_an_index_are_matched_by_place(tmp_path: Path) -> None:
    first, second = tmp_path / "a.h5", tmp_path / "b.h5"
    unknown = {"index": np.full(10, -1), "norm": np.full(10, np.nan, "<f4")}
    write(first, changes=unknown)
    write(second, changes=unknown)
    found = diff(first, second)
    assert found.same and found.by == "place" and found.shared == 10
    assert "by their place" in done("diff", first, second).out


def test_settings_and_records_are_told_apart(tmp_path: Path) -> None:
    first, second = tmp_path / "a.h5", tmp_path / "b.h5"
    write(first)
    other = {"seed": 7, "synthesis": {"norm": "l2", "eps": 0.75, "steps": 3}}
    write(second, header(recipe=other, software={"torch": "3", "device": "cpu"}))
    found = diff(first, second)
    assert found.settings == (("recipe.synthesis.eps", "0.5", "0.75"),)
    assert found.record == (("software.torch", '"2"', '"3"'),)
    out = run("diff", first, second).out
    assert "setting  recipe.synthesis.eps: 0.5 in A, 0.75 in B" in out and 'record   software.torch: "2" in A' in out


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_types_are_compared_as_pixels(tmp_path: Path, dtype: str) -> None:
    first, second = tmp_path / "a.h5", tmp_path / "b.h5"
    write(first)
    write(second, header(dtype=dtype))
    found = diff(first, second)
    limit = {"uint8": 1 / 255, "float16": 2**-11}[dtype]
    assert found.pixels and 0 < found.pixels.images <= 10 and 0 < found.pixels.largest <= limit


def test_sparse_rows_of_a_long_file_are_read_in_the_right_order(tmp_path: Path) -> None:
    """Where a whole span would be mostly rows that nobody asks for."""
    first, second = tmp_path / "a.h5", tmp_path / "b.h5"
    write(first, header(rows=BASE_ROWS))
    columns = columns_of(header(rows=BASE_ROWS))
    chosen = np.array([19, 0])
    write(second, header(rows=2), {name: values[chosen] for name, values in columns.items()})
    found = diff(first, second)
    assert found.shared == 2 and found.pixels and found.pixels.images == 0


def test_other_shapes_cannot_be_compared(tmp_path: Path) -> None:
    first, second = tmp_path / "a.h5", tmp_path / "b.h5"
    write(first)
    shape = (1, 4, 4)
    write(second, header(image_shape=shape), {"images": np.zeros((10, *shape), "f4")})
    assert diff(first, second).pixels is None
    assert "images   not comparable" in run("diff", first, second).out


def test_a_broken_file_is_a_sentence(tmp_path: Path) -> None:
    write(tmp_path / "a.h5")
    (tmp_path / "b.h5").write_bytes((tmp_path / "a.h5").read_bytes()[:2000])
    assert "b.h5 is damaged" in refused("diff", tmp_path / "a.h5", tmp_path / "b.h5")
    assert "does not exist" in refused("diff", tmp_path / "c.h5", tmp_path / "a.h5")
