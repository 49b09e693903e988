"""Croissant 1.1: the folder for machines. https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from featuregen.publish.layout import BIBTEX, MEANINGS, Contents, title_of, unique_classes
from featuregen.storage.reader import DatasetInfo
from featuregen.storage.schema import COLUMNS, PAPER, column_dtype

CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    **{
        name: f"cr:{name}"
        for name in (
            "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileObject",
            "fileProperty", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5",
            "parentField", "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate",
            "separator", "source", "subField", "transform",
        )
    },
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
}  # fmt: skip
# Without a registered type the page that describes the format stands for it.
_ENCODINGS = {
    ".h5": "application/x-hdf5",
    ".hdf5": "application/x-hdf5",
    ".json": "application/json",
    ".png": "image/png",
    ".safetensors": "https://huggingface.co/docs/safetensors",
}
_TYPES = {"uint8": "cr:UInt8", "float16": "cr:Float16", "float32": "cr:Float32", "int64": "cr:Int64"}
_ROWS, _CLASSES = "rows", "classes"


def write_croissant(path: Path, info: DatasetInfo, contents: Contents, files: Mapping[str, tuple[str, int]]) -> None:
    """`files` has digest and size of each file by name."""
    text = json.dumps(_metadata(info, contents, files), indent=1, ensure_ascii=True, allow_nan=False)
    # The one control character that JSON leaves as it is.
    text = text.replace("\x7f", "\\u007f")
    path.write_text(f"{text}\n", encoding="utf-8")


def _metadata(info: DatasetInfo, contents: Contents, files: Mapping[str, tuple[str, int]]) -> dict[str, Any]:
    licence = contents.licence
    cited = BIBTEX if PAPER in info.citation else contents.citation
    description = f"{title_of(info)}: {info.rows} images with labels, made with featuregen. README.md says how."
    based = f" The base set: {contents.citation}" if contents.citation else ""
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": title_of(info),
        "description": description + based,
        "license": licence.url or f"licence of the base set: {licence.text}",
        **({"citeAs": cited} if cited else {}),
        **_dates(info),
        "version": "1.0.0",
        "keywords": ["adversarial examples", "robust features", info.kind],
        "identifier": f"content_sha256:{info.content_sha256}",
        "distribution": [_file(name, *about) for name, about in files.items() if Path(name).suffix in _ENCODINGS],
        "recordSet": [_class_names(info), _rows(info)],
    }


def _dates(info: DatasetInfo) -> dict[str, str]:
    """The date in the file for both, since today's would change the folder every day."""
    try:
        datetime.fromisoformat(info.created)
    except ValueError:
        return {}
    return {"dateCreated": info.created, "datePublished": info.created}


def _file(name: str, digest: str, size: int) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{size} B",
        "encodingFormat": _ENCODINGS[Path(name).suffix],
        "sha256": digest,
    }


def _class_names(info: DatasetInfo) -> dict[str, Any]:
    number, name = f"{_CLASSES}/label", f"{_CLASSES}/name"
    return {
        "@type": "cr:RecordSet",
        "@id": _CLASSES,
        "name": _CLASSES,
        "description": "The names of the classes by their numbers.",
        "dataType": "sc:Enumeration",
        "key": {"@id": number},
        "field": [
            {"@type": "cr:Field", "@id": number, "name": "label", "dataType": "cr:Int64"},
            {"@type": "cr:Field", "@id": name, "name": "name", "dataType": "sc:Text"},
        ],
        "data": [{number: label, name: text} for label, text in enumerate(unique_classes(info))],
    }


def _rows(info: DatasetInfo) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": _ROWS,
        "name": _ROWS,
        "description": f"{info.rows} rows; every column is a dataset at the root of the HDF5 file, one entry a row.",
        "field": [_field(info, name) for name in COLUMNS],
    }


def _field(info: DatasetInfo, column: str) -> dict[str, Any]:
    field = {
        "@type": "cr:Field",
        "@id": f"{_ROWS}/{column}",
        "name": column,
        "description": MEANINGS[column],
        "dataType": _TYPES[np.dtype(column_dtype(column, info.dtype)).name],
        "source": {"fileObject": {"@id": info.path.name}, "extract": {"column": column}},
    }
    if column == "images":
        return field | {"isArray": True, "arrayShape": ",".join(str(side) for side in info.image_shape)}
    # Of the columns that hold classes this is the one that never says unknown.
    return field | ({"references": {"field": {"@id": f"{_CLASSES}/label"}}} if column == "labels" else {})
