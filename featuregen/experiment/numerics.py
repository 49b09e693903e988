"""The arithmetic of a folder of results: measured once, kept beside the models, so that later runs compute alike."""

from __future__ import annotations

import json
from pathlib import Path

from featuregen.compute import pick_compute_spec
from featuregen.config import Config
from featuregen.errors import UserError
from featuregen.models import Classifier, build_classifier
from featuregen.runtime import ComputeSpec, atomic_write, resolve_device

_FILE = "arithmetic.json"


def load_or_autotune(
    config: Config, shape: tuple[int, int, int], classes: int, folder: Path, keep: bool = True
) -> ComputeSpec:
    path = folder / _FILE
    kept = _read(path) if path.exists() else {}
    model, device = config.model, resolve_device(config.runtime.device)
    name = f"{model.architecture} {model.width}, {'x'.join(map(str, shape))}, {device}"
    compute, measured = pick_compute_spec(
        config.runtime, lambda: untrained_model(config, shape, classes), kept.get(name)
    )
    if measured and keep:
        atomic_write(path, json.dumps(kept | {name: compute.arithmetic}, indent=1))
    return compute


def untrained_model(config: Config, shape: tuple[int, int, int], classes: int) -> Classifier:
    """A model of the config, to measure with."""
    return build_classifier(config.model, shape, classes, [0.5] * shape[0], [0.25] * shape[0], seed=0)


def _read(path: Path) -> dict[str, dict[str, str]]:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        kept = None
    if not isinstance(kept, dict):
        raise UserError(f"{path} is damaged; delete it, and the arithmetic is measured again.")
    return kept
