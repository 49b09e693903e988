"""The architectures by name, the classifier that carries its own normaliser, saving and loading."""

from featuregen.models.backbone import Backbone
from featuregen.models.checkpoint import load_model, read_model_record, save_model, weights_sha256
from featuregen.models.classifier import Classifier, count_parameters
from featuregen.models.folding import folded
from featuregen.models.registry import ARCHITECTURES, Architecture, architecture_table, build_model, find_architecture

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Backbone",
    "Classifier",
    "architecture_table",
    "build_model",
    "count_parameters",
    "find_architecture",
    "folded",
    "load_model",
    "read_model_record",
    "save_model",
    "weights_sha256",
]
