"""What an attack found: its numbers in a few lines, and its images beside the ones it started from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featuregen.report.pictures import MAX_COLUMNS, drawn_rows
from featuregen.report.tables import NORMS, UNKNOWN

# Changes are too small to be seen as they are.
MAGNIFIED = 10
_UNITS = {"l0": "L0 (pixels)", "l1": "L1", **NORMS}


def attack_text(results: Mapping[str, Any]) -> str:
    images, accuracy, confidence = results["images"], results["accuracy"], results["confidence"]
    lines = [
        ("attack", describe_attack(results["attack"])),
        ("knows", _threat(results)),
        ("images", f"{images['count']} of {images['name']}, {images['split']}; {results['tried']} attacked"),
        ("accuracy", f"{_percent(accuracy['before'])} before, {_percent(accuracy['after'])} after"),
        ("success", f"{_percent(results['success'])} of the attacked images"),
    ]
    if confidence["before"]:
        shown = [f"{_UNITS[name]} {_number(found)}" for name, found in results["distance"].items()]
        lines += [
            ("distance", ", ".join(shown) + " (median, largest)"),
            (
                "confidence",
                f"{_percent(confidence['before']['median'])} before, {_percent(confidence['after']['median'])} after "
                f"(medians); surer than before in {_percent(confidence['surer'])}",
            ),
        ]
    return "\n".join(f"{name:<12}{text}" for name, text in lines)


def describe_attack(attack: Mapping[str, Any]) -> str:
    """Its name and settings, such as "pgd: linf eps 0.0314, steps 20"."""
    known = {name: value for name, value in attack.items() if name not in ("name", "norm", "eps", "target") and value}
    ball = " ".join(str(attack[name]) for name in ("norm",) if attack.get(name))
    ball += f" eps {attack['eps']:.4g}" if attack.get("eps") else ""
    rest = ", ".join(name.replace("_", " ") + ("" if value is True else f" {value}") for name, value in known.items())
    target = f"towards {attack['target']}" if attack.get("target") else ""
    settings = ", ".join(part for part in (ball.strip(), rest, target) if part)
    return f"{attack['name']}: {settings}" if settings else str(attack["name"])


def attack_picture(
    path: str | Path,
    before: NDArray[Any],
    after: NDArray[Any],
    seen: Sequence[tuple[str, float]],
    then: Sequence[tuple[str, float]],
    title: str,
) -> Path:
    """Original, ten times the change around grey, and result; `seen` and `then` are classes with confidences."""
    shown = slice(MAX_COLUMNS)
    first, last = (np.asarray(images[shown], dtype=np.float64) for images in (before, after))
    change = np.clip(0.5 + MAGNIFIED * (last - first), 0, 1)
    words = [[f"{name}, {100 * sure:.0f} %" for name, sure in classes[shown]] for classes in (seen, then)]
    rows = [("original", first, words[0]), (f"change × {MAGNIFIED}", change, []), ("result", last, words[1])]
    return drawn_rows(path, rows, title)


def _threat(results: Mapping[str, Any]) -> str:
    if results["threat"] != "transfer":
        return {"white-box": "the model and its gradients", "query": "what the model answers"}[results["threat"]]
    origin = results["origin"]
    return f"another model only: found on {origin['file']}, which falls for {_percent(origin['success'])}"


def _percent(share: float | None) -> str:
    return UNKNOWN if share is None else f"{100 * share:.1f} %"


def _number(found: Mapping[str, float] | None) -> str:
    return UNKNOWN if found is None else f"{found['median']:.3g}, {found['largest']:.3g}"
