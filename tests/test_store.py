"""The HDF5 file: written, resumed, refused, read, checked, and broken in every way we could think of."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from featuregen.errors import UserError
from featuregen.runtime import RowRandom
from featuregen.store import (
    COLUMNS,
    Check,
    Damaged,
    FeatureDataset,
    Header,
    Writer,
    check_against_base,
    check_file,
    read_columns,
    read_images,
    read_info,
)
from featuregen.store.format import column_dtype, content_digest, record_digest
from featuregen.store.journal import partial_path
from featuregen.store.reader import attributes_of

ROWS, BATCH, SHAPE, CLASSES = 10, 4, (1, 5, 5), 3
SEED, BASE_ROWS, EPS = 7, 20, 0.5
CREATED = "2026-01-02T03:04:05Z"
Columns = dict[str, np.ndarray[Any, Any]]


def header(**changes: Any) -> Header:
    plain = Header(
        kind="det",
        rows=ROWS,
        image_shape=SHAPE,
        dtype="float32",
        classes=("nought", "one", "zwölf"),
        recipe={"seed": SEED, "synthesis": {"norm": "l2", "eps": EPS, "steps": 3}},
        base={"name": "toy", "split": "train", "rows": BASE_ROWS, "sha256": "00"},
        source_model={"architecture": "convnet", "weights_sha256": "ab"},
        software={"torch": "2", "device": "cpu"},
        citation="Someone, 2026.",
    )
    return replace(plain, **changes)


def base_set() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    channels, height, width = SHAPE
    return rng.integers(0, 256, (BASE_ROWS, height, width, channels), np.uint8), rng.integers(0, CLASSES, BASE_ROWS)


def columns_of(head: Header) -> Columns:
    """Rows that keep every rule of their kind."""
    rng = np.random.default_rng(1)
    images, labels = base_set()
    index = np.sort(rng.permutation(BASE_ROWS)[: head.rows]).astype("<i8")
    base = images[index].transpose(0, 3, 1, 2) / 255
    noise = rng.normal(size=base.shape)
    noise *= 0.4 / np.linalg.norm(noise.reshape(len(noise), -1), axis=1)[:, None, None, None]
    stored = np.clip(base + noise, 0, 1)
    dtype = column_dtype("images", head.dtype)
    stored = np.floor(stored * 255).astype(dtype) if head.dtype == "uint8" else stored.astype(dtype)
    pixels = stored / 255 if head.dtype == "uint8" else stored.astype("f8")
    true = labels[index]
    targets = {"det": (true + 1) % CLASSES, "rand": RowRandom(SEED, "target").integers(index, CLASSES)}
    wanted = targets.get(head.kind, true)
    start = {"robust": RowRandom(SEED, "start").integers(index, BASE_ROWS), "robust-noise": np.full(len(index), -1)}
    return {
        "images": stored,
        "labels": wanted.astype("<i8"),
        "source_labels": true.astype("<i8"),
        "index": index,
        "start_index": start.get(head.kind, index).astype("<i8"),
        "norm": np.linalg.norm((pixels - base).reshape(len(base), -1), axis=1).astype("<f4"),
        "objective": rng.random(len(index)).astype("<f4"),
        "source_pred": wanted.astype("<i8"),
    }


def batches(columns: Columns, start: int = 0, size: int = BATCH) -> Iterator[Columns]:
    for first in range(start, len(columns["labels"]), size):
        yield {name: values[first : first + size] for name, values in columns.items()}


def write(
    path: Path, head: Header | None = None, changes: Columns | None = None, *, size: int = BATCH, rate: float = 1.0
) -> str:
    head = head or header()
    columns = {**columns_of(head), **(changes or {})}
    with Writer.open(path, head) as writer:
        for batch in batches(columns, writer.rows_done, size):
            writer.append(batch)
        return writer.finish(rate, CREATED)


def failed(path: Path) -> list[str]:
    return [check.name for check in check_file(path) if not check.ok]


def one_sentence(error: pytest.ExceptionInfo[UserError]) -> str:
    text = str(error.value)
    assert "\n" not in text and text.endswith(".") and len(text) > 20
    return text


# Writing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_round_trip(tmp_path: Path, dtype: str) -> None:
    path, head = tmp_path / "deep" / "er" / "det.h5", header(dtype=dtype)
    digest = write(path, head)
    wanted = columns_of(head)
    info = read_info(path)
    assert info.header() == head
    assert (info.content_sha256, info.created, info.success_rate) == (digest, CREATED, 1.0)
    assert info.value_range == ((0, 255) if dtype == "uint8" else (0, 1)) and info.size == path.stat().st_size
    for name, values in read_columns(path, list(COLUMNS)).items():
        assert values.dtype == wanted[name].dtype
        np.testing.assert_array_equal(values, wanted[name])
    pixels = wanted["images"].astype("f4") / (np.float32(255) if dtype == "uint8" else np.float32(1))
    images = read_images(path, 3, 7)
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images, pixels[3:7])
    assert failed(path) == []
    assert [check for check in check_against_base(path, *base_set()) if not check.ok] == []
    assert os.listdir(path.parent) == ["det.h5"]


def test_only_plain_row_aligned_data_sets(tmp_path: Path) -> None:
    write(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as root:
        assert set(root) == set(COLUMNS)
        assert all(root[name].shape[0] == ROWS and root[name].fletcher32 and not root[name].attrs for name in COLUMNS)
        assert root["images"].compression is None
        assert json.loads(root.attrs["recipe"])["seed"] == SEED


def test_same_content_same_bytes(tmp_path: Path) -> None:
    digests = {write(tmp_path / "a.h5", size=4), write(tmp_path / "b.h5", size=10), write(tmp_path / "c.h5", size=1)}
    assert len(digests) == 1
    assert len({(tmp_path / name).read_bytes() for name in ("a.h5", "b.h5", "c.h5")}) == 1


def test_content_digest_ignores_software_and_time(tmp_path: Path) -> None:
    first = write(tmp_path / "a.h5")
    assert write(tmp_path / "b.h5", header(software={"torch": "9"})) == first
    assert write(tmp_path / "c.h5", header(citation="Other.")) != first
    assert write(tmp_path / "d.h5", rate=0.5) != first
    assert read_info(tmp_path / "a.h5").record_sha256 != read_info(tmp_path / "b.h5").record_sha256


def test_attributes_beyond_64_kib(tmp_path: Path) -> None:
    head = header(classes=tuple(f"class {i}" for i in range(20_000)), recipe={"seed": 7, "long": "x" * 1_000_000})
    columns = {**columns_of(head), "labels": np.full(ROWS, 19_999), "source_pred": np.full(ROWS, 19_999)}
    columns["source_labels"] = np.full(ROWS, 19_998)
    write(tmp_path / "big.h5", head, columns)
    assert read_info(tmp_path / "big.h5").header() == head
    assert failed(tmp_path / "big.h5") == []


# Stopping and going on -----------------------------------------------------------------------------


def killed_after_two_batches(path: Path) -> None:
    writer = Writer.open(path, header())
    for batch in list(batches(columns_of(header())))[:2]:
        writer.append(batch)
    os.kill(os.getpid(), signal.SIGKILL)


def test_killed_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    run = multiprocessing.get_context("fork").Process(target=killed_after_two_batches, args=(path,))
    run.start()
    run.join()
    assert run.exitcode == -signal.SIGKILL
    assert not path.exists()
    with pytest.raises(UserError, match="unfinished: run the same command again"):
        FeatureDataset(partial_path(path))
    with Writer.open(path, header()) as writer:
        assert (writer.rows_done, writer.complete) == (2 * BATCH, False)
    assert write(path) == write(tmp_path / "whole.h5")
    assert path.read_bytes() == (tmp_path / "whole.h5").read_bytes()


@pytest.mark.parametrize("done", [0, 1, 2, 3])
@pytest.mark.parametrize("cut", [0, 1, 50])
def test_torn_batch_costs_that_batch_only(tmp_path: Path, done: int, cut: int) -> None:
    path = tmp_path / "a.h5"
    whole = list(batches(columns_of(header())))
    with Writer.open(path, header()) as writer:
        sizes = [partial_path(path).stat().st_size]
        for batch in whole[:done]:
            writer.append(batch)
            sizes.append(partial_path(path).stat().st_size)
    os.truncate(partial_path(path), sizes[-1] - cut if done else sizes[0])
    with Writer.open(path, header()) as writer:
        kept = done - 1 if cut and done else done
        assert writer.rows_done == min(ROWS, kept * BATCH)
    assert write(path) == write(tmp_path / "whole.h5")
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "whole.h5"]


def test_interrupt_keeps_the_batches(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with pytest.raises(KeyboardInterrupt), Writer.open(path, header()) as writer:
        writer.append(next(batches(columns_of(header()))))
        raise KeyboardInterrupt
    with Writer.open(path, header()) as writer:
        assert writer.rows_done == BATCH


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data[:-60] + bytes([data[-60] ^ 1]) + data[-59:], ""),
        (lambda data: data[:600] + bytes([data[600] ^ 1]) + data[601:], "damaged"),
        (lambda data: b"x" + data[1:], "damaged"),
        (lambda data: b"", ""),
    ],
)
def test_damaged_partial_is_dropped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[bytes], bytes], said: str
) -> None:
    path = tmp_path / "a.h5"
    with Writer.open(path, header()) as writer:
        for batch in list(batches(columns_of(header())))[:2]:
            writer.append(batch)
    partial_path(path).write_bytes(change(partial_path(path).read_bytes()))
    capsys.readouterr()
    assert write(path) == write(tmp_path / "whole.h5")
    assert said in capsys.readouterr().err


def test_partial_with_other_settings_is_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.h5"
    with Writer.open(path, header(recipe={"seed": 1})) as writer:
        writer.append(next(batches(columns_of(header()))))
    with Writer.open(path, header()) as writer:
        assert writer.rows_done == 0
    assert "other settings" in capsys.readouterr().err


# Refusing ------------------------------------------------------------------------------------------


def test_complete_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path)
    before = path.read_bytes()
    writer = Writer.open(path, header(software={"torch": "other"}))
    assert writer.complete and writer.rows_done == ROWS
    with pytest.raises(UserError, match="finished"):
        writer.append(columns_of(header()))
    assert os.listdir(tmp_path) == ["a.h5"] and path.read_bytes() == before


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"kind": "rand"}, 'kind is "det" there and "rand" here'),
        ({"recipe": {"seed": SEED, "synthesis": {"norm": "l2", "eps": 1, "steps": 3}}}, "recipe.synthesis.eps is 0.5"),
        ({"dtype": "float16"}, "dtype"),
        ({"source_model": {"weights_sha256": "cd"}}, "source model's weights"),
    ],
)
def test_other_output_needs_force(tmp_path: Path, other: dict[str, Any], said: str) -> None:
    path = tmp_path / "a.h5"
    write(path)
    before = path.read_bytes()
    with pytest.raises(UserError, match="--force") as error:
        Writer.open(path, header(**other))
    assert said in one_sentence(error)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.h5"]
    head = header(**other)
    with Writer.open(path, head, force=True) as writer:
        writer.append(columns_of(head))
        assert path.read_bytes() == before
        writer.finish(1.0)
    assert read_info(path).header() == head


@pytest.mark.parametrize("content", [b"my thesis", b"", b"\x89HDF\r\n\x1a\nbut not really"])
def test_strange_file_needs_force(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(content)
    with pytest.raises(UserError, match="--force") as error:
        Writer.open(path, header())
    one_sentence(error)
    assert path.read_bytes() == content
    with Writer.open(path, header(), force=True) as writer:
        assert not writer.complete


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with Writer.open(path, header()) as writer:
        with pytest.raises(UserError, match="another run") as error:
            Writer.open(path, header(), force=True)
        one_sentence(error)
        writer.append(columns_of(header()))
        writer.finish(1.0)
    assert os.listdir(tmp_path) == ["a.h5"]


def test_bad_places_are_refused_at_open(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "b.h5.partial").mkdir()
    for path in (tmp_path, tmp_path / "file" / "a.h5", tmp_path / "b.h5"):
        with pytest.raises(UserError) as error:
            Writer.open(path, header())
        assert str(tmp_path) in one_sentence(error)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied"):
        Writer.open(tmp_path / "a.h5", header())


def test_no_room_is_said_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="free") as error:
        Writer.open(tmp_path / "a.h5", header(rows=10**12))
    one_sentence(error)


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """Files cannot grow past this, as on a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_full_disk_keeps_what_is_done(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    first, second, third = batches(columns_of(header()))
    with Writer.open(path, header()) as writer:
        writer.append(first)
        with (
            file_limit(partial_path(path).stat().st_size + 100),
            pytest.raises(UserError, match="4 rows are kept") as error,
        ):
            writer.append(second)
        one_sentence(error)
    with Writer.open(path, header()) as writer:
        assert writer.rows_done == BATCH
        writer.append(second)
        writer.append(third)
        with file_limit(100_000), pytest.raises(UserError, match="all rows are kept") as error:
            writer.finish(1.0, CREATED)
        one_sentence(error)
        assert os.listdir(tmp_path) == ["a.h5.partial"]
        assert writer.finish(1.0, CREATED) == write(tmp_path / "whole.h5")


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("labels", np.full(ROWS, CLASSES), "between 0 and 2"),
        ("labels", np.full(ROWS, -1), "between 0 and 2"),
        ("labels", np.zeros(ROWS, "i4"), "int64"),
        ("source_pred", np.full(ROWS, CLASSES), "between -1 and 2"),
        ("images", np.full((ROWS, *SHAPE), np.nan, "f4"), "nan"),
        ("images", np.full((ROWS, *SHAPE), 1.01, "f4"), "[0, 1]"),
        ("images", np.zeros((ROWS, 5, 5, 1), "f4"), "shape"),
        ("norm", np.full(ROWS, -1, "f4"), "not negative"),
        ("index", np.full(ROWS, -2), "at least -1"),
        ("index", np.zeros(ROWS - 1, "i8"), "shape"),
    ],
)
def test_append_refuses_bad_rows(tmp_path: Path, column: str, values: np.ndarray[Any, Any], said: str) -> None:
    with Writer.open(tmp_path / "a.h5", header()) as writer:
        with pytest.raises(UserError) as error:
            writer.append({**columns_of(header()), column: values})
        assert said in one_sentence(error) and column in str(error.value)
        assert writer.rows_done == 0


