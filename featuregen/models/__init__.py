"""Architectures, classifiers and model files."""

from featuregen.models.architectures.convnets import ConvNet
from featuregen.models.architectures.robustness_nets import RobustnessNet
from featuregen.models.classifier import Classifier, count_parameters
from featuregen.models.io import load_model, read_model_record, save_model, weights_sha256
from featuregen.models.registry import ARCHITECTURES, architecture_table, build_model, find_architecture, skeleton
from featuregen.models.trained import Accuracy, TrainedModel, describe_model, model_summary

__all__ = [
    "ARCHITECTURES",
    "Accuracy",
    "Classifier",
    "ConvNet",
    "RobustnessNet",
    "TrainedModel",
    "architecture_table",
    "build_model",
    "count_parameters",
    "describe_model",
    "find_architecture",
    "load_model",
    "model_summary",
    "read_model_record",
    "save_model",
    "skeleton",
    "weights_sha256",
]
