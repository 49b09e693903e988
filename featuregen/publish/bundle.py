"""What lies in the folder, the checksums over it, and how it takes its place."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featuregen.errors import UserError
from featuregen.interop import replaced_folder
from featuregen.publish.card import write_card
from featuregen.publish.croissant import write_croissant
from featuregen.publish.layout import (
    CARD,
    CROISSANT,
    RESULTS,
    Contents,
    licence_of,
    plain_name,
)
from featuregen.storage import SUMS, DatasetInfo, file_sha256

# What file patterns, checksum lists, JSON-LD and web addresses all take as it is.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.(h5|hdf5)")
_SUM = re.compile(r"[0-9a-f]{64}  ([^/\\]+)")
_NOTHING = r"(?!)"


@dataclass(frozen=True)
class Bundle:
    """A dataset that passed its checks, and what goes with it.

    `sha256` is that of the whole file when it was checked; `weights` and `preview` write the file they are given;
    `base`, `licence` and `citation` are of the base set, as `Contents` has them.
    """

    info: DatasetInfo
    sha256: str
    weights: Callable[[Path], object] | None = None
    preview: Callable[[Path], object] | None = None
    results: Mapping[str, Any] | None = None
    base: str = ""
    licence: str = ""
    citation: str = ""


def check_name(path: Path) -> None:
    if path.is_dir() or path.suffix not in (".h5", ".hdf5"):
        raise UserError(f"{path} is no dataset; share takes one HDF5 file, such as digits-det.h5.")
    if not _NAME.fullmatch(path.name):
        raise UserError(
            f"{path.name!r} is no name that every tool takes; rename the file to letters, digits, '.', '-' and '_', "
            "ending in .h5, and share it then."
        )


def write_folder(parcel: Bundle, out: Path, force: bool = False) -> Path:
    """The folder, whole or not at all; equal parcels give equal bytes."""
    path = parcel.info.path
    check_name(path)
    with replaced_folder(out, _own_files(out), force) as folder:
        contents = Contents(
            data=path.name,
            weights=f"{path.stem}-source.safetensors" if parcel.weights else "",
            preview=f"{path.stem}.png" if parcel.preview else "",
            results=RESULTS if parcel.results else "",
            base=plain_name(parcel.base),
            licence=licence_of(parcel.licence),
            citation=parcel.citation,
        )
        shutil.copyfile(path, folder / contents.data)
        if file_sha256(folder / contents.data) != parcel.sha256:
            raise UserError(f"{path} was replaced while it was shared; share it again.")
        if parcel.weights:
            parcel.weights(folder / contents.weights)
        if parcel.preview:
            parcel.preview(folder / contents.preview)
        if parcel.results:
            (folder / contents.results).write_text(json.dumps(parcel.results, indent=1), encoding="utf-8")
        write_card(folder / CARD, parcel.info, contents, parcel.results)
        files = _measured(folder)
        write_croissant(folder / CROISSANT, parcel.info, contents, files)
        digests = {name: digest for name, (digest, _) in files.items()}
        digests[CROISSANT] = file_sha256(folder / CROISSANT)
        sums = "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))
        (folder / SUMS).write_text(sums, encoding="utf-8")
    return out


def _measured(folder: Path) -> dict[str, tuple[str, int]]:
    """Digest and size of every file there is so far."""
    return {path.name: (file_sha256(path), path.stat().st_size) for path in sorted(folder.iterdir())}


def _own_files(out: Path) -> str:
    """A pattern of the names that a folder written earlier lists as its own; of nothing if it is no such folder."""
    try:
        lines = (out / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return _NOTHING
    names = [match[1] for match in map(_SUM.fullmatch, lines) if match]
    if not {CARD, CROISSANT} <= {*names}:
        return _NOTHING
    return "|".join(re.escape(name) for name in (SUMS, *names))
