"""Datasets in the formats of others: nothing is lost on the way, and nothing that was there before."""

from __future__ import annotations

import csv
import errno
import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from featuregen.errors import UserError
from featuregen.interop import export as exports
from featuregen.interop.export import FORMATS, default_path, export_dataset
from featuregen.storage.reader import read_columns, read_info
from featuregen.storage.schema import COLUMNS
from tests.helpers import dataset_files as store_files
from tests.helpers.cli_runs import dataset, done, model, refused, trace

parquet: Any = import_module("pyarrow.parquet")
DTYPES = ["uint8", "float16", "float32"]
HOSTILE = ("../x", "/etc/a b\n\0\u202e", "..")


def write_file(path: Path, dtype: str = "uint8", channels: int = 3, **changes: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Write a file of ten small images, some numbers of which are not recorded; its columns."""
    head = store_files.header(dtype=dtype, image_shape=(channels, 4, 6), kind="robust", source_model={}, **changes)
    images = np.random.default_rng(3).integers(0, 256, (store_files.ROWS, *head.image_shape), np.uint8)
    stored = images if dtype == "uint8" else (images / 255 * 0.9).astype(dtype)
    unknown = np.full(store_files.ROWS, -1)
    store_files.write(path, head, {"images": stored, "source_pred": unknown, "start_index": unknown})
    return read_columns(path, list(COLUMNS))


def rounded(stored: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The pictures as PNGs show them: 8 bits, NHWC."""
    pixels = stored if stored.dtype == np.uint8 else np.rint(stored.astype(np.float32) * 255).astype(np.uint8)
    return pixels.transpose(0, 2, 3, 1)


def seen(picture: Any) -> np.ndarray[Any, Any]:
    with Image.open(picture) as image:
        assert (image.format, image.mode) in (("PNG", "L"), ("PNG", "RGB"))
        return np.atleast_3d(np.asarray(image))


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most nine rows at a time, or three of the colour pictures."""
    monkeypatch.setattr("featuregen.storage.schema.BLOCK_BYTES", 3 * 4 * 72)


# Every format --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("dtype", DTYPES)
def test_npz(tmp_path: Path, dtype: str) -> None:
    columns = write_file(tmp_path / "a.h5", dtype)
    with np.load(export_dataset(tmp_path / "a.h5", "npz", tmp_path / "a.npz"), allow_pickle=False) as arrays:
        assert {*arrays} == {*COLUMNS, "attributes"}
        for name, values in columns.items():
            assert arrays[name].dtype == values.dtype and np.array_equal(arrays[name], values, equal_nan=name == "norm")
        attributes = json.loads(str(arrays["attributes"]))
    info = read_info(tmp_path / "a.h5").to_dict()
    assert attributes == {name: info[name] for name in info if name not in ("path", "size")} | {"success_rate": None}


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_authors_layout(tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "MADRY_BATCH", 4)
    columns = write_file(tmp_path / "a.h5", dtype)
    folder = export_dataset(tmp_path / "a.h5", "madry", tmp_path / "new" / "a")
    images, labels = (torch.load(folder / name, weights_only=True) for name in ("CIFAR_ims", "CIFAR_lab"))
    assert [len(batch) for batch in images] == [len(batch) for batch in labels] == [4, 4, 2]
    assert len({batch.untyped_storage().data_ptr() for batch in images}) == 3
    assert {batch.dtype for batch in images} == {torch.float32} and {batch.dtype for batch in labels} == {torch.int64}
    pixels, stored = torch.cat(images).numpy(), columns["images"]
    assert np.array_equal(pixels, stored / np.float32(255) if dtype == "uint8" else stored.astype(np.float32))
    assert np.array_equal(torch.cat(labels).numpy(), columns["labels"])


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("channels", "classes"), [(1, HOSTILE), (3, tuple(f"class {number}" for number in range(12)))])
def test_a_folder_of_pictures(
    tmp_path: Path, dtype: str, channels: int, classes: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    columns = write_file(tmp_path / "a.h5", dtype, channels, classes=classes)
    folder = export_dataset(tmp_path / "a.h5", "imagefolder", tmp_path / "a")
    log = capsys.readouterr().err
    assert ("rounded" in log) == (dtype != "uint8") and ("allow_empty" in log) == (len(classes) == 12)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.h5"]
    read = ImageFolder(str(folder), allow_empty=True)
    with (folder / "labels.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert len(read) == len(rows) == store_files.ROWS and len(read.classes) == len(classes)
    for row, picture in zip(rows, rounded(columns["images"]), strict=True):
        number = int(row["row"])
        assert np.array_equal(seen(folder / row["file"]), picture)
        assert (str(folder / row["file"]), columns["labels"][number]) in read.samples
        assert [int(row[name]) for name in ("label", "source_label", "index")] == [
            columns[name][number] for name in ("labels", "source_labels", "index")
        ]


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 3])
def test_parquet(tmp_path: Path, dtype: str, channels: int, capsys: pytest.CaptureFixture[str]) -> None:
    columns = write_file(tmp_path / "a.h5", dtype, channels, classes=HOSTILE)
    table = parquet.read_table(export_dataset(tmp_path / "a.h5", "parquet", tmp_path / "a.parquet"))
    assert ("rounded" in capsys.readouterr().err) == (dtype != "uint8")
    pictures = table["image"].to_pylist()
    assert [each["path"] for each in pictures][:2] == ["000000.png", "000001.png"]
    for each, wanted in zip(pictures, rounded(columns["images"]), strict=True):
        assert np.array_equal(seen(io.BytesIO(each["bytes"])), wanted)
    for name, column in exports.NUMBERS.items():
        assert np.array_equal(table[name].to_numpy(), columns[column]) and table[name].null_count == 0
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == table.column_names
    assert features["image"] == {"_type": "Image"}
    assert features["label"] == features["source_label"] == {"names": list(HOSTILE), "_type": "ClassLabel"}
    assert features["norm"] == {"dtype": "float32", "_type": "Value"}
    assert json.loads(table.schema.metadata[b"featuregen"])["kind"] == "robust"
    if dtype == "uint8":
        assert "pixels" not in features
    else:
        exact = np.stack(table["pixels"].to_pylist()).astype(np.float32).reshape(columns["images"].shape)
        assert np.array_equal(exact, columns["images"].astype(np.float32))


def test_two_classes_of_one_name(tmp_path: Path) -> None:
    write_file(tmp_path / "a.h5", classes=("cat", "dog", "cat"))
    schema = parquet.read_schema(export_dataset(tmp_path / "a.h5", "parquet", tmp_path / "a.parquet"))
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features["label"]["names"] == ["0 cat", "1 dog", "2 cat"]


# What is there already -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_again_and_in_the_place_of_another(tmp_path: Path, name: str) -> None:
    for dtype in ("uint8", "float32"):
        write_file(tmp_path / f"{dtype}.h5", dtype)
    out = default_path(tmp_path / "uint8.h5", name)
    ran = done("export", tmp_path / "uint8.h5", "--format", name)
    assert ran.out == f"{out}\n"
    files = [path for path in [out, *out.rglob("*")] if path.is_file()]
    content = {path: path.read_bytes() for path in files}
    done("export", tmp_path / "uint8.h5", "--format", name)
    assert "--force" in refused("export", tmp_path / "float32.h5", "--format", name, "--out", out)
    assert {path: path.read_bytes() for path in files} == content
    done("export", tmp_path / "float32.h5", "--format", name, "--out", out, "--force")
    changed = {path for path in files if path.read_bytes() != content[path]}
    assert changed and sorted(path.name for path in tmp_path.iterdir()) == sorted(["float32.h5", out.name, "uint8.h5"])


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("name", ["madry", "imagefolder"])
def test_a_folder_of_other_things_is_never_replaced(tmp_path: Path, name: str, force: bool) -> None:
    write_file(tmp_path / "a.h5")
    out = export_dataset(tmp_path / "a.h5", name, tmp_path / "a")
    (out / "thesis").mkdir()
    (out / "thesis" / "chapter.tex").write_text("long")
    before = trace(tmp_path)
    for place in (out, tmp_path, out / "thesis" / "chapter.tex"):
        with pytest.raises(UserError, match=r"holds other files|is a file"):
            export_dataset(tmp_path / "a.h5", name, place, force)
    assert trace(tmp_path) == before


@pytest.mark.parametrize("name", FORMATS)
def test_the_dataset_itself_is_never_replaced(tmp_path: Path, name: str) -> None:
    write_file(tmp_path / "a.h5")
    before = trace(tmp_path)
    with pytest.raises(UserError, match="the dataset itself"):
        export_dataset(tmp_path / "a.h5", name, tmp_path / "a.h5", force=True)
    assert trace(tmp_path) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device"), None])
@pytest.mark.parametrize("name", FORMATS)
def test_stopped_half_way(
    tmp_path: Path, name: str, error: BaseException | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file(tmp_path / "a.h5")
    out = export_dataset(tmp_path / "a.h5", name, default_path(tmp_path / "a.h5", name))
    before, chosen = trace(tmp_path), FORMATS[name]

    def stopped(*places: Any) -> None:
        chosen.write(*places)
        if error:
            raise error
        # No error, but another dataset under the name it had.
        (tmp_path / "a.h5").unlink()
        write_file(tmp_path / "a.h5", "float32")

    monkeypatch.setitem(FORMATS, name, replace(chosen, write=stopped))
    for place in (out, tmp_path / f"new{chosen.ending}"):
        with pytest.raises((KeyboardInterrupt, UserError)) as caught:
            export_dataset(tmp_path / "a.h5", name, place, force=True)
        assert caught.type is type(error) or "space" in str(caught.value) or "was replaced" in str(caught.value)
        if not error:
            return
        assert trace(tmp_path) == before


# What is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("export {det}", "--format"),
        ("export {det} --format npy", "'npz'"),
        ("export nowhere.h5 --format npz", "nowhere.h5"),
        ("export . --format npz", "folder"),
        ("export {model} --format npz", "featuregen wrote"),
        ("export {det} --format npz --out it.h5", ".npz"),
        ("export {det} --format parquet --out it", ".parquet"),
        ("export two.h5 --format imagefolder", "2 channels"),
        ("export two.h5 --format parquet", "2 channels"),
        ("export two.h5 --format npz --out folder.npz", "folder.npz is a folder"),
        ("export cut.h5 --format npz", "cut.h5"),
    ],
)
def test_wrong_words(tmp_path: Path, words: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_file(Path("two.h5"), channels=2)
    Path("cut.h5").write_bytes(Path("two.h5").read_bytes()[:9000])
    Path("folder.npz").mkdir()
    names = {"det": dataset("det"), "model": model("standard")}
    before = sorted(tmp_path.rglob("*"))
    assert why in refused(*(word.format(**names) for word in words.split()))
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unknown_format_is_told_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'parquet'"):
        export_dataset(tmp_path / "a.h5", "parket", tmp_path / "a.parket")


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_file(tmp_path / "a.h5")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError) as caught:
        export_dataset(tmp_path / "a.h5", "parquet", tmp_path / "a.parquet")
    assert "pip install pyarrow" in store_files.one_sentence(caught)
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_more_than_three_channels_in_the_formats_that_take_them(tmp_path: Path) -> None:
    columns = write_file(tmp_path / "a.h5", channels=5)
    keep: list[Callable[[], Any]] = [
        lambda: np.load(export_dataset(tmp_path / "a.h5", "npz", tmp_path / "a.npz"))["images"],
        lambda: torch.load(export_dataset(tmp_path / "a.h5", "madry", tmp_path / "a") / "CIFAR_ims")[0] * 255,
    ]
    for read in keep:
        assert np.array_equal(np.rint(np.asarray(read())), columns["images"])
