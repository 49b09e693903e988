"""Reading files, whole, broken and hostile ones."""

from __future__ import annotations

import base64
import io
import multiprocessing
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from featuregen.errors import UserError
from featuregen.storage.schema import COLUMNS, CorruptFile, column_dtype
from featuregen.storage.torch_dataset import FeatureDataset
from featuregen.storage.verify import check_file
from tests.helpers.dataset_files import (
    CLASSES,
    ROWS,
    SHAPE,
    attribute,
    column,
    edited,
    failed,
    header,
    one_sentence,
    write,
)


def test_dataset(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path, header(dtype="uint8"))
    data = FeatureDataset(path)
    image, label = data[ROWS - 1]
    assert image.shape == SHAPE and image.dtype == torch.float32 and isinstance(label, int)
    assert torch.equal(data[-1][0], image) and torch.equal(data[np.int64(9)][0], image)
    assert data.images.shape == (ROWS, *SHAPE) and data.labels.dtype == torch.int64
    assert torch.equal(data.images[-1], image) and torch.equal(data[-1][0], image)
    for bad in (ROWS, -ROWS - 1):
        with pytest.raises(IndexError):
            data[bad]
    assert len(list(iter(data))) == len(data) == ROWS
    assert "det" in repr(data) and "10 images" in repr(data) and "a.h5" in repr(data)
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy[3][0], data[3][0])


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_loader_workers(tmp_path: Path, method: str) -> None:
    path = tmp_path / "a.h5"
    write(path)
    data = FeatureDataset(path)
    data[0]
    context = multiprocessing.get_context(method)
    seen = list(DataLoader(data, batch_size=3, num_workers=2, multiprocessing_context=context))
    assert torch.equal(torch.cat([images for images, _ in seen]), data.images)
    assert torch.equal(torch.cat([labels for _, labels in seen]), data.labels)


def brighten_(image: torch.Tensor) -> torch.Tensor:
    """In place, as a careless transform works."""
    return image.mul_(0).add_(1)


def test_a_transform_changes_what_indexing_returns_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "a.h5")
    unchanged, data = FeatureDataset(tmp_path / "a.h5"), FeatureDataset(tmp_path / "a.h5", transform=brighten_)
    white = torch.ones(SHAPE)
    assert torch.equal(data[3][0], white) and data[3][1] == unchanged[3][1]
    assert torch.equal(data.images, unchanged.images) and torch.equal(data.fetch(slice(3, 5)), unchanged.images[3:5])
    assert torch.equal(data[3][0], white) and torch.equal(data.images, unchanged.images)
    assert torch.equal(pickle.loads(pickle.dumps(data))[3][0], white)
    assert isinstance(FeatureDataset(tmp_path / "a.h5", transform=lambda image: image.sum().item())[0][0], float)


def test_rows_are_fetched_in_any_order(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", header(dtype="uint8"))
    data = FeatureDataset(tmp_path / "a.h5")
    rows = np.array([7, 0, 7])
    assert torch.equal(data.fetch(rows), data.images[rows])
    assert torch.equal(data.lazy_images()[torch.tensor([2, 1])], data.images[[2, 1]])


def shown(data: FeatureDataset) -> list[np.ndarray[Any, Any]]:
    """The pictures in the HTML of a dataset."""
    pngs = re.findall(r'src="data:image/png;base64,([^"]+)"', data._repr_html_())
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(png)))) for png in pngs]


