"""The card: what a person reads first, and what the Hugging Face hub shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from featuregen.publish.facts import facts, limits
from featuregen.publish.front_matter import yaml_header
from featuregen.publish.layout import BIBTEX, CROISSANT, MEANINGS, Contents, title_of
from featuregen.publish.results_section import evaluation_section
from featuregen.report import markdown_escape
from featuregen.storage import COLUMNS, PAPER, SUMS, DatasetInfo, column_dtype


def write_card(path: Path, info: DatasetInfo, contents: Contents, results: Mapping[str, Any] | None) -> None:
    sections = [
        f"# {markdown_escape(title_of(info))}",
        _intro(info),
        _table(["", ""], facts(info)),
        f"![Ten of the rows]({contents.preview})" if contents.preview else "",
        _files(contents),
        _columns(info),
        _loading(info, contents),
        _verifying(contents),
        _making_again(info, contents),
        evaluation_section(info, results) if results else "",
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in limits(info, bool(contents.weights))),
        _credits(info, contents),
    ]
    text = "\n\n".join(section for section in sections if section)
    path.write_text(f"{yaml_header(info, contents)}\n{text}\n", encoding="utf-8")


def _intro(info: DatasetInfo) -> str:
    method = (
        ", after Ilyas et al. 2019, [*Adversarial Examples Are Not Bugs, They Are Features*]"
        "(https://arxiv.org/abs/1905.02175)"
        if PAPER in info.citation
        else ""
    )
    return f"An image set made with featuregen{method}. One HDF5 file holds images, labels and how they were made."


def _table(head: list[str], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _files(contents: Contents) -> str:
    known = [
        (contents.data, "the dataset"),
        (contents.weights, "the source model that the images were made with, to check their success again"),
        (contents.preview, "ten of the rows: base image, start image where there is one, and result"),
        (contents.results, "all figures that the evaluation below is from"),
        (CROISSANT, "Croissant metadata"),
        (SUMS, "sha256 of every other file"),
    ]
    missing = "" if contents.weights else "\n\nThe source model is not in this folder."
    return "## Files\n\n" + _table(["file", "what"], [(f"`{name}`", text) for name, text in known if name]) + missing


def _columns(info: DatasetInfo) -> str:
    low, high = ("0", "255") if info.dtype == "uint8" else ("0", "1")
    rows = []
    for name in sorted(COLUMNS):
        shape = (info.rows, *info.image_shape) if name == "images" else (info.rows,)
        more = f", {low} to {high}, channels first" if name == "images" else ""
        dtype = column_dtype(name, info.dtype).name
        rows.append((f"`{name}`", " × ".join(str(side) for side in shape), dtype, MEANINGS[name] + more))
    classes = ", ".join(markdown_escape(name) for name in info.classes[:100])
    rest = f" and {len(info.classes) - 100} more" if len(info.classes) > 100 else ""
    return (
        f"## Columns\n\n{_table(['column', 'shape', 'type', 'meaning'], rows)}\n\n"
        f"Classes, from label 0 on: {classes}{rest}.\n\n"
        "Everything else is an attribute of the file's root, as text or JSON: `kind`, `recipe`, `base`, "
        "`source_model`, `classes`, `success_rate`, `config`, `software`, `created`, "
        "`citation`, `content_sha256`, `record_sha256`."
    )


def _loading(info: DatasetInfo, contents: Contents) -> str:
    name = contents.data
    return "\n\n".join([
        "## Load",
        "With featuregen, as a torch `Dataset` of float32 images in [0, 1]:",
        _fenced("python", [
            "from featuregen import FeatureDataset",
            "",
            f'data = FeatureDataset("{name}")',
            "image, label = data[0]",
            "images, labels = data.images, data.labels  # all of them, as tensors",
        ]),
        "With h5py alone:",
        _fenced("python", [
            "import json",
            "import h5py",
            "",
            f'with h5py.File("{name}") as file:',
            '    images, labels = file["images"][:], file["labels"][:]  # as stored',
            '    recipe = json.loads(file.attrs["recipe"])',
        ]),
        "With Hugging Face `datasets` (`pip install datasets`), in this folder or, once it is on the hub, with the "
        "repository's name:",
        _fenced("python", [
            "from pathlib import Path",
            "from datasets import load_dataset",
            "",
            'data = load_dataset(str(Path.cwd()), split="train").with_format("numpy")',
            'images, labels = data["images"][:], data["labels"][:]  # values as stored',
            'names = data.features["labels"].names',
        ]),
        *_training(info, contents),
    ])  # fmt: skip


def _training(info: DatasetInfo, contents: Contents) -> list[str]:
    """Attacked test images are not to be trained on."""
    if info.base.get("split", "train") != "train":
        return []
    return [
        "Fresh models trained on it alone, tested on the untouched test set, clean and attacked:",
        _fenced("console", [f"featuregen evaluate {contents.data}{_base_option(contents)}"]),
    ]


def _verifying(contents: Contents) -> str:
    source = f" --source {contents.weights}" if contents.weights else ""
    more = (
        f" The base set `{contents.base}` is not in this folder; without it leave out `--data`, and all that needs no "
        "base image is checked."
        if contents.base
        else ""
    )
    return "\n\n".join([
        "## Verify",
        _fenced("console", [
            f"sha256sum -c {SUMS}",
            f"featuregen verify {contents.data}{_base_option(contents)}{source}",
        ]),
        "The first says that no byte was lost on the way. The second recomputes digests, ranges, the rules of "
        "labels and starts, distances from the base images"
        + (" and what the source model sees" if source else "") + f".{more}",
    ])  # fmt: skip


def _base_option(contents: Contents) -> str:
    return f" --data {contents.base}" if contents.base else ""


def _making_again(info: DatasetInfo, contents: Contents) -> str:
    trained = info.source_model.get("settings")
    trees: dict[str, Any] = {"kind": info.kind, "rows": info.rows, "recipe": dict(info.recipe), "base": dict(info.base)}
    trees |= {"source_model": trained} if trained else {}
    parts = ["## Make it again"]
    if _can_be_remade(info, bool(contents.weights)):
        parts += [
            _fenced("console", [f"featuregen remake {contents.data}{_base_option(contents)}"]),
            "makes the set again from nothing but what the file records, and compares.",
        ]
    parts += [
        f"All settings are in the file (`featuregen info {contents.data} --json`), these among them:",
        _fenced("yaml", yaml.safe_dump(trees, sort_keys=False, width=110).splitlines()),
    ]
    return "\n\n".join(parts)


def _can_be_remade(info: DatasetInfo, weights: bool) -> bool:
    """From this folder: a source model that is not in it can be trained again, but not one that was attacked."""
    if "synthesis" in info.recipe:
        return weights or "settings" in info.source_model
    attacked = "attack" in info.recipe and info.base.get("split") in ("train", "test")
    return attacked and weights and "found_on" not in info.recipe


def _credits(info: DatasetInfo, contents: Contents) -> str:
    licence, citation = contents.licence, contents.citation
    text = markdown_escape(licence.text)
    named = f"[{text}]({licence.url})" if licence.url else text
    parts = [
        "## Licence and citation",
        f"The images are made from those of {markdown_escape(info.base.get('name', 'an unknown base set'))}, whose "
        f"licence is: {named}.",
    ]
    if citation:
        parts.append(f"The base set: {markdown_escape(citation)}")
    if PAPER in info.citation:
        parts += ["The method:", _fenced("bibtex", BIBTEX.splitlines())]
    return "\n\n".join(parts)


def _fenced(language: str, lines: list[str]) -> str:
    """A block of code, which nothing inside it can end."""
    fence = "```"
    while any(fence in line for line in lines):
        fence += "`"
    return "\n".join([f"{fence}{language}", *lines, fence])
