"""The layout of the authors' released datasets, both ways: a folder of two `torch.save` files, CIFAR_ims and CIFAR_lab.

Each holds one tensor or a list of batches: images (N, C, H, W), float in [0, 1] or uint8, and integer labels (N,).
They do not record which base image a row was made from, so an import matches rows with the base set.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featuregen.compute.optimize import quantize, to_unit_range
from featuregen.config.kinds import KINDS, Kind
from featuregen.config.loader import config_names, load_config
from featuregen.config.schema import Config
from featuregen.config.serialize import to_record
from featuregen.data.base_dataset import BaseDataset
from featuregen.errors import UserError
from featuregen.runtime.console import log, progress
from featuregen.runtime.device import ComputeSpec, versions
from featuregen.runtime.paths import check_file
from featuregen.runtime.torch_files import read_torch_file
from featuregen.storage.checksums import file_sha256
from featuregen.storage.reader import DatasetInfo, read_info
from featuregen.storage.schema import PAPER, Header, row_blocks
from featuregen.storage.writer import Writer
from featuregen.synthesis.kinds import find_kind

IMAGES, LABELS = "CIFAR_ims", "CIFAR_lab"
# The radius of the authors' ball, 0.5, plus what rounding to uint8 adds to it on CIFAR-10.
WITHIN = 0.57
# Rows and base rows whose distances are computed at once.
_BLOCK, _BASE_BLOCK, _BASE_BYTES = 512, 10_000, 1 << 27
_DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32)


def import_released(
    folder: str | os.PathLike[str],
    kind: str,
    base: BaseDataset,
    out: str | os.PathLike[str],
    *,
    dtype: str = "float32",
    within: float = WITHIN,
    config: Config | None = None,
    force: bool = False,
) -> DatasetInfo:
    """Import a dataset in the layout of the authors' release: a folder with CIFAR_ims and CIFAR_lab.

    Rows are matched with the base set, in order or by distance; a row that matches no base image is stored without one.

    Args:
        folder: The folder with both files.
        kind: What kind of dataset it is: "robust", "nonrobust", "rand", "det" and so on.
        base: The base set it was made from.
        out: The file to write.
        dtype: How pixels are stored: "float32", "float16" or "uint8".
        within: The largest L2 distance between a row and its base image, for kinds that start from the base image.
        config: The settings the file records for evaluations; by default the shipped config of the base set.
        force: Overwrite another file at `out`.

    Returns:
        What the file records.

    Raises:
        UserError: The folder holds no such files, they do not fit the base set, or `out` is another file.

    Example:
        >>> import featuregen as fg
        >>> tiny = ["sources.standard.epochs=1", "synthesis.det.rows=20", "synthesis.det.steps=2"]
        >>> det = fg.Experiment("digits", out="out", overrides=tiny).make_dataset("det")
        >>> folder = fg.export_dataset(det.path, "madry", "det-tensors", force=True)
        >>> fg.import_released(folder, "det", fg.load_images("digits"), "imported.h5", force=True).rows
        20
    """
    folder, out = Path(folder), Path(out)
    find_kind(kind)
    if not (math.isfinite(within) and within > 0):
        raise UserError(f"within is {within:g}; give the largest L2 distance from a base image, such as {WITHIN:g}.")
    check_folder(folder)
    images, labels = _read_images(folder / IMAGES, base), _read_labels(folder / LABELS, base)
    if len(images) != len(labels):
        raise UserError(
            f"{folder}: {IMAGES} has {len(images)} images and {LABELS} {len(labels)} labels; get both files again."
        )
    release = _Release(images, labels, base, dtype)
    config = config or load_config(fitting_config(base.name) or "digits", values={"data.name": base.name})
    with Writer.open(out, _header(folder, kind, release, within, config), force) as writer:
        if not writer.complete:
            index = _match_base_rows(kind, release, within)
            for rows in release.blocks():
                if rows.stop > writer.rows_done:
                    missing = slice(max(rows.start, writer.rows_done), rows.stop)
                    writer.append(_columns(kind, release, index, missing))
            writer.finish()
    return read_info(out)


@dataclass(frozen=True, eq=False)
class _Release:
    """Released images and labels, and how the file will store them."""

    images: Tensor
    labels: NDArray[np.int64]
    base: BaseDataset
    dtype: str

    def __len__(self) -> int:
        return len(self.labels)

    def blocks(self) -> list[slice]:
        return list(row_blocks(len(self), 8 * self.images[0].numel()))

    def stored(self, rows: slice) -> NDArray[Any]:
        return np.asarray(quantize(to_unit_range(self.images[rows]), self.dtype, None).numpy())

    def distances(self, rows: slice, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """L2 distances from stored rows to base rows, in double precision as `verify` computes them."""
        stored, originals = self.stored(rows), self.base.train.images[index].transpose(0, 3, 1, 2) / 255
        pixels = stored / 255 if stored.dtype == np.uint8 else stored.astype(np.float64)
        return np.asarray(np.linalg.norm((pixels - originals).reshape(len(index), -1), axis=1))


def check_folder(folder: Path) -> None:
    """Refuse a folder without both files; their content is not read."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; name the one that holds {IMAGES} and {LABELS}.")
    missing = [name for name in (IMAGES, LABELS) if not (folder / name).exists()]
    for name in {IMAGES, LABELS}.difference(missing):
        check_file(folder / name)
    if len(missing) == 1:
        raise UserError(f"{folder} has no {missing[0]} beside the other file; get the rest of the download.")
    if missing:
        inside = sorted(path.parent.name for path in folder.glob(f"*/{IMAGES}"))
        hint = f"; choose one of the folders in it: {', '.join(inside)}" if inside else "; name the folder with both"
        raise UserError(f"{folder} holds neither {IMAGES} nor {LABELS}{hint}.")


