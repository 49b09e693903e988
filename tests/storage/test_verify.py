"""Checks of a file: digests, ranges, the rules of its kind, and flipped bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from featuregen.errors import UserError
from featuregen.storage.reader import read_info
from featuregen.storage.schema import CorruptFile
from featuregen.storage.torch_dataset import FeatureDataset
from featuregen.storage.verify import Check, check_against_base
from tests.helpers.dataset_files import (
    BASE_ROWS,
    CLASSES,
    EPS,
    ROWS,
    SEED,
    attribute,
    base_set,
    column,
    columns_of,
    edited,
    failed,
    header,
    one_sentence,
    sealed,
    write,
)


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
        ("index", "rand", -1, ["index", "start_index"]),
        ("index", "robust", -1, ["index"]),
        ("start_index", "det", 0, ["start_index"]),
        ("start_index", "robust", -1, ["start_index"]),
        ("start_index", "robust-noise", 1, ["start_index"]),
        ("norm", "det", EPS + 1e-4, ["norm"]),
        ("norm", "det", np.nan, ["norm"]),
        ("source_pred", "det", -1, []),
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


RECORDS: dict[str, dict[str, Any]] = {
    "seed below 0": {"recipe": {"seed": -1}},
    "seed of 31 digits": {"recipe": {"seed": 10**30}},
    "no seed": {"recipe": {"synthesis": {"norm": "l2"}}},
    "synthesis is null": {"recipe": {"seed": 1, "synthesis": None}},
    "eps of 400 digits": {"recipe": {"seed": 1, "synthesis": {"norm": "l2", "eps": 10**400}}},
    "endless steps": {"recipe": {"seed": 1, "synthesis": {"steps": 10**12}}},
    "shard is a list": {"recipe": {"seed": 1, "shard": [1, 2]}},
    "shard 0 of 0": {"recipe": {"seed": 1, "shard": {"number": 0, "of": 0, "rows": 3, "first": 0}}},
    "shard 3 of 2": {"recipe": {"seed": 1, "shard": {"number": 3, "of": 2, "rows": 30, "first": 0}}},
    "attack without a name": {"recipe": {"seed": 1, "attack": {"target": ""}}},
    "a list of radii": {"recipe": {"seed": 1, "attack": {"name": "pgd", "target": "", "eps": [0.5] * 100_000}}},
    "rows in words": {"base": {"rows": "many"}},
    "source is text": {"source_model": {"settings": "none"}},
    "accuracy is a list": {"source_model": {"accuracy": []}},
    "software is nested": {"software": {"torch": {}}},
}


@pytest.mark.parametrize("changes", RECORDS.values(), ids=RECORDS)
def test_a_record_that_breaks_its_schema_is_one_sentence(tmp_path: Path, changes: dict[str, Any]) -> None:
    for kind in ("rand", "robust"):
        path = tmp_path / f"{kind}.h5"
        write(path, header(kind=kind, **changes))
        assert failed(path) == ["opens"]
        with pytest.raises(CorruptFile, match=f"attribute '{next(iter(changes))}'") as error:
            read_info(path)
        assert len(one_sentence(error)) < len(str(path)) + 200


def test_unknown_columns_of_imported_files(tmp_path: Path) -> None:
    missing = {name: np.full(ROWS, -1) for name in ("source_labels", "index", "start_index", "source_pred")}
    floats = {name: np.full(ROWS, np.nan, "f4") for name in ("norm", "objective")}
    write(tmp_path / "a.h5", header(recipe={}, base={}), {**missing, **floats})
    assert failed(tmp_path / "a.h5") == []
    assert all(check.ok for check in check_against_base(tmp_path / "a.h5", *base_set()))


def test_the_success_rate_is_that_of_the_rows_whose_prediction_is_known(tmp_path: Path) -> None:
    """As docs/format.md defines it."""
    predicted = columns_of(header())["labels"].copy()
    predicted[:4], predicted[4] = -1, (predicted[4] + 1) % CLASSES
    path = tmp_path / "a.h5"
    write(path, header(), {"source_pred": predicted})
    assert read_info(path).success_rate == 5 / 6 and failed(path) == []
    attribute(path, "success_rate", 5 / 10)
    sealed(path)
    assert failed(path) == ["success_rate"]


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


def test_damaged_text_table_does_not_hang(tmp_path: Path) -> None:
    """HDF5 2.0 never returns from reading a text attribute of this file."""
    path = tmp_path / "a.h5"
    write(path, header(citation="Long. " * 1000))
    data = path.read_bytes()
    heaps = [at for at in range(0, len(data), 8) if data.startswith(b"GCOL\x01", at)]
    assert len(heaps) > 1
    for start in heaps:
        at, end = start + 16, start + int.from_bytes(data[start + 8 : start + 16], "little")
        while at < end and data[at] != 0:
            at += 16 + -(-int.from_bytes(data[at + 8 : at + 16], "little") // 8) * 8
        if at < end:
            path.write_bytes(data[: at + 8] + bytes([data[at + 8] ^ 0x20]) + data[at + 9 :])
            assert failed(path) == ["opens"]
