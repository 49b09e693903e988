"""The schemas of the records in model files, datasets and results: types and ranges of what featuregen reads.

Later versions may add keys, so unknown ones are allowed. docs/format.md describes those of a dataset.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

# Models --------------------------------------------------------------------------------------------

Name = Annotated[str, Meta(max_length=1000)]
Sha256 = Annotated[str, Meta(max_length=128)]
Share = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(ge=0)]
Seed = Annotated[int, Meta(ge=0)]
Radius = Annotated[float, Meta(ge=0, le=1e6)]
Count = Annotated[int, Meta(ge=1, le=2**40)]
Steps = Annotated[int, Meta(ge=0, le=1_000_000)]
# Accuracies by radius, whose keys are numbers as text.
ByRadius = dict[Annotated[str, Meta(pattern=r"^\d{1,9}(\.\d{1,20})?(e[-+]?\d{1,3})?$")], Share]


class Accuracy(Struct):
    clean: Share
    l2: ByRadius
    linf: ByRadius
    settings: dict[str, Any] | UnsetType = UNSET


class Attack(Struct):
    norm: Name | UnsetType = UNSET
    eps: Radius | UnsetType = UNSET
    steps: int | UnsetType = UNSET


class Training(Struct):
    attack: Attack | UnsetType | None = UNSET
    epochs: Annotated[int, Meta(ge=0)] | UnsetType = UNSET


class Settings(Struct):
    """What a model was trained with; `seed` is unknown for a model that featuregen has not trained."""

    seed: Seed | UnsetType | None = UNSET
    model: dict[str, Any] | UnsetType = UNSET
    training: Training | UnsetType = UNSET
    data: Name | UnsetType = UNSET


class TrainedOn(Struct):
    name: Name | UnsetType = UNSET
    sha256: Sha256 | UnsetType = UNSET


class ModelRecord(Struct):
    """How a model came about, as far as featuregen reads it; a user's own record may say less."""

    settings: Settings | UnsetType = UNSET
    trained_on: TrainedOn | UnsetType = UNSET
    origin: dict[str, Any] | UnsetType = UNSET
    config: dict[str, Any] | UnsetType = UNSET
    train_accuracy: Share | UnsetType | None = UNSET
    accuracy: Accuracy | Share | UnsetType = UNSET
    seconds: dict[str, Seconds] | Seconds | UnsetType = UNSET
    software: dict[str, Name] | UnsetType = UNSET


class SourceModel(Struct):
    """What a dataset records of its source model; empty if it is unknown."""

    architecture: Name | UnsetType = UNSET
    width: Annotated[int, Meta(ge=0)] | UnsetType = UNSET
    weights_sha256: Sha256 | UnsetType = UNSET
    settings: Settings | UnsetType = UNSET
    origin: dict[str, Any] | UnsetType = UNSET
    trained_on: TrainedOn | UnsetType = UNSET
    train_accuracy: Share | UnsetType | None = UNSET
    accuracy: Accuracy | Share | UnsetType = UNSET


class ModelHeader(Struct):
    """The metadata of a model file. The bounds are above any real model, so that torch cannot overflow."""

    format: Literal["featuregen-model"]
    version: Literal[1]
    architecture: Name
    width: Annotated[int, Meta(ge=0, le=4096)]
    image_shape: Annotated[list[Annotated[int, Meta(ge=1, le=4096)]], Meta(min_length=3, max_length=3)]
    classes: Annotated[int, Meta(ge=2, le=1_000_000)]
    weights_sha256: Sha256
    record: ModelRecord


# Files that a run keeps for the next one ------------------------------------------------------------


class MeasuredAccuracy(Accuracy, kw_only=True):
    settings: dict[str, Any]


class CachedModelRecord(Struct):
    """That of a model in the folder of an experiment; one that was imported need not say how it was trained."""

    settings: Settings
    train_accuracy: Share | None
    seconds: dict[str, Seconds]
    accuracy: MeasuredAccuracy | UnsetType = UNSET


class KeptSeconds(Struct):
    """How long a dataset took, and which it was."""

    seconds: Seconds
    content_sha256: Sha256


# Datasets ------------------------------------------------------------------------------------------

Setting = Name | int | float | bool | None | Annotated[list[Name | int | float | bool | None], Meta(max_length=100)]

Classes = Annotated[list[Name], Meta(min_length=2, max_length=32_768)]


class Synthesis(Struct):
    norm: Name | UnsetType = UNSET
    eps: Radius | UnsetType = UNSET
    steps: Steps | UnsetType = UNSET
    step_size: Radius | UnsetType = UNSET
    schedule: Name | UnsetType = UNSET
    momentum: Annotated[float, Meta(ge=0, lt=1)] | UnsetType = UNSET
    noise: Radius | UnsetType = UNSET
    fake_relu: bool | UnsetType = UNSET
    batch_size: Count | UnsetType = UNSET
    dtype: Name | UnsetType = UNSET
    rows: Annotated[int, Meta(ge=0, le=2**40)] | UnsetType = UNSET


