"""Exports of a dataset file. Equal files give equal bytes, so that an export which exists already is recognised."""

from __future__ import annotations

import csv
import filecmp
import importlib
import io
import json
import math
import os
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from featuregen.config.loader import did_you_mean
from featuregen.errors import UserError
from featuregen.interop.released import IMAGES, LABELS
from featuregen.runtime.atomic import atomic_folder, atomic_path
from featuregen.runtime.console import log, progress
from featuregen.runtime.paths import check_output_folder
from featuregen.storage.reader import DatasetInfo, column_blocks, read_columns, read_info, to_pixels
from featuregen.storage.schema import COLUMNS, row_blocks
from featuregen.storage.torch_dataset import FeatureDataset

# The columns of numbers, under the names they have where each row is a record.
NUMBERS = {
    "label": "labels",
    "source_label": "source_labels",
    "index": "index",
    "start_index": "start_index",
    "norm": "norm",
    "objective": "objective",
    "source_pred": "source_pred",
}
TABLE = "labels.csv"
# CIFAR-10 in 50 batches of 12 MB: a reader that handles one at a time needs little extra memory.
MADRY_BATCH = 1000


def export_dataset(
    path: str | os.PathLike[str], format: str, out: str | os.PathLike[str] | None = None, force: bool = False
) -> Path:
    """Export a dataset file to another format.

    Args:
        path: A dataset file.
        format: "madry" (the authors' tensors), "npz", "imagefolder" or "parquet" (needs pyarrow).
        out: Where to write; by default beside the dataset, named after it.
        force: Replace another export at `out`. Files that are no export are never replaced.

    Returns:
        Where the export was written.

    Raises:
        UserError: The format is unknown or does not fit the images, or `out` holds something else.

    Example:
        >>> import featuregen as fg
        >>> tiny = ["sources.standard.epochs=1", "synthesis.det.rows=20", "synthesis.det.steps=2"]
        >>> det = fg.Experiment("digits", out="out", overrides=tiny).make_dataset("det")
        >>> fg.export_dataset(det.path, "npz", "det.npz", force=True).name
        'det.npz'
    """
    path, out = Path(path), Path(out) if out else None
    path = Path(path)
    if format not in FORMATS:
        raise UserError(f"'{format}' is no format to export to; {did_you_mean(format, FORMATS)}")
    writer = FORMATS[format]
    info = read_info(path)
    out = Path(out or default_path(path, format))
    if out.exists() and out.samefile(path):
        raise UserError(f"{out} is the dataset itself; choose another --out.")
    if writer.images_as_png and info.image_shape[0] not in (1, 3):
        raise UserError(
            f"{path} has images of {info.image_shape[0]} channels, and {format} holds PNGs of 1 or 3; use --format npz."
        )
    if writer.images_as_png and info.dtype != "uint8":
        exact = "; the column pixels has them unrounded" if format == "parquet" else ""
        log(f"note: {path} holds {info.dtype}, and PNGs have 8 bits, so pixels are rounded to 1/255{exact}")
    with replaced_folder(out, writer.holds, force) if writer.holds else _replaced_file(out, force) as partial:
        writer.write(path, info, partial)
        if read_info(path).content_sha256 != info.content_sha256:
            raise UserError(f"{path} was replaced while it was exported; export it again.")
    return out


def default_path(path: Path, format: str) -> Path:
    """Beside the dataset: a file of the same name and its own ending, or a folder named after the format."""
    ending = FORMATS[format].ending
    return path.with_suffix(ending) if ending else path.with_name(f"{path.stem}-{format}")


# Replacing what is there -------------------------------------------------------------------------------------------


@contextmanager
def _replaced_file(out: Path, force: bool) -> Iterator[Path]:
    if out.is_dir():
        raise UserError(f"{out} is a folder; name a file to write.")
    with atomic_path(out) as partial:
        yield partial
        if out.exists() and not force and not filecmp.cmp(partial, out, shallow=False):
            raise _taken(out)


