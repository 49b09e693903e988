"""The authors' tensors: imported with the base rows that match, and exported without loss."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featuregen.config.loader import load_config
from featuregen.config.serialize import to_dict
from featuregen.data.base_dataset import BaseDataset, ImageSplit
from featuregen.interop import export as exports
from featuregen.interop import released
from featuregen.interop.export import export_dataset
from featuregen.storage.reader import read_columns, read_info
from featuregen.storage.schema import COLUMNS
from featuregen.storage.torch_dataset import FeatureDataset
from featuregen.storage.verify import check_against_base, check_file
from featuregen.storage.writer import Writer
from tests.helpers import cli_runs
from tests.helpers import dataset_files as store_files
from tests.helpers.cli_runs import dataset, done, refused, tiny, trace
from tests.helpers.image_files import save
from tests.helpers.released_files import CLASSES, ROWS, SHAPE, base, batches, labels_of, near, release

KINDS = ["robust", "nonrobust", "robust-noise", "nonrobust-noise", "rand", "det"]


def failed(path: Path, of: BaseDataset) -> list[str]:
    checks = check_file(path) + check_against_base(path, of.train.images, of.train.labels)
    return [f"{check.name}: {check.detail}" for check in checks if not check.ok]


def imported(folder: Path, kind: str, of: BaseDataset | None = None, **options: Any) -> dict[str, np.ndarray[Any, Any]]:
    """The columns of the file, which passes every check."""
    of, path = of or base(), folder.with_name(f"{kind}.h5")
    info = released.import_released(folder, kind, of, path, **options)
    assert (info.kind, info.rows, info.dtype) == (kind, info.rows, options.get("dtype", "float32"))
    assert failed(path, of) == []
    columns = read_columns(path, list(COLUMNS))
    assert np.isnan(columns["objective"]).all() and (columns["source_pred"] == -1).all() and np.isnan(info.success_rate)
    return columns


# Matching rows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
@pytest.mark.parametrize(
    ("kind", "form"),
    [(kind, "batches") for kind in KINDS] + [("det", form) for form in ("one tensor", "uint8", "the old layout")],
)
def test_rows_in_order(tmp_path: Path, kind: str, dtype: str, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = near(range(ROWS)), labels_of(kind, range(ROWS))
    stored = (images * 255).round().to(torch.uint8) if form == "uint8" else images
    old = {"_use_new_zipfile_serialization": False} if form == "the old layout" else {}
    one = form == "one tensor"
    folder = release(tmp_path / "a", stored if one else batches(stored), labels if one else batches(labels, 9), **old)
    columns = imported(folder, kind, dtype=dtype)
    assert "30 of 30 rows are matched to toy, in order" in capsys.readouterr().err
    assert columns["index"].tolist() == list(range(ROWS))
    assert columns["labels"].tolist() == labels.tolist()
    assert columns["source_labels"].tolist() == base().train.labels.tolist()
    start = range(ROWS) if kind in ("rand", "det") else [-1] * ROWS
    assert columns["start_index"].tolist() == list(start)
    assert columns["norm"] == pytest.approx(0.4, abs=0.02)
    pixels = stored.float() / 255 if form == "uint8" else images
    wanted = (pixels * 255).round().to(torch.uint8) if dtype == "uint8" else pixels.to(getattr(torch, dtype))
    assert np.array_equal(columns["images"], wanted.numpy())


def test_labels_in_order_prove_nothing_where_they_are_sorted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = base().train
    order = np.argsort(train.labels, kind="stable")
    in_classes = dataclasses.replace(base(), train=ImageSplit(train.images[order], train.labels[order]))
    labels = torch.from_numpy(in_classes.train.labels)
    folder = release(tmp_path / "a", torch.rand(ROWS, *SHAPE), labels)
    columns = imported(folder, "robust", in_classes)
    assert "none of 30 rows is matched" in capsys.readouterr().err and (columns["index"] == -1).all()


@pytest.mark.parametrize("kind", ["rand", "det"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_rows_in_another_order_are_found_by_their_distance(
    tmp_path: Path, kind: str, dtype: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.random.default_rng(2).permutation(ROWS)[:20]
    folder = release(tmp_path / "a", batches(near(rows)), batches(labels_of(kind, rows)))
    columns = imported(folder, kind, dtype=dtype)
    assert "20 of 20 rows are matched to toy, by an L2 distance up to 0.57" in capsys.readouterr().err
    assert columns["index"].tolist() == columns["start_index"].tolist() == rows.tolist()
    for name, value in (("_BLOCK", 6), ("_BASE_BLOCK", 11)):
        monkeypatch.setattr(released, name, value)
    again = imported(folder, kind, dtype=dtype, force=True)
    assert np.array_equal(again["index"], rows) and np.array_equal(again["norm"], columns["norm"])


def test_all_rows_in_another_order(tmp_path: Path) -> None:
    """As many as the base has, and so taken for its rows in order at first."""
    rows = np.arange(ROWS)
    same = np.flatnonzero(base().train.labels == 1)[:2]
    rows[same] = rows[same[::-1]]
    folder = release(tmp_path / "a", batches(near(rows)), batches(labels_of("det", range(ROWS))))
    assert imported(folder, "det")["index"].tolist() == rows.tolist()


@pytest.mark.parametrize("kind", ["rand", "det"])
def test_some_rows_stay_unknown(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One too far away, one given twice, and, where labels have a rule, one with another label."""
    rows = np.array([4, 9, 9, 17, 2])
    images, labels = near(rows), labels_of(kind, rows)
    images[3] = near([17], 0.6)[0]
    labels[4] = (labels[4] + 1) % CLASSES
    columns = imported(release(tmp_path / "a", [images], [labels]), kind)
    wanted = [4, 9, -1, -1, -1 if kind == "det" else 2]
    assert columns["index"].tolist() == columns["start_index"].tolist() == wanted
    assert np.isnan(columns["norm"]).tolist() == [row < 0 for row in wanted]
    true = base().train.labels
    assert columns["source_labels"].tolist() == [true[row] if row >= 0 else -1 for row in wanted]
    assert f"{sum(row >= 0 for row in wanted)} of 5 rows are matched" in capsys.readouterr().err
    if kind == "rand":
        assert imported(tmp_path / "a", kind, within=0.65, force=True)["index"].tolist() == [4, 9, -1, 17, 2]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [ROWS, 12])
