"""A dataset to send: verified, with its source model, its base set's picture and its results found for it."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

from featuregen.config.records import MAX_BYTES
from featuregen.data.sources import NAMED_SETS, load_images
from featuregen.errors import CheckFailed, UserError
from featuregen.experiment.experiment import Experiment
from featuregen.experiment.files import find_by_weights, recorded_config
from featuregen.experiment.outputs import draw_preview
from featuregen.experiment.verify import verify_origin
from featuregen.interop.load import load_model, model_header
from featuregen.models.io import save_model
from featuregen.publish.bundle import Bundle, check_name, write_folder
from featuregen.publish.facts import read_results, results_about
from featuregen.publish.layout import base_citation
from featuregen.runtime.console import log
from featuregen.runtime.ledger import is_remembered
from featuregen.runtime.paths import read_bytes
from featuregen.runtime.torch_files import is_checkpoint
from featuregen.storage.checksums import file_sha256
from featuregen.storage.reader import DatasetInfo, read_info
from featuregen.storage.torch_dataset import FeatureDataset
from featuregen.storage.verify import Check, check_file


def share_file(
    path: Path,
    out: Path | None = None,
    *,
    data: str | None = None,
    source: Path | None = None,
    with_source: bool = True,
    results: Path | None = None,
    licence: str | None = None,
    citation: str | None = None,
    force: bool = False,
) -> Path:
    """Verify a dataset and write the folder to publish it with, by default beside the file; returns the folder.

    A file that fails a check is not shared. `results` is what `reproduce` or `evaluate --json` wrote, by default the
    results.json beside the file. `licence` and `citation` are those of a base set that featuregen does not know.
    """
    check_name(path)
    if source and not with_source:
        raise UserError(f"--without-source leaves out the model that --source {source} names; give one of the two.")
    digest = file_sha256(path) if path.is_file() else ""
    _refuse_failing(path, check_file(path))
    info = read_info(path)
    model = _source_file(path, info, source) if with_source else None
    config = recorded_config(path, values={"data.name": data} if data else {})
    base = load_images(config.data)
    _refuse_failing(path, verify_origin(path, base, model))
    channels = info.image_shape[0]
    drawn = info.base.get("split", "train") == "train" and channels in (1, 3)
    if channels not in (1, 3):
        log(f"note: {path} has images of {channels} channels, so no preview is drawn")
    elif not drawn:
        log(f"note: {path} was made from {info.base.get('name')}, {info.base.get('split')}, so no preview is drawn")
    experiment = Experiment(config, path.parent, base=base)
    bundle = Bundle(
        info,
        digest,
        weights=(lambda target: _copy_weights(model, target)) if model else None,
        preview=(lambda picture: draw_preview(experiment, FeatureDataset(path), picture)) if drawn else None,
        results=_results_of(path, info, results),
        base="" if config.data.name in NAMED_SETS else config.data.name,
        licence=licence or _licence_of(info),
        citation=citation or base_citation(info),
    )
    return write_folder(bundle, out or path.with_name(f"{path.stem}-share"), force)


def _refuse_failing(path: Path, checks: list[Check]) -> None:
    failed = [f"{check.name} ({check.detail})" for check in checks if not check.ok]
    if failed:
        raise CheckFailed(f"{path} is not shared: {'; '.join(failed)}")


def _source_file(path: Path, info: DatasetInfo, source: Path | None) -> Path | None:
    """The file that holds the recorded source model, or None where none is recorded."""
    recorded = info.source_model.get("weights_sha256")
    if not isinstance(recorded, str):
        if source:
            raise UserError(f"{path} records no source model to compare with; leave out --source.")
        return None
    if source is None:
        return _find_source(path, recorded)
    digest = str(model_header(source)["weights_sha256"])
    if digest != recorded:
        raise UserError(
            f"{source} is not the source model of {path}: its weights have sha256 {digest[:12]}, recorded is "
            f"{recorded[:12]}."
        )
    return source


def _find_source(path: Path, digest: str) -> Path:
    here = path.absolute().parent
    # `reproduce` keeps its datasets a folder below its models; a shared folder has the model beside the file.
    if found := find_by_weights(digest, (here / "models", here.parent / "models", here)):
        return found
    raise UserError(
        f"The source model of {path} (weights sha256 {digest[:12]}) is not in {path.parent / 'models'}; name its file "
        "with --source, or leave it out with --without-source."
    )


def _copy_weights(model: Path, target: Path) -> None:
    """Copy the model file; convert a checkpoint of robustness, since recipients should not have to unpickle it."""
    if is_checkpoint(model):
        save_model(load_model(model), target)
    else:
        shutil.copyfile(model, target)


def _licence_of(info: DatasetInfo) -> str:
    """The recorded licence; a file of images states none, but its name may be that of a known set."""
    recorded, known = str(info.base.get("licence") or ""), NAMED_SETS.get(str(info.base.get("name")))
    return known.licence if known and (not recorded or recorded.startswith("not stated")) else recorded


def _results_of(path: Path, info: DatasetInfo, given: Path | None) -> dict[str, Any] | None:
    """The results in the named file, or in the results.json that this machine has written beside the dataset."""
    place = given or path.with_name("results.json")
    if not given and not place.is_file():
        return None
    text = read_bytes(place, MAX_BYTES)
    if not given and not is_remembered("results", hashlib.sha256(text).hexdigest()):
        log(f"note: {place} was not written on this machine, so the card has no results; --results takes them")
        return None
    results = results_about(info, read_results(text, str(place)))
    if given and not results:
        raise UserError(f"{given} has no results of {path}, whose content is {info.content_sha256[:12]}; evaluate it.")
    return dict(results) if results else None