def _tensors(path: Path) -> list[Tensor]:
    """The batches of a file, together no larger than the file itself."""
    content = read_torch_file(path)
    batches = list(content) if isinstance(content, (list, tuple)) else [content]
    other = next((type(batch).__name__ for batch in batches if not isinstance(batch, Tensor)), None)
    if other or not any(batch.numel() for batch in batches):
        raise UserError(
            f"{path} holds {other or 'nothing'}; it must be a tensor of images or labels, or a list of them."
        )
    if len(dtypes := {str(batch.dtype) for batch in batches}) > 1:
        raise UserError(f"{path} has batches of different types: {', '.join(sorted(dtypes))}.")
    # A view with stride 0 may repeat one number without end.
    if sum(batch.numel() * batch.element_size() for batch in batches) > path.stat().st_size:
        raise UserError(f"{path} declares more values than it holds; get it again.")
    return batches


def _read_images(path: Path, base: BaseDataset) -> Tensor:
    batches = _tensors(path)
    if batches[0].dtype not in _DTYPES:
        raise UserError(f"{path} holds {batches[0].dtype}; images are {', '.join(str(dtype) for dtype in _DTYPES)}.")
    for number, batch in enumerate(batches):
        shape, first = tuple(batch.shape), tuple(batches[0].shape)
        if len(shape) != 4 or shape[1:] != first[1:]:
            raise UserError(f"{path}: batch {number} has shape {shape} and batch 0 {first}; give (N, C, H, W) in all.")
        if shape[1:] != base.image_shape:
            raise UserError(
                f"{path} holds images of shape {shape[1:]}, but those of {base.name} are {base.image_shape}; "
                "choose the image set they were made from with --data."
            )
        # A comparison with NaN is false, so this catches NaN too.
        if batch.dtype != torch.uint8 and not bool(((batch >= 0) & (batch <= 1)).all()):
            span = f"{batch.min().item():g} to {batch.max().item():g}"
            raise UserError(f"{path}: batch {number} has pixels from {span}; floats must lie in [0, 1].")
    return torch.cat(batches)


def _read_labels(path: Path, base: BaseDataset) -> NDArray[np.int64]:
    batches = _tensors(path)
    dtype = batches[0].dtype
    if dtype.is_floating_point or dtype.is_complex or dtype == torch.bool:
        raise UserError(f"{path} holds {dtype}; labels are whole numbers, such as int64.")
    shape = next((tuple(batch.shape) for batch in batches if batch.ndim != 1), None)
    if shape is not None:
        raise UserError(f"{path} has a batch of shape {shape}; labels are (N,), one per image.")
    labels: NDArray[np.int64] = torch.cat(batches).to(torch.int64).numpy()
    invalid = labels[(labels < 0) | (labels >= len(base.classes))]
    if len(invalid):
        raise UserError(
            f"{path} holds the label {invalid[0]}, and {base.name} has the classes 0 to {len(base.classes) - 1}; "
            "choose the image set they were made from with --data."
        )
    return labels


def fitting_config(data: str) -> str | None:
    """The shipped config of a base set; where there are several, the paper's."""
    return next((name for name in (data, f"{data}-paper") if name in config_names()), None)


