"""Verification of a dataset file: by itself, against its base dataset, and against its source model."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from featuregen.data.base_dataset import SPLITS, BaseDataset
from featuregen.data.sources import load_images
from featuregen.errors import UserError
from featuregen.evaluation.accuracy import predict
from featuregen.experiment.files import recorded_config
from featuregen.interop.load import load_model
from featuregen.models.classifier import check_logits
from featuregen.models.io import weights_sha256
from featuregen.runtime.console import log
from featuregen.runtime.device import configure_process, resolve_device
from featuregen.storage.checksums import check_sums
from featuregen.storage.reader import DatasetInfo, read_columns, read_info
from featuregen.storage.torch_dataset import FeatureDataset
from featuregen.storage.verify import Check, check_against_base, check_file


def verify(
    path: str | os.PathLike[str], data: str | None = None, source: str | os.PathLike[str] | None = None
) -> list[Check]:
    """Verify a dataset file.

    Its checksums, ranges and recorded rules are checked, and a SHA256SUMS beside it; then its rows against the base
    dataset, where that is available, and its success rate against the source model, where that is given.

    Args:
        path: The HDF5 file.
        data: The base dataset, by name or path; by default the recorded one.
        source: The source model's file.

    Returns:
        The checks, each with a name, whether it passed, and a detail.

    Example:
        >>> import featuregen as fg
        >>> tiny = ["sources.standard.epochs=1", "synthesis.det.rows=20", "synthesis.det.steps=2"]
        >>> det = fg.Experiment("digits", out="out", overrides=tiny).make_dataset("det")
        >>> all(check.ok for check in fg.verify(det.path))
        True
    """
    path, source = Path(path), Path(source) if source else None
    checks = check_file(path) + check_sums(path)
    if all(check.ok for check in checks):
        try:
            base = load_images(recorded_config(path, values={"data.name": data} if data else {}).data)
        except UserError as error:
            if data:
                raise
            # The recorded base dataset is not here; everything else can be checked without it.
            base = None
            log(f"note: {path} is not compared with its base images; with --data it will be. {error}")
            checks.append(Check("base images", True, "not compared, since they are not here"))
        checks += verify_origin(path, base, source)
    return checks


def verify_origin(path: Path, base: BaseDataset | None, source: Path | None) -> list[Check]:
    """Compare an undamaged file with its base dataset, where that is loaded, and with its source model."""
    info = read_info(path)
    checks = _check_base(path, info, base) if base else []
    return checks + (_check_success(path, info, source) if source else [])


def _check_base(path: Path, info: DatasetInfo, base: BaseDataset) -> list[Check]:
    part = info.base.get("split", "train")
    if part not in SPLITS:
        return [Check("base rows", True, f"made from rows of {info.base.get('name')}, which is not compared")]
    split = base.split(part)
    if split.sha256 != info.base.get("sha256"):
        raise UserError(
            f"{path} was made from {info.base.get('name')} with digest {str(info.base.get('sha256'))[:12]}, but "
            f"{base.name} has {split.sha256[:12]}; name its base set with --data."
        )
    return check_against_base(path, split.images, split.labels)


def _check_success(path: Path, info: DatasetInfo, source: Path) -> list[Check]:
    if not info.source_model:
        raise UserError(f"{path} records no source model to compare with; leave out --source.")
    device = resolve_device("auto")
    configure_process(threads=0)
    model = load_model(source, device)
    if (model.image_shape, model.classes) != (info.image_shape, len(info.classes)):
        raise UserError(
            f"{source} takes images of shape {model.image_shape} in {model.classes} classes, but {path} has "
            f"{info.image_shape} in {len(info.classes)}; give its source model."
        )
    check_logits(model, str(source))
    digest, recorded = weights_sha256(model), info.source_model.get("weights_sha256")
    columns = read_columns(path, ["labels", "source_pred"])
    predicted = predict(model, FeatureDataset(path).images.to(device)).cpu().numpy()
    known = columns["source_pred"] != -1
    if not known.any():
        raise UserError(f"{path} records no prediction of its source model to compare with; leave out --source.")
    differ = int((predicted != columns["source_pred"])[known].sum())
    success = float(np.mean((predicted == columns["labels"])[known]))
    # Another machine may round a prediction at the decision boundary the other way, in one row of two hundred at most.
    return [
        Check("source model", digest == recorded, f"weights {digest[:12]}, recorded {str(recorded)[:12]}"),
        Check(
            "success recomputed",
            differ <= max(1, int(known.sum()) // 200) and abs(success - info.success_rate) <= 0.005,
            f"{success:.4f}, recorded {info.success_rate:.4f}; {differ} of {int(known.sum())} predictions differ",
        ),
    ]
