"""The YAML on top of the card, from which the Hugging Face hub and `datasets` know how to load the folder."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import yaml

from featuregen.publish.layout import Contents, Licence, title_of, unique_classes
from featuregen.storage import COLUMNS, DatasetInfo, column_dtype

_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B")
_CLASSES = ("labels", "source_labels", "source_pred")


class _Plain(yaml.SafeDumper):
    """Without anchors, which not every reader of cards follows: the names of the classes stand at every column."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def yaml_header(info: DatasetInfo, contents: Contents) -> str:
    tree = {
        **_licence(contents.licence),
        "pretty_name": title_of(info),
        "task_categories": ["image-classification"],
        "size_categories": [size_category(info.rows)],
        "tags": ["adversarial-examples", "robust-features", "featuregen", _slug(info.kind)],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": contents.data}]}],
        "dataset_info": {"config_name": "default", "features": _features(info)},
    }
    return f"---\n{yaml.dump(tree, Dumper=_Plain, sort_keys=False, width=120)}---\n"


def size_category(rows: int) -> str:
    return _SIZES[min(max(0, len(str(rows)) - 3), len(_SIZES) - 1)]


def _licence(licence: Licence) -> dict[str, str]:
    if licence.hub != "other":
        return {"license": licence.hub}
    return {"license": "other", "license_name": _slug(licence.text), "license_details": licence.text}


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "unnamed"


def _features(info: DatasetInfo) -> list[dict[str, Any]]:
    """Every column's type, with the names of the classes, which HDF5 keeps where `datasets` does not look."""
    names = {"names": {str(number): name for number, name in enumerate(unique_classes(info))}}
    found: list[dict[str, Any]] = []
    for column in COLUMNS:
        dtype: Any = np.dtype(column_dtype(column, info.dtype)).name
        if column == "images":
            dtype = {"array3_d": {"shape": list(info.image_shape), "dtype": dtype}}
        elif column in _CLASSES:
            dtype = {"class_label": names}
        found.append({"name": column, "dtype": dtype})
    return found
