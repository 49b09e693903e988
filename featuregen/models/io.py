"""Models on disk: safetensors whose metadata says what is inside and how it was made."""

from __future__ import annotations

import hashlib
import html
import json
import os
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from featuregen.config.record_schemas import ModelHeader
from featuregen.config.records import check_record, parse_json
from featuregen.config.schema import Model
from featuregen.config.serialize import canonical_json, shown_name
from featuregen.errors import UserError, printable
from featuregen.models.classifier import Classifier
from featuregen.models.registry import skeleton
from featuregen.runtime.atomic import atomic_write

FORMAT = "featuregen-model"
VERSION = 1

# Bytes; a model of a thousand tensors has 100 KB.
_MAX_HEADER = 8 << 20
_DTYPES = {torch.float32: "F32", torch.int64: "I64"}


def weights_sha256(model: nn.Module) -> str:
    """Digest of every parameter and buffer, whatever their device and memory format."""
    return _digest(model.state_dict())


def save_model(model: Classifier, path: str | os.PathLike[str], record: dict[str, Any] | None = None) -> None:
    """Save a classifier as safetensors with its settings as metadata; an interrupted write leaves no file.

    Equal models and records give equal bytes.

    Args:
        model: The classifier; `load_model` rebuilds it from the file alone.
        path: The file to write; missing folders are created.
        record: How the model was trained, as JSON values. Without one, `model.record` is kept.

    Raises:
        UserError: A weight is NaN or infinite, or the file cannot be written.

    Example:
        >>> import tempfile, featuregen as fg
        >>> model = fg.build_model("convnet", (1, 8, 8), classes=10, width=4)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     fg.save_model(model, f"{folder}/m.safetensors", {"note": "untrained"})
        ...     fg.load_model(f"{folder}/m.safetensors").record
        {'note': 'untrained'}
    """
    path = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if broken := _not_finite(tensors):
        raise UserError(f"{path} is not written: {broken} has NaN or infinite weights; train with a lower lr.")
    header = {
        "format": FORMAT,
        "version": VERSION,
        "architecture": model.architecture,
        "width": model.width,
        "image_shape": model.image_shape,
        "classes": model.classes,
        "weights_sha256": _digest(tensors),
        "record": model.record if record is None else record,
    }
    text = canonical_json(header)
    # What is written must open again; `record` may come from a user.
    check_record(json.loads(text), ModelHeader, f"{path} is not written", "rename that key of the record")
    content = save(tensors, metadata={"featuregen": text})
    if int.from_bytes(content[:8], "little") > _MAX_HEADER:
        raise UserError(f"{path} is not written: its record has more than {_MAX_HEADER >> 20} MiB; shorten the record.")
    atomic_write(path, content)