class Imported(Struct):
    layout: Name | UnsetType = UNSET
    sha256: dict[str, Sha256] | UnsetType = UNSET
    within: Radius | UnsetType = UNSET


class Shard(Struct):
    """A part of a dataset: shard `number` of `of`, which begins at row `first` of `rows`."""

    number: Count
    of: Count
    rows: Count
    first: Annotated[int, Meta(ge=0, le=2**40)]

    def __post_init__(self) -> None:
        if self.number > self.of or self.first >= self.rows:
            raise ValueError("is none of the shards it counts")


class Recipe(Struct):
    seed: Seed | UnsetType = UNSET
    synthesis: Synthesis | UnsetType = UNSET
    attack: dict[Name, Setting] | UnsetType = UNSET
    imported: Imported | UnsetType = UNSET
    shard: Shard | UnsetType = UNSET
    found_on: Sha256 | UnsetType = UNSET
    precision: Name | UnsetType = UNSET
    convolution: Name | UnsetType = UNSET
    compiled: Name | UnsetType = UNSET

    def __post_init__(self) -> None:
        made = self.synthesis is not UNSET or self.attack is not UNSET
        if made and self.seed is UNSET:
            raise ValueError("has no field 'seed'")
        if self.attack is not UNSET and not all(isinstance(self.attack.get(key), str) for key in ("name", "target")):
            raise ValueError("has an attack without 'name' and 'target'")


class Base(Struct):
    name: Name | UnsetType = UNSET
    split: Name | UnsetType = UNSET
    rows: Count | UnsetType = UNSET
    sha256: Sha256 | UnsetType = UNSET
    test_sha256: Sha256 | UnsetType = UNSET
    licence: Name | UnsetType = UNSET


# Each attribute of a dataset file and its schema.
DATASET_RECORDS: dict[str, Any] = {
    "classes": Classes,
    "recipe": Recipe,
    "base": Base,
    "source_model": SourceModel,
    "software": dict[Name, Name],
    "config": dict[str, Any],
}


# Results -------------------------------------------------------------------------------------------


class Run(Struct):
    """The numbers of one model."""

    seed: Seed | None
    clean: Share
    l2: ByRadius
    linf: ByRadius
    train_accuracy: Share | UnsetType | None = UNSET


class Attacks(Struct):
    """How models were attacked: PGD of `steps`, on `rows` test images (0: all)."""

    steps: Annotated[int, Meta(ge=1, le=1_000_000)]
    restarts: Annotated[int, Meta(ge=1, le=10_000)]
    rows: Annotated[int, Meta(ge=0, le=2**40)] = 0


class ResultRow(Struct):
    key: Name
    title: Name
    runs: Annotated[list[Run], Meta(max_length=1000)]


class EvaluatedRow(ResultRow, kw_only=True):
    file: Annotated[str, Meta(max_length=5000)]
    evaluation: Attacks
    content_sha256: Sha256 | UnsetType = UNSET
    test_rows: Count | UnsetType = UNSET


class EvaluationResults(Struct):
    """What `featuregen evaluate --json` prints."""

    format: Literal["featuregen-evaluation"]
    version: Literal[1]
    models: Annotated[list[EvaluatedRow], Meta(max_length=1000)]


class Made(Struct):
    kind: Name
    content_sha256: Sha256
    eps: Radius


class Agreement(Struct):
    """Unknown where no label is wrong."""

    true: Share | None
    stored: Share | None


class Audit(Struct):
    eps: Radius
    rows: Annotated[int, Meta(ge=0, le=2**40)]
    judges: dict[Name, Agreement]


class KeptAgreement(Agreement):
    neither: Share | None


class KeptRow(Struct):
    eps: Radius
    rows: Annotated[int, Meta(ge=0)]
    judges: dict[Name, KeptAgreement]


class KeptAudit(Struct):
    """A label audit as the folder of an experiment keeps it."""

    row: KeptRow
    seconds: Seconds


class _ResultsConfig(Struct):
    evaluation: Attacks


class _ResultsBase(Struct):
    test_rows: Count


class ExperimentResults(Struct):
    """The results.json of `featuregen reproduce`, as far as a card shows it."""

    format: Literal["featuregen-results"]
    version: Literal[1]
    config: _ResultsConfig
    base: _ResultsBase
    models: Annotated[list[ResultRow], Meta(max_length=1000)]
    datasets: Annotated[list[Made], Meta(max_length=1000)]
    honesty: dict[Name, list[Audit]]
