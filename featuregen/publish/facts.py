"""How a dataset was made, by whom it can be trusted and where it ends, in words made from its record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from featuregen.config import ATTACKED, KINDS, MISLABELLED
from featuregen.report import NORMS, markdown_escape, percent
from featuregen.storage import DatasetInfo, read_columns
from featuregen.synthesis import meaning_of

_STARTS = {
    "image": "another training image",
    "noise": "noise around mid-grey",
    "self": "the base image itself",
}
_OBJECTIVES: dict[object, str] = {
    "features": "towards the base image's penultimate features in the source model",
    "class": "until the source model sees the stored label",
}
_LABELS: dict[object, str] = {
    "true": "that of the base image",
    "random": "drawn at random",
    "next": "the class after that of the base image",
}
_SOFTWARE = ("featuregen", "torch", "device", "precision")


def facts(info: DatasetInfo) -> list[tuple[str, ...]]:
    """The table at the top of the card."""
    base, rule = info.base, KINDS.get(info.kind)
    shape = "×".join(str(side) for side in info.image_shape)
    meaning = meaning_of(info.kind) + ("; x is the base image" if rule else "")
    rows = [
        ("kind", f"`{_code(info.kind)}`" + (f": {meaning}" if meaning else "")),
        ("rows", f"{info.rows:,}, made from the {_count(base.get('rows'))} of {_text(base.get('name'))}, "
                 f"{_text(base.get('split'))}"),
        ("images", f"{shape}, {info.dtype}, {len(info.classes)} classes"),
        ("made", _made(info)),
        ("label stored", _LABELS.get(rule.label, "by a rule of the kind") if rule else "that of the base image"),
        ("threat model", _threat(info)),
        ("source model", _source(info.source_model)),
        ("accuracy left" if info.kind == ATTACKED else "success", _success(info)),
        ("distance from the base image", _distance(info)),
        ("seed", _text(info.recipe.get("seed"))),
        ("software", ", ".join(_text(f"{name} {info.software[name]}") for name in _SOFTWARE if name in info.software)),
        ("finished", _text(info.created)),
        ("content_sha256", f"`{_code(info.content_sha256)}`"),
    ]  # fmt: skip
    return [row for row in rows if row[1] and row[1] != "None"]


def limits(info: DatasetInfo, weights: bool) -> list[str]:
    """What the set does not show."""
    found = []
    if info.kind in MISLABELLED:
        found.append(
            "Most labels are not what a person sees. The set is for experiments on what networks learn from, not for "
            "training anything that is used."
        )
    if not math.isnan(info.success_rate):
        found.append(
            "Success is that against one source model, whose gradients made the images; others see them otherwise."
        )
    if "imported" in info.recipe:
        found.append("The file was imported: how it was made, and by which model, is not recorded.")
    if not weights and info.source_model:
        found.append("Without the source model's weights, the recorded success cannot be checked.")
    found += [
        "Rows come from one split of the base set alone; for tests take the base set's own test images.",
        "The same bytes are promised on one CPU machine with the same software; other hardware rounds otherwise.",
        "Checksums show that the file is as it was written, not who wrote it.",
    ]
    return found


def _made(info: DatasetInfo) -> str:
    if "imported" in info.recipe:
        return "elsewhere, imported from the layout of the paper's authors"
    if isinstance(attack := info.recipe.get("attack"), Mapping):
        chosen = ", ".join(f"{name} {_short(value)}" for name, value in attack.items() if value and name != "name")
        return _text(f"by the attack {attack.get('name')} on the source model ({chosen})")
    settings, rule = info.recipe.get("synthesis"), KINDS.get(info.kind)
    if not isinstance(settings, Mapping) or rule is None:
        return ""
    objective = _OBJECTIVES.get(rule.objective, "by an objective that the kind defines")
    return (
        f"from {_STARTS[rule.start]}, in {_text(settings.get('steps'))} steps of {_text(settings.get('step_size'))} "
        f"({_text(settings.get('schedule'))}, momentum {_text(settings.get('momentum'))}), {objective}"
    )


def _threat(info: DatasetInfo) -> str:
    """What whoever moved the pixels knew, and how far they might go."""
    if "imported" in info.recipe:
        return "not recorded"
    settings = info.recipe.get("synthesis", info.recipe.get("attack"))
    if not isinstance(settings, Mapping):
        return ""
    norm, eps = settings.get("norm"), settings.get("eps")
    if norm in NORMS and isinstance(eps, (int, float)) and eps:
        reach = f"stored pixels within {_norm(norm)} {eps:g} of the base image, pixels in [0, 1]"
    else:
        reach = "no limit on the distance from the base image"
    if "attack" in info.recipe:
        return reach
    return f"white box, the source model's gradients; {reach}"


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _norm(name: object) -> object:
    return NORMS.get(str(name), name)


def _source(source: Mapping[str, Any]) -> str:
    if not source:
        return "not recorded"
    attack, clean = _at(source, "settings", "training", "attack"), _at(source, "accuracy", "clean")
    how = ", trained in the ordinary way" if _at(source, "settings", "training") else ""
    if isinstance(attack, Mapping):
        ball = f"{_norm(attack.get('norm'))} eps {attack.get('eps')}"
        how = f", trained adversarially ({ball}, {attack.get('steps')} steps)"
    tested = f", {percent(clean)} % of clean test images right" if isinstance(clean, float) else ""
    weights = f", weights sha256 `{_code(source.get('weights_sha256'))}`"
    return f"{_text(source.get('architecture'))}{_text(how)}{tested}{weights}"


def _at(tree: object, *keys: str) -> Any:
    """What lies there, or None: a stranger's record need not look like one of ours."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def _success(info: DatasetInfo) -> str:
    if math.isnan(info.success_rate):
        return "not recorded"
    return f"{percent(info.success_rate)} % of the rows are seen by the source model as the label they carry"


def _distance(info: DatasetInfo) -> str:
    norm = read_columns(info.path, ["norm"])["norm"].astype(np.float64)
    if np.isnan(norm).all():
        return "not recorded"
    return f"L2 {np.nanmean(norm):.3g} on average, {np.nanmax(norm):.3g} at most"


def _count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else _text(value)


def _text(value: object) -> str:
    return markdown_escape(value)


def _code(value: object) -> str:
    """Inside backticks nothing can be escaped, so what would end them goes."""
    return "".join(char if char.isprintable() and char not in "`|" else "?" for char in str(value))
