"""Architectures, classifiers and model files."""

# isort: off
# Importing a module of architectures registers them: this is the order of the table.
from featuregen.models.architectures.convnets import ConvNet
from featuregen.models.architectures import resnets  # noqa: F401
from featuregen.models.architectures.robustness_nets import RobustnessNet

# isort: on
from featuregen.models.classifier import Backbone, Classifier, count_parameters
from featuregen.models.io import load_model, read_model_record, save_model, weights_sha256
from featuregen.models.registry import (
    ARCHITECTURES,
    architecture_table,
    build_classifier,
    build_model,
    find_architecture,
    list_models,
    register_architecture,
    skeleton,
)
from featuregen.models.trained import Accuracy, TrainedModel, describe_model, model_summary

__all__ = [
    "ARCHITECTURES",
    "Accuracy",
    "Backbone",
    "Classifier",
    "ConvNet",
    "RobustnessNet",
    "TrainedModel",
    "architecture_table",
    "build_classifier",
    "build_model",
    "count_parameters",
    "describe_model",
    "find_architecture",
    "list_models",
    "load_model",
    "model_summary",
    "read_model_record",
    "register_architecture",
    "save_model",
    "skeleton",
    "weights_sha256",
]
