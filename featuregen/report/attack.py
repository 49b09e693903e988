"""The result of an attack: its numbers in a few lines, and its images beside the originals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featuregen.errors import join_lines
from featuregen.report.tables import NORMS, UNKNOWN, number, percent

# Changes are too small to be seen as they are.
_MAGNIFIED = 10
_UNITS = {"l0": "L0 (pixels)", "l1": "L1", **NORMS}


def attack_text(results: Mapping[str, Any]) -> str:
    images, accuracy, confidence = results["images"], results["accuracy"], results["confidence"]
    lines = [
        ("attack", describe_attack(results["attack"])),
        ("threat model", _threat_model(results)),
        ("images", f"{images['count']} of {images['name']}, {images['split']}; {results['tried']} attacked"),
        ("accuracy", f"{_percent(accuracy['before'])} before, {_percent(accuracy['after'])} after"),
        ("success", f"{_percent(results['success'])} of the attacked images"),
    ]
    if confidence["before"]:
        distances = [f"{_UNITS[norm]} {_median_and_largest(found)}" for norm, found in results["distance"].items()]
        medians = [_percent(confidence[when]["median"]) for when in ("before", "after")]
        lines += [
            ("distance", f"{', '.join(distances)} (median, largest)"),
            (
                "confidence",
                f"{medians[0]} before, {medians[1]} after (medians); more confident in {_percent(confidence['surer'])}",
            ),
        ]
    return join_lines(f"{name:<14}{text}" for name, text in lines)


def describe_attack(attack: Mapping[str, Any]) -> str:
    """Its name and settings, such as "pgd: linf eps 0.0314, steps 20"."""
    norm, eps = attack.get("norm"), attack.get("eps")
    # A stranger's record may hold anything here.
    radius = f"eps {eps:.4g}" if isinstance(eps, (int, float)) else f"eps {eps}"
    settings = [" ".join(([str(norm)] if norm else []) + ([radius] if eps else []))]
    for setting, value in attack.items():
        if setting not in ("name", "norm", "eps", "target") and value:
            settings.append(setting.replace("_", " ") + ("" if value is True else f" {value}"))
    settings.append(f"towards {attack['target']}" if attack.get("target") else "")
    text = ", ".join(filter(None, settings))
    name = str(attack.get("name"))
    return f"{name}: {text}" if text else name


def attack_picture(
    path: str | Path,
    before: NDArray[Any],
    after: NDArray[Any],
    predicted_before: Sequence[tuple[str, float]],
    predicted_after: Sequence[tuple[str, float]],
    title: str,
) -> Path:
    """Original, ten times the change around grey, and result, with the predicted classes and their confidences."""
    # Most who describe an attack draw nothing, and matplotlib takes a while to load.
    from featuregen.report.image_grid import MAX_COLUMNS, Row, draw_grid

    shown = slice(MAX_COLUMNS)
    first, last = (np.asarray(images[shown], dtype=np.float64) for images in (before, after))
    change = np.clip(0.5 + _MAGNIFIED * (last - first), 0, 1)
    captions = [
        [f"{name}, {percent(confidence, 0, ' %')}" for name, confidence in predicted[shown]]
        for predicted in (predicted_before, predicted_after)
    ]
    rows = [
        Row("original", first, captions[0]),
        Row(f"change × {_MAGNIFIED}", change),
        Row("result", last, captions[1]),
    ]
    return draw_grid(path, rows, title=title)


def _threat_model(results: Mapping[str, Any]) -> str:
    match results["threat"]:
        case "white-box":
            return "white box: the model and its gradients"
        case "query":
            return "black box: the model's outputs alone"
        case _:
            origin = results["origin"]
            return f"black box: transfer from {origin['file']}, with {_percent(origin['success'])} success there"


def _percent(share: float | None) -> str:
    return percent(share, unit=" %")


def _median_and_largest(distance: Mapping[str, float] | None) -> str:
    if distance is None:
        return UNKNOWN
    return ", ".join(number(distance[name], ".3g") for name in ("median", "largest"))
