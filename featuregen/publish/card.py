"""The card of a published dataset: Markdown for readers, under YAML for the Hugging Face hub and `datasets`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from featuregen.config.kinds import KINDS
from featuregen.publish.facts import can_be_remade, evaluation_section, facts, limits
from featuregen.publish.layout import BIBTEX, CROISSANT, MEANINGS, Contents, title_of, unique_classes
from featuregen.report.tables import markdown_escape
from featuregen.storage.checksums import SUMS
from featuregen.storage.reader import DatasetInfo
from featuregen.storage.schema import COLUMNS, PAPER, column_dtype
from featuregen.synthesis.kinds import meaning_of

_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B")
_CLASS_COLUMNS = ("labels", "source_labels", "source_pred")


class _Markdown(str):
    """Text that is Markdown already; every other value of the template is escaped."""


def write_card(path: Path, info: DatasetInfo, contents: Contents, results: Mapping[str, Any] | None) -> None:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Names, titles and settings come from a file that anyone may have written.
        finalize=lambda value: value if isinstance(value, _Markdown) else markdown_escape(value),
    )
    environment.filters |= {"code": _code, "fenced": _fenced}
    card = environment.get_template("card.md.j2").render(
        front_matter=_Markdown(front_matter(info, contents)),
        title=title_of(info),
        info=info,
        contents=contents,
        facts=facts(info),
        meaning=meaning_of(info.kind) + ("; x is the base image" if info.kind in KINDS else ""),
        evaluation=_Markdown(evaluation_section(info, results)) if results else "",
        limits=limits(info, bool(contents.weights)),
        columns=_columns(info),
        from_training_images=info.base.get("split", "train") == "train",
        remakable=can_be_remade(info, bool(contents.weights)),
        settings=_settings(info),
        data_option=f" --data {contents.base}" if contents.base else "",
        after_paper=PAPER in info.citation,
        BIBTEX=BIBTEX,
        CROISSANT=CROISSANT,
        SUMS=SUMS,
    )
    path.write_text(f"{card.rstrip()}\n", encoding="utf-8")


def _columns(info: DatasetInfo) -> list[tuple[str, str, str, str]]:
    """Name, shape, type and meaning of each."""
    values = "0 to 255" if info.dtype == "uint8" else "0 to 1"
    rows = []
    for name in sorted(COLUMNS):
        shape = (info.rows, *info.image_shape) if name == "images" else (info.rows,)
        more = f", {values}, channels first" if name == "images" else ""
        dtype = column_dtype(name, info.dtype).name
        rows.append((name, " × ".join(str(side) for side in shape), dtype, MEANINGS[name] + more))
    return rows


def _settings(info: DatasetInfo) -> str:
    tree: dict[str, Any] = {"kind": info.kind, "rows": info.rows, "recipe": dict(info.recipe), "base": dict(info.base)}
    if settings := info.source_model.get("settings"):
        tree["source_model"] = settings
    return yaml.safe_dump(tree, sort_keys=False, width=110)


# Escaping ------------------------------------------------------------------------------------------


def _code(value: object) -> _Markdown:
    """Inside backticks nothing can be escaped, so what would end them is replaced."""
    return _Markdown("".join(char if char.isprintable() and char not in "`|" else "?" for char in str(value)))


def _fenced(code: str, language: str) -> _Markdown:
    """A block of code, whose fence is longer than any inside it."""
    fence = "```"
    while fence in code:
        fence += "`"
    return _Markdown(f"{fence}{language}\n{code.rstrip()}\n{fence}")


# Front matter --------------------------------------------------------------------------------------


class _NoAliases(yaml.SafeDumper):
    """Not every reader of cards follows anchors, and the names of the classes stand at every column."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def front_matter(info: DatasetInfo, contents: Contents) -> str:
    """YAML that tells the hub and `datasets` how to load the folder."""
    licence = contents.licence
    tree: dict[str, Any] = {"license": licence.hub}
    if licence.hub == "other":
        tree |= {"license_name": _slug(licence.text), "license_details": licence.text}
    tree |= {
        "pretty_name": title_of(info),
        "task_categories": ["image-classification"],
        "size_categories": [size_category(info.rows)],
        "tags": ["adversarial-examples", "robust-features", "featuregen", _slug(info.kind)],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": contents.data}]}],
        "dataset_info": {"config_name": "default", "features": _features(info)},
    }
    return yaml.dump(tree, Dumper=_NoAliases, sort_keys=False, width=120)


def size_category(rows: int) -> str:
    return _SIZES[min(max(0, len(str(rows)) - 3), len(_SIZES) - 1)]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "unnamed"


def _features(info: DatasetInfo) -> list[dict[str, Any]]:
    """Every column's type, with the names of the classes, which HDF5 keeps where `datasets` does not look."""
    names = {"names": {str(number): name for number, name in enumerate(unique_classes(info))}}
    features: list[dict[str, Any]] = []
    for column in COLUMNS:
        dtype: Any = np.dtype(column_dtype(column, info.dtype)).name
        if column == "images":
            dtype = {"array3_d": {"shape": list(info.image_shape), "dtype": dtype}}
        elif column in _CLASS_COLUMNS:
            dtype = {"class_label": names}
        features.append({"name": column, "dtype": dtype})
    return features