def read_model_record(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The checked metadata of a saved model, with its `record`; reads no weights."""
    with _open(Path(path)) as file:
        return _parse(Path(path), (file.metadata() or {}).get("featuregen"))


def load_model(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Classifier:
    """Load a classifier that `save_model` has written.

    Args:
        path: The file.
        device: Where the weights go.

    Returns:
        The model in eval mode, with its record in `model.record`.

    Raises:
        UserError: The file is missing, damaged, or no featuregen model.
    """
    path = Path(path)
    with _open(path) as file:
        header = _parse(path, (file.metadata() or {}).get("featuregen"))
        model = _skeleton(path, header)
        names = file.keys()
        slices = {name: file.get_slice(name) for name in names}
        _check_fit(path, model, {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()})
        # Cloned, because safetensors maps the file: if it shrank later, a read would kill the process.
        tensors = {name: file.get_tensor(name).clone() for name in names}
    if _digest(tensors) != header["weights_sha256"]:
        raise UserError(f"{path} is damaged: its weights do not match their recorded sha256; restore the file.")
    broken = _not_finite(tensors)
    if broken or bool((tensors["std"] <= 0).any()):
        raise UserError(f"{path} holds unusable weights: {broken or 'std'} must be finite and deviations positive.")
    model.load_state_dict(tensors, assign=True)
    model.record = header["record"]
    return model.to(device).eval()


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _not_finite(tensors: dict[str, Tensor]) -> str:
    """The first tensor with NaN or infinite values, or nothing."""
    return next((name for name, tensor in sorted(tensors.items()) if not bool(tensor.isfinite().all())), "")


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise UserError(f"No model file {path}: {'that is no file' if path.exists() else 'it does not exist'}.")
    try:
        _check_header(path)
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is no readable safetensors file ({reason}); it may be truncated.") from None


def _check_header(path: Path) -> None:
    """Refuse what safetensors would take seconds and a gigabyte to read, or would call truncated for its name."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"{path} has a name that is not UTF-8, which safetensors cannot open; rename it.") from None
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if _MAX_HEADER < length < path.stat().st_size:
        raise UserError(
            f"{path} has {length >> 20} MiB of names and metadata; a model has at most {_MAX_HEADER >> 20}."
        )


def _parse(path: Path, text: str | None) -> dict[str, Any]:
    """The featuregen part of the metadata, with the types it must have."""
    if text is None:
        raise UserError(f"{path} is a safetensors file but no featuregen model: it has no featuregen metadata.")
    where = f"{path}: its metadata"
    header = parse_json(text, where)
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise UserError(f"{path} is no featuregen model: its metadata does not say format '{FORMAT}'.")
    version = header.get("version")
    if type(version) is int and version > VERSION:
        raise UserError(
            f"{path} has model format version {version}; update featuregen, this one reads up to {VERSION}."
        )
    check_record(header, ModelHeader, where)
    return header


def _skeleton(path: Path, header: dict[str, Any]) -> Classifier:
    """The modules that the metadata describes, on the meta device: false metadata allocates nothing."""
    channels, height, width = header["image_shape"]
    settings = Model(header["architecture"], header["width"])
    try:
        return skeleton(settings, (channels, height, width), header["classes"])
    except UserError as error:
        raise UserError(f"{path} cannot be loaded: {error}") from None


def _check_fit(path: Path, model: Classifier, stored: dict[str, tuple[str, list[int]]]) -> None:
    expected = {name: (_DTYPES[tensor.dtype], list(tensor.shape)) for name, tensor in model.state_dict().items()}
    for name in sorted(expected.keys() | stored.keys()):
        if expected.get(name) != stored.get(name):
            wanted = "no such tensor" if name not in expected else "{} {}".format(*expected[name])
            got = "none" if name not in stored else "{} {}".format(*stored[name])
            raise UserError(
                f"{path} does not fit {model.architecture}: tensor {reprlib.repr(name)} should be {wanted}, "
                f"and the file has {got}."
            )


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on clean images and under attack.

    The keys of `l2` and `linf` are radii as text, such as "0.5", so that JSON keeps them.

    Example:
        >>> import featuregen as fg
        >>> fg.Accuracy(clean=0.9, l2={"0.5": 0.6}, linf={}).l2["0.5"]
        0.6
    """

    clean: float
    l2: dict[str, float]
    linf: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def _repr_html_(self) -> str:
        rows = [("clean", self.clean)]
        for norm, accuracies in (("L2", self.l2), ("Linf", self.linf)):
            rows += [(html.escape(printable(f"{norm} eps {eps}")), accuracy) for eps, accuracy in accuracies.items()]
        cells = "".join(f"<tr><td>{name}</td><td>{accuracy:.1%}</td></tr>" for name, accuracy in rows)
        return f"<table><tr><th>images</th><th>accuracy</th></tr>{cells}</table>"


@dataclass(frozen=True)
class TrainedModel:
    """A model, the record that travels with it, and its file.

    `found` means that it was not trained on this machine, so that nothing but its weights is known.

    Example:
        >>> import featuregen as fg
        >>> tiny = ["sources.standard.epochs=1", "evaluation.steps=1"]
        >>> trained = fg.Experiment("digits", out="out", overrides=tiny).source_model("standard")
        >>> trained.model.architecture, 0 <= trained.accuracy.clean <= 1
        ('convnet', True)
    """

    model: Classifier
    record: dict[str, Any]
    path: Path
    digest: str = ""
    found: bool = False

    @cached_property
    def weights_sha256(self) -> str:
        """The digest of the weights: the one that was checked as they were loaded, or else computed once."""
        return self.digest or weights_sha256(self.model)

    @property
    def accuracy(self) -> Accuracy:
        """What the record says of its accuracy on the test set."""
        recorded = self.record.get("accuracy")
        if not isinstance(recorded, dict):
            raise UserError(f"{self.path} records no accuracy; measure it with featuregen.evaluate.")
        return Accuracy(recorded["clean"], recorded["l2"], recorded["linf"])


def describe_model(trained: TrainedModel) -> dict[str, Any]:
    """What a dataset records of its source model: nothing that changes from run to run of the same training."""
    record: Mapping[str, Any] = trained.record
    model = trained.model
    return {
        "architecture": model.architecture,
        "width": model.width,
        "weights_sha256": trained.weights_sha256,
        **{
            name: record[name]
            for name in ("settings", "origin", "trained_on", "train_accuracy", "accuracy")
            if name in record
        },
    }


def model_summary(trained: TrainedModel) -> dict[str, Any]:
    """What the report of an attack says of a model."""
    model = trained.model
    return {
        "file": shown_name(trained.path.name),
        "architecture": model.architecture,
        "width": model.width,
        "weights_sha256": trained.weights_sha256,
    }
