"""The architectures by name, the classifier that carries its own normaliser, saving and loading."""

from featuregen.models.backbone import Backbone
from featuregen.models.checkpoint import load_model, read_model_record, save_model, weights_sha256
from featuregen.models.classifier import Classifier, count_parameters
from featuregen.models.lean import Lean, frozen
from featuregen.models.registry import (
    ARCHITECTURES,
    Architecture,
    architecture_table,
    build_model,
    find_architecture,
    skeleton,
)
from featuregen.models.robustness_nets import RobustnessNet

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Backbone",
    "Classifier",
    "Lean",
    "RobustnessNet",
    "architecture_table",
    "build_model",
    "count_parameters",
    "find_architecture",
    "frozen",
    "load_model",
    "read_model_record",
    "save_model",
    "skeleton",
    "weights_sha256",
]