@contextmanager
def replaced_folder(out: Path, holds: str, force: bool) -> Iterator[Path]:
    """An empty folder to fill, which replaces `out` when the block ends. `holds` matches the names of its files.

    A folder with any other file is never replaced: --force with a wrong --out must not delete it.
    """
    check_output_folder(out)
    files = (file for file in out.rglob("*") if file.is_symlink() or not file.is_dir())
    if any(not re.fullmatch(holds, file.relative_to(out).as_posix()) for file in files):
        raise UserError(f"{out} holds other files, which are never replaced; choose another --out.")
    with atomic_folder(out) as partial:
        yield partial
        if out.exists() and not force and any(out.iterdir()) and not _same_files(partial, out):
            raise _taken(out)


def _same_files(one: Path, other: Path) -> bool:
    names = [{str(path.relative_to(root)) for path in root.rglob("*")} for root in (one, other)]
    common = [name for name in names[0] if (one / name).is_file()]
    return names[0] == names[1] and filecmp.cmpfiles(one, other, common, shallow=False)[0] == common


def _taken(out: Path) -> UserError:
    return UserError(f"{out} holds something else; choose another --out, or replace it with --force.")


# Formats -------------------------------------------------------------------------------------------


def _blocks(path: Path, info: DatasetInfo) -> Iterator[tuple[slice, dict[str, NDArray[Any]]]]:
    """All columns as stored, a bounded number of rows at a time."""
    blocks = len(list(row_blocks(info.rows, 4 * math.prod(info.image_shape))))
    return progress(column_blocks(path), "exporting", blocks)


def attributes(info: DatasetInfo) -> str:
    """Everything that the file records, as strict JSON without its path and size."""
    record = {name: value for name, value in info.to_dict().items() if name not in ("path", "size")}
    rate = record["success_rate"]
    return json.dumps(record | {"success_rate": None if math.isnan(rate) else rate}, sort_keys=True, allow_nan=False)


def _write_madry(path: Path, info: DatasetInfo, folder: Path) -> None:
    """Write a dataset file in the authors' layout, as float32; an import restores the same pixels and labels."""
    data = FeatureDataset(path)
    labels = data.labels
    _save_tensors(folder / LABELS, [labels[at : at + MADRY_BATCH].clone() for at in range(0, info.rows, MADRY_BATCH)])
    # torch.save needs everything at once, so the pixels go to a scratch file that is memory-mapped.
    with tempfile.TemporaryFile(dir=folder) as scratch:
        for rows in row_blocks(info.rows, 4 * math.prod(info.image_shape)):
            scratch.write(data.fetch(rows).numpy().tobytes())
        scratch.flush()
        pixels = np.memmap(scratch, dtype=np.float32, mode="c", shape=(info.rows, *info.image_shape))
        _save_tensors(
            folder / IMAGES,
            [torch.from_numpy(pixels[at : at + MADRY_BATCH]) for at in range(0, info.rows, MADRY_BATCH)],
        )