def _header(folder: Path, kind: str, release: _Release, within: float, config: Config) -> Header:
    base = release.base
    digests = {name: file_sha256(folder / name) for name in (IMAGES, LABELS)}
    radius = {"within": within} if KINDS[kind].start == "self" else {}
    return Header(
        kind=kind,
        rows=len(release),
        image_shape=base.image_shape,
        dtype=release.dtype,
        classes=base.classes,
        recipe={"imported": {"layout": f"{IMAGES}/{LABELS}", "sha256": digests, **radius}},
        base=base.record(),
        source_model={},
        software=versions(ComputeSpec()),
        config=to_record(config),
        citation=f"{base.citation} {PAPER}".strip(),
    )


def _columns(kind: str, release: _Release, index: NDArray[np.int64], rows: slice) -> dict[str, NDArray[Any]]:
    """The columns of these rows; -1 and NaN stand for what a release does not record."""
    base_rows = index[rows]
    matched = base_rows >= 0
    norm = np.where(matched, release.distances(rows, np.maximum(base_rows, 0)), np.nan)
    return {
        "images": release.stored(rows),
        "labels": release.labels[rows],
        "source_labels": np.where(matched, release.base.train.labels[base_rows], -1),
        "index": base_rows,
        "start_index": base_rows if KINDS[kind].start == "self" else np.full_like(base_rows, -1),
        "norm": norm.astype(np.float32),
        "objective": np.full(len(base_rows), np.nan, dtype=np.float32),
        "source_pred": np.full_like(base_rows, -1),
    }


# Matching rows with the base set -------------------------------------------------------------------


def _match_base_rows(kind: str, release: _Release, within: float) -> NDArray[np.int64]:
    """The base row of each row, -1 where there is none: in order if every row fits that, else by distance."""
    rule, base, rows = KINDS[kind], release.base, len(release)
    in_order = np.arange(rows)
    # Labels in order prove nothing where the base set is sorted by them.
    mixed = rule.start == "self" or (np.diff(base.train.labels) != 0).mean() > 0.5
    if mixed and rows == len(base.train) and _fits_labels(rule, release, in_order).all():
        parts = (release.distances(part, in_order[part]) for part in release.blocks())
        if rule.start != "self" or all((part <= within).all() for part in parts):
            log(f"{rows} of {rows} rows are matched to {base.name}, in order")
            return in_order
    if rule.start != "self":
        log(f"none of {rows} rows is matched to {base.name}: their labels are not those of its rows in order")
        return np.full(rows, -1)
    nearest = _nearest_base_rows(release)
    distances = np.concatenate([release.distances(part, nearest[part]) for part in release.blocks()])
    index = np.where((distances <= within) & _fits_labels(rule, release, nearest), nearest, -1)
    first = np.unique(index, return_index=True)[1]
    index[np.setdiff1d(in_order, first)] = -1
    log(f"{int((index >= 0).sum())} of {rows} rows are matched to {base.name}, by an L2 distance up to {within:g}")
    return index


def _fits_labels(kind: Kind, release: _Release, index: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which rows carry the label that the kind gives to these base rows."""
    if kind.label == "random":
        return np.ones(len(index), dtype=bool)
    base = release.base
    return np.asarray(release.labels == kind.labels_of(base.train.labels[index], len(base.classes)))


def _nearest_base_rows(release: _Release) -> NDArray[np.int64]:
    """The nearest base image of each row, in blocks of bounded memory."""
    base, rows = release.base, len(release)
    step = max(1, min(_BASE_BLOCK, _BASE_BYTES // (4 * release.images[0].numel())))
    best, index = torch.full((rows,), math.inf), torch.zeros(rows, dtype=torch.int64)
    for first in progress(range(0, len(base.train), step), "finding base images", -(-len(base.train) // step)):
        originals = base.train.images_tensor(rows=slice(first, first + step)).flatten(1)
        squares = originals.square().sum(1)
        for start in range(0, rows, _BLOCK):
            block = slice(start, min(rows, start + _BLOCK))
            pixels = to_unit_range(torch.from_numpy(release.stored(block))).flatten(1)
            # Squared distance without the square of the row itself, which is the same for every base image.
            distance, nearest = torch.addmm(squares, pixels, originals.T, alpha=-2).min(1)
            closer = distance < best[block]
            best[block] = torch.where(closer, distance, best[block])
            index[block] = torch.where(closer, nearest + first, index[block])
    return index.numpy()