def test_protocol_mistakes(tmp_path: Path) -> None:
    columns = columns_of(header())
    with Writer.open(tmp_path / "a.h5", header()) as writer:
        with pytest.raises(UserError, match="norm"):
            writer.append({name: values for name, values in columns.items() if name != "norm"})
        writer.append(columns)
        with pytest.raises(UserError, match="1 to 0"):
            writer.append(columns)
        with pytest.raises(UserError, match="share"):
            writer.finish(1.5)
    with Writer.open(tmp_path / "b.h5", header()) as writer, pytest.raises(UserError, match="0 of 10"):
        writer.finish(1.0)
    for change in ({"dtype": "int8"}, {"rows": 0}, {"classes": ("one",)}, {"recipe": {"x": float("nan")}}):
        with pytest.raises(UserError):
            header(**change)


# Reading -------------------------------------------------------------------------------------------


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


def test_replaced_file_is_noticed(tmp_path: Path) -> None:
    write(tmp_path / "a.h5")
    data = FeatureDataset(tmp_path / "a.h5")
    write(tmp_path / "b.h5", rate=0.5)
    os.replace(tmp_path / "b.h5", tmp_path / "a.h5")
    with pytest.raises(UserError, match="replaced"):
        data[0]


def sealed(path: Path) -> None:
    """Make the digests agree again, as a liar would."""
    with h5py.File(path, "r+") as root:
        attributes = attributes_of(root, path)
        root.attrs["content_sha256"] = attributes["content_sha256"] = content_digest(root, attributes)
        root.attrs["record_sha256"] = record_digest(attributes)


