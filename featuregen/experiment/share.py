"""A dataset to send: verified, with its source model, its base set's picture and its results found for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from featuregen.config import with_overrides
from featuregen.data import NAMED_SETS, load_images
from featuregen.errors import CheckFailed, UserError
from featuregen.experiment.experiment import Experiment
from featuregen.experiment.files import find_by_weights, recorded_config
from featuregen.experiment.outputs import draw_preview
from featuregen.experiment.verify import verify_origin
from featuregen.interop import is_checkpoint, load_model, model_header
from featuregen.models import save_model
from featuregen.publish import Bundle, base_citation, check_name, evaluation_section, results_about, write_folder
from featuregen.runtime import log
from featuregen.storage import Check, DatasetInfo, check_file, file_sha256, read_info


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
    """Write the folder, by default beside the file, and say where; a file that fails a check is not shared.

    `results` is what `reproduce` or `evaluate --json` wrote, by default the results.json beside the file; `licence` and
    `citation` are those of the base set, where it is none that featuregen knows.
    """
    check_name(path)
    if source and not with_source:
        raise UserError(f"--without-source leaves out the model that --source {source} names; give one of the two.")
    digest = file_sha256(path) if path.is_file() else ""
    _refuse_failing(path, check_file(path))
    info = read_info(path)
    model = _source_of(path, info, source) if with_source else None
    recorded = recorded_config(path)
    config = with_overrides(recorded, (), {"data.name": data} if data else {})
    base = load_images(config.data)
    _refuse_failing(path, verify_origin(path, config, base, model))
    drawn = info.base.get("split", "train") == "train"
    if not drawn:
        log(f"note: {path} was made from {info.base.get('name')}, {info.base.get('split')}, so no preview is drawn")
    experiment = Experiment(config, path.parent, base=base)
    parcel = Bundle(
        info,
        digest,
        weights=(lambda target: _copy_weights(model, target)) if model else None,
        preview=(lambda picture: draw_preview(experiment, path, picture)) if drawn else None,
        results=_results_of(path, info, results),
        base="" if recorded.data.name in NAMED_SETS else config.data.name,
        licence=licence or _licence_of(info),
        citation=citation or base_citation(info),
    )
    return write_folder(parcel, out or path.with_name(f"{path.stem}-share"), force)


def _refuse_failing(path: Path, checks: list[Check]) -> None:
    failed = [f"{check.name} ({check.detail})" for check in checks if not check.ok]
    if failed:
        raise CheckFailed(f"{path} is not shared: {'; '.join(failed)}")


def _source_of(path: Path, info: DatasetInfo, given: Path | None) -> Path | None:
    """The file that holds the recorded source model, or None where none is recorded."""
    wanted = info.source_model.get("weights_sha256")
    if not isinstance(wanted, str):
        if given:
            raise UserError(f"{path} records no source model to compare with; leave out --source.")
        return None
    if given is None:
        return _found_model(path, wanted)
    held = str(model_header(given)["weights_sha256"])
    if held != wanted:
        raise UserError(
            f"{given} is not the source model of {path}: its weights have sha256 {held[:12]}, recorded is "
            f"{wanted[:12]}."
        )
    return given


def _found_model(path: Path, wanted: str) -> Path:
    here = path.absolute().parent
    # `reproduce` keeps its datasets a folder below its models; a folder that was shared has the model beside the file.
    if found := find_by_weights(wanted, (here / "models", here.parent / "models", here)):
        return found
    raise UserError(
        f"The source model of {path} (weights sha256 {wanted[:12]}) is not in {path.parent / 'models'}; name its file "
        "with --source, or leave it out with --without-source."
    )


def _copy_weights(model: Path, target: Path) -> None:
    """Ours as it is; a checkpoint of robustness as one of ours, since nobody should have to unpickle what is sent."""
    if is_checkpoint(model):
        save_model(load_model(model), target)
    else:
        shutil.copyfile(model, target)


def _licence_of(info: DatasetInfo) -> str:
    """As recorded; a file of images states none, but may hold a set that is known by its name."""
    recorded, known = str(info.base.get("licence") or ""), NAMED_SETS.get(str(info.base.get("name")))
    return known.licence if known and (not recorded or recorded.startswith("not stated")) else recorded


def _results_of(path: Path, info: DatasetInfo, given: Path | None) -> dict[str, Any] | None:
    """Those that were given, or those of the experiment that the dataset is part of, where they lie beside it."""
    place = given or path.with_name("results.json")
    if not given and not place.is_file():
        return None
    try:
        results = results_about(info, json.loads(place.read_text(encoding="utf-8")))
        if results:
            evaluation_section(info, results)
    except OSError as error:
        raise UserError(f"Cannot read {place}: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        what = f"{place} does not hold the results of `featuregen reproduce` or `featuregen evaluate --json`"
        if given:
            raise UserError(f"{what}; give such a file, or leave out --results.") from None
        log(f"note: {what}, so the card has none")
        return None
    if given and not results:
        raise UserError(f"{given} has no results of {path}, whose content is {info.content_sha256[:12]}; evaluate it.")
    return dict(results) if results else None