def test_no_row_is_known(tmp_path: Path, kind: str, rows: int, capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = torch.full((rows, *SHAPE), 0.5), torch.zeros(rows, dtype=torch.int64)
    columns = imported(release(tmp_path / "a", batches(images), batches(labels)), kind)
    for name in ("index", "start_index", "source_labels"):
        assert (columns[name] == -1).all()
    log = capsys.readouterr().err
    assert np.isnan(columns["norm"]).all() and (f"none of {rows} rows" in log or f"0 of {rows} rows" in log)


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
@pytest.mark.parametrize("kind", ["det", "robust"])
def test_there_and_back(tmp_path: Path, kind: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "MADRY_BATCH", 4)
    path = tmp_path / "a.h5"
    store_files.write(path, store_files.header(kind=kind, dtype=dtype))
    folder = export_dataset(path, "madry", tmp_path / "a")
    images, labels = store_files.base_set()
    splits = ImageSplit(images, labels), ImageSplit(images[:3], labels[:3])
    toy = BaseDataset("toy", *splits, store_files.header().classes, "free", "")
    columns = imported(folder, kind, toy, dtype=dtype)
    there = read_columns(path, list(COLUMNS))
    for name in ("images", "labels", *(["index", "source_labels", "norm"] if kind == "det" else [])):
        assert np.array_equal(columns[name], there[name]), name


def test_a_file_says_where_it_comes_from(tmp_path: Path) -> None:
    folder = release(tmp_path / "a", near(range(ROWS)), labels_of("robust", range(ROWS)))
    info = released.import_released(folder, "robust", base(), tmp_path / "a.h5", config=load_config("digits"))
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    assert info.recipe == {"imported": {"layout": "CIFAR_ims/CIFAR_lab", "sha256": digests}}
    assert info.base == base().record() and info.classes == base().classes and info.source_model == {}
    assert info.citation.startswith("Someone, 2026. ") and "arXiv:1905.02175" in info.citation
    assert info.config == to_dict(load_config("digits"))
    with_default = released.import_released(folder, "robust", base(), tmp_path / "b.h5")
    assert with_default.config["data"]["name"] == "toy"


def test_the_config_that_fits_the_images() -> None:
    assert released.fitting_config("digits") == "digits"
    assert released.fitting_config("cifar10") in ("cifar10", "cifar10-paper")
    assert released.fitting_config("mine.npz") is None


# Stopped, done again, done otherwise ---------------------------------------------------------------


def test_stopped_and_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featuregen.storage.schema.BLOCK_BYTES", 8 * 60 * 7)
    rows = [3, 1, 2, *range(4, 20)]
    folder = release(tmp_path / "a", batches(near(rows)), batches(labels_of("det", rows)))
    whole = released.import_released(folder, "det", base(), tmp_path / "whole.h5")
    append = Writer.append

    def stopped(writer: Writer, columns: Any) -> None:
        if writer.rows_done:
            raise KeyboardInterrupt
        append(writer, columns)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "append", stopped)
        with pytest.raises(KeyboardInterrupt):
            released.import_released(folder, "det", base(), tmp_path / "det.h5")
    assert (tmp_path / "det.h5.partial").exists() and not (tmp_path / "det.h5").exists()
    assert imported(folder, "det")["index"].tolist() == rows
    assert read_info(tmp_path / "det.h5").content_sha256 == whole.content_sha256


def test_the_same_command_again_and_another(tmp_path: Path) -> None:
    folder, out = release(tmp_path / "a", near(range(ROWS)), labels_of("det", range(ROWS))), tmp_path / "o"
    train, test = base().train, base().test
    arrays = {"x_train": train.images, "y_train": train.labels, "x_test": test.images, "y_test": test.labels}
    save(tmp_path / "toy.npz", arrays)
    words = ("import", folder, "--kind", "det", "--data", tmp_path / "toy.npz", "--out", out / "it.h5")
    assert "in order" in done(*words).err
    before = trace(out)
    done(*words)
    assert "--force" in refused(*words, "--dtype", "uint8") and "--force" in refused(*words, "--within", "0.3")
    assert trace(out) == before
    done(*words, "--dtype", "uint8", "--force")
    assert read_info(out / "it.h5").dtype == "uint8"


def test_an_imported_set_goes_on_through_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = export_dataset(dataset("det"), "madry", tmp_path / "a")
    words = ("--kind", "det", "--config", tiny(), "--within", "1.1", "--dtype", "uint8")
    ran = done("import", folder, *words)
    path = Path("datasets_out/digits-det-imported.h5")
    assert ran.out.splitlines()[-1] == str(path) and "nan" not in ran.out and "None" not in ran.out
    assert torch.equal(FeatureDataset(path).images, FeatureDataset(dataset("det")).images)
    done("verify", path)
    done("preview", path)
    assert "source" in refused("verify", path, "--source", cli_runs.model("standard"))
    (row,) = done("evaluate", path, "--json").json()["models"]
    assert row["key"] == "det" and 0 <= row["runs"][0]["clean"] <= 1
