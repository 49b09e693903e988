"""A file of version 1 keeps opening: one is kept in the repository, as the first featuregen wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import featuregen.storage.reader
import featuregen.storage.schema
from featuregen.data.base_dataset import ImageSplit
from featuregen.errors import UserError
from featuregen.storage.reader import read_info
from featuregen.storage.schema import COLUMNS, FORMAT_VERSION, Header
from featuregen.storage.torch_dataset import FeatureDataset
from featuregen.storage.verify import check_against_base
from featuregen.storage.writer import Writer
from tests.helpers.dataset_files import CREATED, attribute, failed, one_sentence

GOLDEN = Path(__file__).parents[1] / "golden" / "version-1.h5"
CONTENT = "0a64ed290c31a26752a8306b046efc39357370d7349a95b2dd74a9081242b2a5"
RECORD = "49e80bdcd3b06a37d87726d7e5b0cdbfd34976c52aed1f21d9ecf526b8860821"
CLASSES = ("nought", "one", "zwölf")


def base_set() -> ImageSplit:
    """Six images of 2×2 pixels in three channels, by arithmetic alone, so that they are the same for ever."""
    images = (np.arange(6 * 2 * 2 * 3) * 37 % 211).astype(np.uint8).reshape(6, 2, 2, 3)
    return ImageSplit(images, np.arange(6, dtype=np.int64) % 3)


def golden_header() -> Header:
    base = base_set()
    return Header(
        kind="det",
        rows=4,
        image_shape=(3, 2, 2),
        dtype="uint8",
        classes=CLASSES,
        recipe={"seed": 0, "synthesis": {"norm": "l2", "eps": 0.1, "steps": 1}},
        base={"name": "toy", "split": "train", "rows": len(base), "sha256": base.sha256},
        source_model={"architecture": "convnet", "weights_sha256": "ab" * 32},
        software={"featuregen": "0.1.0"},
        citation="Nobody: Zwölf Zahlen. 2026.",
        config={"data": {"name": "toy"}},
    )


def golden_columns() -> dict[str, np.ndarray[Any, Any]]:
    base, index = base_set(), np.array([0, 2, 3, 5])
    images = base.images[index].transpose(0, 3, 1, 2).copy()
    images[:, 1, 0, 1] += 25
    true = base.labels[index]
    return {
        "images": images,
        "labels": (true + 1) % 3,
        "source_labels": true,
        "index": index,
        "start_index": index,
        "norm": np.full(4, 25 / 255, dtype="<f4"),
        "objective": np.array([0.5, 0.25, 0.125, 2.0], dtype="<f4"),
        "source_pred": np.array([1, 0, 1, 2]),
    }


def write_as_now(path: Path) -> str:
    with Writer.open(path, golden_header()) as writer:
        writer.append(golden_columns())
        return writer.finish(CREATED)


@pytest.fixture(params=[FORMAT_VERSION, FORMAT_VERSION + 1], ids=["as it is", "one version later"])
def version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """featuregen's own version of the format: today's, and one that has grown."""
    for module in (featuregen.storage.schema, featuregen.storage.reader):
        monkeypatch.setattr(module, "FORMAT_VERSION", request.param)
    return int(request.param)


def test_a_file_of_version_1_opens_and_keeps_every_promise(version: int) -> None:
    info = read_info(GOLDEN)
    assert info.format_version == 1 <= version
    assert info.header() == golden_header()
    assert (info.content_sha256, info.record_sha256) == (CONTENT, RECORD)
    assert (info.success_rate, info.created) == (0.75, CREATED)
    assert failed(GOLDEN) == []
    base = base_set()
    assert all(check.ok for check in check_against_base(GOLDEN, base.images, base.labels))
    data = FeatureDataset(GOLDEN)
    wanted = golden_columns()
    assert torch.equal(data.images, torch.from_numpy(wanted["images"].astype("f4") / np.float32(255)))
    assert data.labels.tolist() == wanted["labels"].tolist()


def test_plain_h5py_reads_version_1() -> None:
    assert GOLDEN.stat().st_size < 40_000
    with h5py.File(GOLDEN) as root:
        assert set(root) == set(COLUMNS) and root.attrs["format_version"] == 1
        for name, values in golden_columns().items():
            np.testing.assert_array_equal(root[name][:], values)


def test_the_same_rows_have_the_same_digest_today(tmp_path: Path) -> None:
    """A change of this digest is a new version of the format, and a new file beside the old one."""
    assert write_as_now(tmp_path / "now.h5") == CONTENT
    assert read_info(tmp_path / "now.h5").record_sha256 == RECORD


def test_a_later_version_is_refused_until_its_reader_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "later.h5"
    with monkeypatch.context() as later:
        for module in (featuregen.storage.schema, featuregen.storage.reader):
            later.setattr(module, "FORMAT_VERSION", FORMAT_VERSION + 1)
        assert write_as_now(path) != CONTENT
        assert read_info(path).format_version == FORMAT_VERSION + 1 and failed(path) == []
    for reading in (read_info, FeatureDataset, failed):
        with pytest.raises(UserError) as error:
            reading(path)
        assert "has format version 2, and this featuregen reads 1; upgrade it." in one_sentence(error)


def test_what_may_come_without_a_new_version(tmp_path: Path) -> None:
    """Unknown attributes, kinds and keys are passed over."""
    head = golden_header()
    path = tmp_path / "more.h5"
    recipe = {**head.recipe, "later": [1, {"and": "deeper"}]}
    changed = Header(**{**vars(head), "kind": "turned", "recipe": recipe})
    with Writer.open(path, changed) as writer:
        writer.append(golden_columns())
        writer.finish(CREATED)
    assert failed(path) == [] and read_info(path).recipe["later"] == [1, {"and": "deeper"}]
    attribute(path, "of-later", "words")
    assert failed(path) == ["record_sha256"]
    assert len(FeatureDataset(path)) == 4