@contextmanager
def edited(path: Path) -> Iterator[h5py.File]:
    with h5py.File(path, "r+") as root:
        yield root


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


def column(path: Path, name: str, value: Any) -> None:
    with edited(path) as root:
        root[name][2] = value


def attribute(path: Path, name: str, value: Any) -> None:
    with edited(path) as root:
        root.attrs[name] = value


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
    "JSON list": (lambda path: attribute(path, "recipe", "[]"), "JSON object"),
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
    damage, said = {**STRANGERS, **BROKEN, **VALUES}[name]
    damage(path)
    with pytest.raises(UserError) as error:
        FeatureDataset(path).images.sum()
    text = one_sentence(error)
    assert said in text and str(path) in text
    if name in STRANGERS:
        assert not isinstance(error.value, Damaged)
        with pytest.raises(UserError):
            check_file(path)
    else:
        assert isinstance(error.value, Damaged)
        assert failed(path)


def test_bad_pixel_in_one_row(tmp_path: Path) -> None:
    write(tmp_path / "a.h5")
    column(tmp_path / "a.h5", "images", np.nan)
    data = FeatureDataset(tmp_path / "a.h5")
    data[1]
    with pytest.raises(UserError, match="image 2 is broken"):
        data[2]


# Checking ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["det", "rand", "robust", "robust-noise", "something-imported"])
def test_rules_of_each_kind(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.h5"
    write(path, header(kind=kind))
    assert failed(path) == []
    if kind != "something-imported":
        with edited(path) as root:
            root["labels"][4] = (root["labels"][4] + 1) % CLASSES
        sealed(path)
        assert failed(path) == ["labels", "success_rate"]


@pytest.mark.parametrize(
    ("name", "kind", "value", "wanted"),
    [
        ("index", "det", BASE_ROWS, ["index", "start_index"]),
        ("start_index", "det", 0, ["start_index"]),
        ("start_index", "robust", -1, ["start_index"]),
        ("start_index", "robust-noise", 1, ["start_index"]),
        ("norm", "det", EPS + 1e-4, ["norm"]),
        ("norm", "det", np.nan, ["norm"]),
        ("source_pred", "det", -1, ["success_rate"]),
        ("images", "det", 2.0, ["pixels"]),
        ("norm", "det", -0.1, ["values"]),
    ],
)
def test_rules_hold_though_digests_agree(tmp_path: Path, name: str, kind: str, value: float, wanted: list[str]) -> None:
    path = tmp_path / "a.h5"
    write(path, header(kind=kind))
    column(path, name, value)
    assert "content_sha256" in failed(path)
    sealed(path)
    assert failed(path) == wanted


def test_linf_ball_bounds_the_l2_column(tmp_path: Path) -> None:
    recipe = {"seed": SEED, "synthesis": {"norm": "linf", "eps": 0.05}}
    norm = np.full(ROWS, 0.05 * 5, "f4")
    write(tmp_path / "a.h5", header(recipe=recipe), {"norm": norm})
    assert failed(tmp_path / "a.h5") == []
    write(tmp_path / "b.h5", header(recipe=recipe), {"norm": norm * np.float32(1.01)})
    assert failed(tmp_path / "b.h5") == ["norm"]


def test_unknown_columns_of_imported_files(tmp_path: Path) -> None:
    missing = {name: np.full(ROWS, -1) for name in ("source_labels", "index", "start_index", "source_pred")}
    floats = {name: np.full(ROWS, np.nan, "f4") for name in ("norm", "objective")}
    write(tmp_path / "a.h5", header(recipe={}, base={}), {**missing, **floats}, rate=float("nan"))
    assert failed(tmp_path / "a.h5") == []
    assert all(check.ok for check in check_against_base(tmp_path / "a.h5", *base_set()))


@pytest.mark.parametrize("name", ["kind", "citation", "software", "created", "content_sha256", "new"])
def test_changed_attribute_is_reported(tmp_path: Path, name: str) -> None:
    write(tmp_path / "a.h5")
    attribute(tmp_path / "a.h5", name, "{}" if name == "software" else "robust")
    assert "_sha256" in " ".join(failed(tmp_path / "a.h5"))


def test_extra_members_are_reported(tmp_path: Path) -> None:
    write(tmp_path / "a.h5")
    with edited(tmp_path / "a.h5") as root:
        root["more"] = h5py.SoftLink("/nowhere")
        root["norm"].attrs["unit"] = "metre"
    assert failed(tmp_path / "a.h5") == ["members"]


def test_checksum_error_is_a_failed_check(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path)
    with h5py.File(path) as root:
        offset = root["images"].id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[offset + 9] ^= 4
    path.write_bytes(data)
    assert failed(path) == ["content_sha256", "pixels"]
    with pytest.raises(UserError) as error:
        FeatureDataset(path)[0]
    one_sentence(error)


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_against_base(tmp_path: Path, dtype: str) -> None:
    images, labels = base_set()

    def fails(name: str, **changes: np.ndarray[Any, Any]) -> list[str]:
        write(tmp_path / name, header(dtype=dtype), changes)
        return [check.name for check in check_against_base(tmp_path / name, images, labels) if not check.ok]

    rows = columns_of(header(dtype=dtype))
    assert fails("good.h5") == []
    assert fails("norm.h5", norm=rows["norm"] * np.float32(1.001)) == ["distance"]
    assert fails("labels.h5", source_labels=(rows["source_labels"] + 1) % CLASSES) == ["source_labels"]
    assert fails("far.h5", images=255 - rows["images"] if dtype == "uint8" else 1 - rows["images"]) == [
        "distance",
        "ball",
    ]
    with pytest.raises(UserError, match="base set"):
        check_against_base(tmp_path / "good.h5", images[:, :4], labels)
    short: list[Check] = check_against_base(tmp_path / "good.h5", images[:5], labels[:5])
    assert [check.ok for check in short] == [False]


def content(path: Path) -> dict[str, Any] | None:
    """Everything in a file as h5py sees it, or None if it cannot be read."""
    try:
        with h5py.File(path, "r") as root:
            arrays = {name: (root[name].dtype.str, root[name].shape, root[name][()].tobytes()) for name in root}
            return {**arrays, **{f"@{name}": repr(root.attrs[name]) for name in root.attrs}}
    except Exception:
        return None


def test_every_flipped_bit_that_matters_is_reported(tmp_path: Path) -> None:
    path, flipped = tmp_path / "a.h5", tmp_path / "b.h5"
    write(path)
    good, data = content(path), path.read_bytes()
    rng = np.random.default_rng(3)
    reported = 0
    for bit in rng.choice(len(data) * 8, 200, replace=False):
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << (bit % 8)
        flipped.write_bytes(broken)
        try:
            noticed = bool(failed(flipped))
        except UserError:
            noticed = True
        assert noticed or content(flipped) == good, f"bit {bit} went unnoticed"
        reported += noticed
    assert 20 < reported < 200
