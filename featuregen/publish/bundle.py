"""The folder of a published dataset: its files, the checksums over them, and replacing an earlier one."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featuregen.config.serialize import json_document
from featuregen.errors import UserError
from featuregen.interop.export import replaced_folder
from featuregen.publish.card import write_card
from featuregen.publish.croissant import write_croissant
from featuregen.publish.layout import CARD, CROISSANT, RESULTS, Contents, licence_of, safe_name
from featuregen.runtime.ledger import remember
from featuregen.storage.checksums import SUMS, file_sha256
from featuregen.storage.reader import DatasetInfo

# Names that file patterns, checksum lists, JSON-LD and web addresses all take as they are.
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


def write_folder(bundle: Bundle, out: Path, force: bool = False) -> Path:
    """The folder, whole or not at all; equal bundles give equal bytes."""
    path = bundle.info.path
    check_name(path)
    with replaced_folder(out, _listed_files(out), force) as folder:
        contents = Contents(
            data=path.name,
            weights=f"{path.stem}-source.safetensors" if bundle.weights else "",
            preview=f"{path.stem}.png" if bundle.preview else "",
            results=RESULTS if bundle.results else "",
            base=safe_name(bundle.base),
            licence=licence_of(bundle.licence),
            citation=bundle.citation,
        )
        shutil.copyfile(path, folder / contents.data)
        if file_sha256(folder / contents.data) != bundle.sha256:
            raise UserError(f"{path} was replaced while it was shared; share it again.")
        if bundle.weights:
            bundle.weights(folder / contents.weights)
        if bundle.preview:
            bundle.preview(folder / contents.preview)
        if bundle.results:
            text = json_document(bundle.results)
            (folder / contents.results).write_text(text, encoding="utf-8")
            # Whoever shares them here has chosen to show them.
            remember("results", hashlib.sha256(text.encode()).hexdigest())
        write_card(folder / CARD, bundle.info, contents, bundle.results)
        files = {file.name: (file_sha256(file), file.stat().st_size) for file in sorted(folder.iterdir())}
        write_croissant(folder / CROISSANT, bundle.info, contents, files)
        digests = {name: digest for name, (digest, _) in files.items()}
        digests[CROISSANT] = file_sha256(folder / CROISSANT)
        sums = "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))
        (folder / SUMS).write_text(sums, encoding="utf-8")
    return out


def _listed_files(out: Path) -> str:
    """A pattern of the file names that a folder written earlier lists; it matches nothing if this is no such folder."""
    try:
        lines = (out / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return _NOTHING
    names = [match[1] for match in map(_SUM.fullmatch, lines) if match]
    if not {CARD, CROISSANT} <= {*names}:
        return _NOTHING
    return "|".join(re.escape(name) for name in (SUMS, *names))