def test_a_notebook_shows_a_few_images_one_per_class(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", header(dtype="uint8"))
    data = FeatureDataset(tmp_path / "a.h5")
    text, images = data._repr_html_(), shown(data)
    assert len(images) == ROWS and images[0].shape == (5, 5)
    first = [int(np.flatnonzero(data.labels.numpy() == label)[0]) for label in range(CLASSES)]
    for image, row in zip(images, first, strict=False):
        np.testing.assert_array_equal(image, np.rint(data.images[row, 0].numpy() * 255))
    captions = re.findall("<figcaption>(.*?)</figcaption>", text)
    assert captions[:CLASSES] == list(data.info.classes) and "toy, train" in text and "100.0%" in text and "det" in text


def test_a_notebook_reads_only_the_rows_it_shows(tmp_path: Path) -> None:
    head = header(rows=300, image_shape=(4, 6, 5), base={})
    columns = {name: np.zeros(300, column_dtype(name, "float32")) for name in COLUMNS}
    columns["images"] = np.full((300, 4, 6, 5), 0.5, "f4")
    columns["labels"][250:] = 1
    columns["images"][20:250] = np.nan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("featuregen.storage.writer.value_problem", lambda *_: None)
        write(tmp_path / "a.h5", head, columns, size=300)
    images = shown(FeatureDataset(tmp_path / "a.h5"))
    assert [image.shape for image in images] == [(6, 5)] * 10 and int(images[0][0, 0]) == 128
    column(tmp_path / "a.h5", "images", np.nan)
    assert "image 2 is damaged" in FeatureDataset(tmp_path / "a.h5")._repr_html_()


def test_a_notebook_runs_nothing_of_a_file(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>"
    names = (f"{bad}{'x' * 900}", '"><img src=x onerror=alert(1)>', "a&b")
    write(tmp_path / "a.h5", header(classes=names, kind=bad, base={"name": bad}, source_model={"architecture": bad}))
    text = FeatureDataset(tmp_path / "a.h5")._repr_html_()
    assert "<script" not in text and "<img src=x" not in text and "&lt;script&gt;" in text and "a&amp;b" in text
    assert "xxx" in text and "x" * 100 not in text


def test_replaced_file_is_noticed(tmp_path: Path) -> None:
    write(tmp_path / "a.h5")
    data = FeatureDataset(tmp_path / "a.h5")
    write(tmp_path / "b.h5", header(citation="Other."))
    os.replace(tmp_path / "b.h5", tmp_path / "a.h5")
    with pytest.raises(UserError, match="replaced"):
        data[0]


def other_pixels(path: Path) -> Path:
    """A dataset with other images under the same record: the digests of the first are written into it."""
    other = path.with_name("other.h5")
    shutil.copy(path, other)
    with edited(other) as root:
        root["images"][:] = 0.5
    return other


@pytest.mark.parametrize("how", ["another in its place", "written over"])
def test_no_digest_in_a_file_makes_it_another_one(tmp_path: Path, how: str) -> None:
    path = tmp_path / "a.h5"
    write(path)
    other, data = other_pixels(path), FeatureDataset(path)
    images = FeatureDataset(path).images
    if how == "another in its place":
        os.replace(other, path)
    else:
        # After the first read, so the file is open.
        assert torch.equal(data.fetch(slice(0, 1))[0], images[0])
        path.write_bytes(other.read_bytes())
    for read in (lambda: data.images, lambda: data[0], lambda: data.columns("labels"), lambda: data.fetch(slice(2))):
        with pytest.raises(UserError, match="replaced while it was in use"):
            read()


def test_other_labels_under_the_same_record_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path)
    shutil.copy(path, tmp_path / "good.h5")
    column(path, "labels", 1)
    data = FeatureDataset(path)
    os.replace(tmp_path / "good.h5", path)
    with pytest.raises(UserError, match="replaced while it was in use"):
        data[0]


def test_a_copy_in_its_place_will_do(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path)
    data, images = FeatureDataset(path), FeatureDataset(path).images
    shutil.copy(path, tmp_path / "copy.h5")
    os.replace(tmp_path / "copy.h5", path)
    assert torch.equal(data.images, images)
    path.chmod(0o600)
    assert torch.equal(data[1][0], images[1])


def test_workers_notice_a_file_in_the_place_of_theirs(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path)
    other, data = other_pixels(path), FeatureDataset(path)
    workers: DataLoader[Any] = DataLoader(data, batch_size=5, num_workers=2, multiprocessing_context="fork")
    first = torch.cat([images for images, _ in workers])
    assert torch.equal(first, FeatureDataset(path).images)
    os.replace(other, path)
    # New workers with every epoch, which open the file themselves.
    with pytest.raises(UserError, match="replaced while it was in use"):
        list(workers)


def recreate(path: Path, name: str, data: Any, **options: Any) -> None:
    with edited(path) as root:
        del root[name]
        root.create_dataset(name, data=data, **{"chunks": True, "fletcher32": True, **options})


def external_link(path: Path) -> None:
    other = path.with_name("secret.h5")
    shutil.copy(path, other)
    with edited(path) as root:
        del root["labels"]
        root["labels"] = h5py.ExternalLink(str(other), "labels")


def soft_link(path: Path) -> None:
    with edited(path) as root:
        del root["labels"]
        root["labels"] = h5py.SoftLink("/source_labels")


def external_storage(path: Path) -> None:
    secret = path.with_name("secret")
    secret.write_bytes(bytes(8 * ROWS))
    with edited(path) as root:
        del root["labels"]
        root.create_dataset("labels", (ROWS,), "<i8", external=[(str(secret), 0, 8 * ROWS)])


def virtual(path: Path) -> None:
    other = path.with_name("secret.h5")
    shutil.copy(path, other)
    layout = h5py.VirtualLayout((ROWS,), "<i8")
    layout[:] = h5py.VirtualSource(str(other), "labels", (ROWS,))
    with edited(path) as root:
        del root["labels"]
        root.create_virtual_dataset("labels", layout)


def unallocated(path: Path) -> None:
    with edited(path) as root:
        for name in COLUMNS:
            shape, dtype = (10**11, *root[name].shape[1:]), root[name].dtype
            del root[name]
            root.create_dataset(name, shape, dtype, chunks=(10**6 // 25, *shape[1:]), fletcher32=True)


def group(path: Path) -> None:
    with edited(path) as root:
        del root["labels"]
        root.create_group("labels")


def dropped(path: Path, name: str) -> None:
    with edited(path) as root:
        del root[name]


def without(path: Path, name: str) -> None:
    with edited(path) as root:
        del root.attrs[name]


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def other_hdf5(path: Path) -> None:
    h5py.File(path, "w").close()


STRANGERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda path: path.unlink(), "does not exist"),
    "folder": (folder, "folder"),
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "text": (lambda path: path.write_text("hello"), "no HDF5"),
    "torn header": (lambda path: path.write_bytes(path.read_bytes()[:40]), "cannot be read"),
    "other HDF5": (other_hdf5, "not one of featuregen's"),
    "other format": (lambda path: attribute(path, "format", "x"), "not one of featuregen's"),
    "newer": (lambda path: attribute(path, "format_version", 2), "version 2"),
}
BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (lambda path: os.truncate(path, path.stat().st_size // 2), "damaged"),
    "column missing": (lambda path: dropped(path, "norm"), "no column 'norm'"),
    "attribute missing": (lambda path: without(path, "recipe"), "no attribute 'recipe'"),
    "wrong dtype": (lambda path: recreate(path, "labels", np.zeros(ROWS, "<i4")), "int32"),
    "big endian": (lambda path: recreate(path, "labels", np.zeros(ROWS, ">i8")), "labels"),
    "other rows": (lambda path: recreate(path, "labels", np.zeros(ROWS - 1, "<i8")), "labels"),
    "three dimensions": (lambda path: recreate(path, "images", np.zeros((ROWS, 5, 5), "f4")), "(N, C, H, W)"),
    "compressed": (lambda path: recreate(path, "labels", np.zeros(ROWS, "<i8"), compression="gzip"), "compression"),
    "contiguous": (lambda path: recreate(path, "norm", np.zeros(ROWS, "<f4"), chunks=None, fletcher32=None), "chunks"),
    "bad JSON": (lambda path: attribute(path, "recipe", "{oops"), "not valid JSON"),
    "deep JSON": (lambda path: attribute(path, "recipe", "[" * 100_000), "not valid JSON"),
    "JSON list": (lambda path: attribute(path, "recipe", "[]"), "expected 'object'"),
    "wrong attribute": (lambda path: attribute(path, "kind", 3), "'kind'"),
    "reference": (lambda path: attribute(path, "kind", np.zeros(3, [("a", "i4")])), "'kind'"),
    "external link": (external_link, "link"),
    "soft link": (soft_link, "link"),
    "external storage": (external_storage, "inside the file"),
    "virtual": (virtual, "inside the file"),
    "unallocated": (unallocated, "does not hold that much"),
    "group": (group, "labels"),
}
VALUES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "label": (lambda path: column(path, "labels", CLASSES), "between 0 and 2"),
    "NaN pixel": (lambda path: column(path, "images", np.nan), "nan"),
    "bright pixel": (lambda path: column(path, "images", 1.5), "[0, 1]"),
}


@pytest.mark.parametrize("name", [*STRANGERS, *BROKEN, *VALUES])
def test_bad_input_is_one_sentence(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.h5"
    write(path)
    damage, message = {**STRANGERS, **BROKEN, **VALUES}[name]
    damage(path)
    with pytest.raises(UserError) as error:
        FeatureDataset(path).images.sum()
    text = one_sentence(error)
    assert message in text and str(path) in text
    if name in STRANGERS:
        assert not isinstance(error.value, CorruptFile)
        with pytest.raises(UserError):
            check_file(path)
    else:
        assert isinstance(error.value, CorruptFile)
        assert failed(path)


def test_bad_pixel_in_one_row(tmp_path: Path) -> None:
    write(tmp_path / "a.h5")
    column(tmp_path / "a.h5", "images", np.nan)
    data = FeatureDataset(tmp_path / "a.h5")
    data[1]
    with pytest.raises(UserError, match="image 2 is damaged"):
        data[2]
