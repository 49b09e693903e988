"""A trained model's accuracy, read from its record."""

from __future__ import annotations

from pathlib import Path

import pytest

from featuregen.config.schema import Model
from featuregen.errors import UserError
from featuregen.models.classifier import Classifier
from featuregen.models.io import Accuracy, TrainedModel, describe_model, model_summary
from featuregen.models.registry import build_classifier


@pytest.fixture(scope="module")
def untrained() -> Classifier:
    return build_classifier(Model(width=8), (1, 8, 8), 10, [0.3], [0.37], seed=0)


def test_the_accuracy_is_what_the_record_says(untrained: Classifier) -> None:
    record = {"accuracy": {"settings": {"steps": 2}, "clean": 0.9, "l2": {"0.5": 0.4}, "linf": {}}}
    accuracy = TrainedModel(untrained, record, Path("it.safetensors")).accuracy
    assert accuracy == Accuracy(0.9, {"0.5": 0.4}, {}) and accuracy.clean == 0.9


def test_a_model_that_was_never_measured_says_so(untrained: Classifier) -> None:
    with pytest.raises(UserError, match=r"it\.safetensors records no accuracy; measure it"):
        _ = TrainedModel(untrained, {}, Path("it.safetensors")).accuracy


def test_summaries_name_the_weights_and_leave_out_what_changes_from_run_to_run(untrained: Classifier) -> None:
    trained = TrainedModel(untrained, {"settings": {"seed": 0}, "seconds": {"training": 3}}, Path("in/it.safetensors"))
    summary, description = model_summary(trained), describe_model(trained)
    assert summary["file"] == "it.safetensors" and summary["weights_sha256"] == description["weights_sha256"]
    assert description["settings"] == {"seed": 0} and "seconds" not in description