def _save_tensors(path: Path, batches: list[Tensor]) -> None:
    # Through an open file, since torch stores the name of a path in the archive.
    with path.open("wb") as file:
        try:
            torch.save(batches, file)
        except RuntimeError as error:
            # torch reports a full disk only as an unexpected position.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def _write_npz(path: Path, info: DatasetInfo, target: Path) -> None:
    """Every column under its name and as stored, and `attributes`; no array needs pickle."""
    with zipfile.ZipFile(target, "w") as archive:
        with archive.open("images.npy", "w", force_zip64=True) as member:
            for rows, columns in _blocks(path, info):
                images = columns["images"]
                if rows.start == 0:
                    shape = (info.rows, *info.image_shape)
                    head = {"descr": images.dtype.str, "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(member, head)
                member.write(np.ascontiguousarray(images).data)
        arrays = read_columns(path, list(NUMBERS.values())) | {"attributes": np.array(attributes(info))}
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _pngs(stored: NDArray[Any]) -> list[bytes]:
    """Images of 1 or 3 channels as PNGs."""
    images = stored if stored.dtype == np.uint8 else np.rint(to_pixels(stored) * 255).astype(np.uint8)
    pngs = []
    for image in np.ascontiguousarray(images.transpose(0, 2, 3, 1)):
        stream = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(stream, format="PNG")
        pngs.append(stream.getvalue())
    return pngs


def _write_folder(path: Path, info: DatasetInfo, target: Path) -> None:
    """One folder per class, named so that torchvision sorts them by label, and a table of the rows."""
    width = len(str(len(info.classes) - 1))
    # Names may be hostile: the number in front keeps each inside the folder.
    names = [re.sub(r"[^\w.-]+", "-", name)[:50] for name in info.classes]
    folders = [f"{label:0{width}}_{name}" for label, name in enumerate(names)]
    for folder in folders:
        (target / folder).mkdir()
    with (target / TABLE).open("w", encoding="utf-8", newline="") as table:
        lines = csv.writer(table, lineterminator="\n")
        lines.writerow(["row", "file", "label", "source_label", "index"])
        for rows, columns in _blocks(path, info):
            numbers = zip(*(columns[name].tolist() for name in ("labels", "source_labels", "index")), strict=True)
            pngs = _pngs(columns["images"])
            for row, png, (label, *others) in zip(range(rows.start, rows.stop), pngs, numbers, strict=True):
                file = f"{folders[label]}/{row:06d}.png"
                (target / file).write_bytes(png)
                lines.writerow([row, file, label, *others])
    empty = [folder for folder in folders if not any((target / folder).iterdir())]
    if empty:
        named = empty[0] + (f", nor {len(empty) - 1} more" if len(empty) > 1 else "")
        log(f"note: no image is labelled {named}; torchvision's ImageFolder needs allow_empty=True for that")


def _write_parquet(path: Path, info: DatasetInfo, target: Path) -> None:
    """As Hugging Face's `datasets` stores images: PNGs, class names, and the features in the schema."""
    try:
        arrow, parquet = (importlib.import_module(name) for name in ("pyarrow", "pyarrow.parquet"))
    except ImportError:
        raise UserError("--format parquet needs pyarrow: pip install pyarrow.") from None
    size, exact = math.prod(info.image_shape), info.dtype != "uint8"
    types = {name: arrow.from_numpy_dtype(np.dtype(COLUMNS[column])) for name, column in NUMBERS.items()}
    image = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    fields = {"image": image, **types, **({"pixels": arrow.list_(arrow.float32(), size)} if exact else {})}
    metadata = {
        "huggingface": json.dumps({"info": {"features": _features(info, size)}}),
        "featuregen": attributes(info),
    }
    schema = arrow.schema(list(fields.items()), metadata=metadata)
    # Through an open file, since pyarrow takes no name that is not UTF-8.
    with target.open("wb") as file, parquet.ParquetWriter(file, schema) as writer:
        for rows, columns in _blocks(path, info):
            names = [f"{row:06d}.png" for row in range(rows.start, rows.stop)]
            structs = [arrow.array(_pngs(columns["images"]), arrow.binary()), arrow.array(names)]
            arrays = {"image": arrow.StructArray.from_arrays(structs, fields=list(image))}
            arrays |= {name: arrow.array(columns[column]) for name, column in NUMBERS.items()}
            if exact:
                flat = arrow.array(to_pixels(columns["images"]).ravel())
                arrays["pixels"] = arrow.FixedSizeListArray.from_arrays(flat, size)
            writer.write_table(arrow.Table.from_arrays([arrays[name] for name in fields], schema=schema))


def _features(info: DatasetInfo, size: int) -> dict[str, Any]:
    """The columns as features of `datasets`, which refuses two classes of one name."""
    names = list(info.classes)
    if len({*names}) < len(names):
        names = [f"{number} {name}" for number, name in enumerate(names)]
    classes = {"names": names, "_type": "ClassLabel"}
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    for name, column in NUMBERS.items():
        number = {"dtype": np.dtype(COLUMNS[column]).name, "_type": "Value"}
        features[name] = classes if name in ("label", "source_label", "source_pred") else number
    if info.dtype != "uint8":
        features["pixels"] = {"feature": {"dtype": "float32", "_type": "Value"}, "length": size, "_type": "Sequence"}
    return features


@dataclass(frozen=True)
class _Format:
    """An export format: a file with an ending, or a folder whose files match `holds`."""

    write: Callable[[Path, DatasetInfo, Path], None]
    ending: str = ""
    holds: str = ""
    images_as_png: bool = False


FORMATS = {
    "madry": _Format(_write_madry, holds=f"{IMAGES}|{LABELS}"),
    "npz": _Format(_write_npz, ending=".npz"),
    "imagefolder": _Format(_write_folder, holds=rf"{TABLE}|\d+_[^/]*/\d{{6,}}\.png", images_as_png=True),
    "parquet": _Format(_write_parquet, ending=".parquet", images_as_png=True),
}
