"""A model with the record that travels with it, and what datasets and reports say of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from featuregen.errors import UserError
from featuregen.models.classifier import Classifier
from featuregen.models.io import weights_sha256


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
            rows += [(f"{norm} eps {eps}", accuracy) for eps, accuracy in accuracies.items()]
        cells = "".join(f"<tr><td>{name}</td><td>{accuracy:.1%}</td></tr>" for name, accuracy in rows)
        return f"<table><tr><th>images</th><th>accuracy</th></tr>{cells}</table>"


@dataclass(frozen=True)
class TrainedModel:
    """A model, the record that travels with it, and its file.

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

    @cached_property
    def weights_sha256(self) -> str:
        """The digest of the weights: the one that was checked as they were loaded, or else computed once."""
        return self.digest or weights_sha256(self.model)

    @property
    def accuracy(self) -> Accuracy:
        """What the record says of its accuracy on the test set."""
        recorded = self.record.get("accuracy")
        if not recorded:
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
        "file": trained.path.name,
        "architecture": model.architecture,
        "width": model.width,
        "weights_sha256": trained.weights_sha256,
    }
