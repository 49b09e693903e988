"""The names in the folder, and what card and Croissant both say of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath

from featuregen.config.kinds import ATTACKED
from featuregen.report.tables import KIND_NAMES
from featuregen.storage.reader import DatasetInfo
from featuregen.storage.schema import PAPER

CARD = "README.md"
CROISSANT = "croissant.json"
RESULTS = "results.json"

BIBTEX = """\
@inproceedings{ilyas2019adversarial,
  title     = {Adversarial Examples Are Not Bugs, They Are Features},
  author    = {Ilyas, Andrew and Santurkar, Shibani and Tsipras, Dimitris and Engstrom, Logan and Tran, Brandon and
               Madry, Aleksander},
  booktitle = {Advances in Neural Information Processing Systems},
  volume    = {32},
  year      = {2019},
  url       = {https://arxiv.org/abs/1905.02175}
}"""

# By their names on the Hugging Face hub.
_LICENCES = {
    "apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
    "cc-by-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "cc-by-sa-3.0": "https://creativecommons.org/licenses/by-sa/3.0/",
    "cc-by-sa-4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "cc0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "mit": "https://opensource.org/license/mit",
}
# How the text begins where there is no licence to name.
_UNSTATED = ("none stated", "not stated", "not recorded")

MEANINGS = {
    "images": "the pixels",
    "index": "row of the base image in the base set; −1 unknown",
    "labels": "the label to train on",
    "norm": "L2 distance from the base image, of the stored pixels in [0, 1]; NaN unknown",
    "objective": "what was minimised, at the stored image: distance of the features relative to those of the base "
    "image, or cross-entropy; NaN unknown",
    "source_labels": "the true label of the base image; −1 unknown",
    "source_pred": "the class that the source model predicts for the stored image; −1 unknown",
    "start_index": "row of the image that the pixels started from; −1 for noise, or unknown",
}


@dataclass(frozen=True)
class Licence:
    """The base set's licence in words, its name on the hub (`other` if it has none there), and its page."""

    text: str
    hub: str
    url: str


@dataclass(frozen=True)
class Contents:
    """The files of the folder by name, and what to credit; empty where there is none.

    `base` is what --data has to name, where featuregen does not know the base set by itself.
    """

    data: str
    weights: str
    preview: str
    results: str
    base: str
    licence: Licence
    citation: str


def title_of(info: DatasetInfo) -> str:
    kind = "Adversarial examples" if info.kind == ATTACKED else KIND_NAMES.get(info.kind, info.kind)
    return f"{kind} of {info.base.get('name', 'an unknown base set')}"


def licence_of(text: str) -> Licence:
    text = text or "not recorded"
    name = re.sub(r"\s+", "-", text.strip().lower())
    if name in _LICENCES:
        return Licence(text, name, _LICENCES[name])
    return Licence(text, "unknown" if text.startswith(_UNSTATED) else "other", "")


def base_citation(info: DatasetInfo) -> str:
    return info.citation.removesuffix(PAPER).strip()


def safe_name(path: str) -> str:
    """The last part of a path as it can stand in commands to copy, since it may be a stranger's."""
    name = PurePath(path)
    if not path or re.fullmatch(r"\w[\w.-]*", name.name, re.ASCII):
        return name.name
    return "base-set" + (name.suffix if name.suffix in (".npz", ".h5", ".hdf5") else "")


def unique_classes(info: DatasetInfo) -> list[str]:
    """Their names, numbered where two are the same."""
    names = list(info.classes)
    return names if len({*names}) == len(names) else [f"{number} {name}" for number, name in enumerate(names)]
