"""featuregen: make, share and check robust and non-robust image datasets.

import featuregen as fg
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featuregen.attacks.api import attack
    from featuregen.attacks.pgd import pgd
    from featuregen.attacks.registry import list_attacks, register_attack
    from featuregen.attacks.result import AttackResult
    from featuregen.config.loader import load_config
    from featuregen.config.schema import PGD, Config, Data, Evaluation, Synthesis, Training
    from featuregen.data.base_dataset import BaseDataset
    from featuregen.data.sources import load_images
    from featuregen.errors import CheckFailed, UserError
    from featuregen.evaluation.accuracy import evaluate
    from featuregen.evaluation.gradient_masking import MaskingReport, check_gradient_masking
    from featuregen.evaluation.label_audit import LabelAgreement, audit_labels
    from featuregen.evaluation.label_flip_statistics import LabelFlips
    from featuregen.evaluation.label_flips import label_flips
    from featuregen.experiment.experiment import Experiment
    from featuregen.experiment.reproduce import reproduce
    from featuregen.experiment.transfer import transfer
    from featuregen.experiment.verify import verify
    from featuregen.interop.export import export_dataset
    from featuregen.interop.load import load_model
    from featuregen.interop.released import import_released
    from featuregen.interop.robustness import load_checkpoint, save_checkpoint
    from featuregen.models.classifier import Classifier
    from featuregen.models.io import save_model
    from featuregen.models.registry import build_model, list_models, register_architecture
    from featuregen.models.trained import Accuracy, TrainedModel
    from featuregen.storage.diff import DatasetDiff, diff
    from featuregen.storage.merge import merge
    from featuregen.storage.reader import DatasetInfo
    from featuregen.storage.torch_dataset import FeatureDataset
    from featuregen.synthesis.generate import synthesize
    from featuregen.synthesis.kinds import register_kind
    from featuregen.training.loop import train

__version__ = "0.1.0"

_MODULES = {
    "featuregen.attacks.api": ("attack",),
    "featuregen.attacks.pgd": ("pgd",),
    "featuregen.attacks.registry": (
        "list_attacks",
        "register_attack",
    ),
    "featuregen.attacks.result": ("AttackResult",),
    "featuregen.config.loader": ("load_config",),
    "featuregen.config.schema": (
        "PGD",
        "Config",
        "Data",
        "Evaluation",
        "Synthesis",
        "Training",
    ),
    "featuregen.data.base_dataset": ("BaseDataset",),
    "featuregen.data.sources": ("load_images",),
    "featuregen.errors": (
        "CheckFailed",
        "UserError",
    ),
    "featuregen.evaluation.accuracy": ("evaluate",),
    "featuregen.evaluation.gradient_masking": (
        "MaskingReport",
        "check_gradient_masking",
    ),
    "featuregen.evaluation.label_audit": (
        "LabelAgreement",
        "audit_labels",
    ),
    "featuregen.evaluation.label_flip_statistics": ("LabelFlips",),
    "featuregen.evaluation.label_flips": ("label_flips",),
    "featuregen.experiment.experiment": ("Experiment",),
    "featuregen.experiment.reproduce": ("reproduce",),
    "featuregen.experiment.transfer": ("transfer",),
    "featuregen.experiment.verify": ("verify",),
    "featuregen.interop.export": ("export_dataset",),
    "featuregen.interop.load": ("load_model",),
    "featuregen.interop.released": ("import_released",),
    "featuregen.interop.robustness": (
        "load_checkpoint",
        "save_checkpoint",
    ),
    "featuregen.models.classifier": ("Classifier",),
    "featuregen.models.io": ("save_model",),
    "featuregen.models.registry": (
        "build_model",
        "list_models",
        "register_architecture",
    ),
    "featuregen.models.trained": (
        "Accuracy",
        "TrainedModel",
    ),
    "featuregen.storage.diff": (
        "DatasetDiff",
        "diff",
    ),
    "featuregen.storage.merge": ("merge",),
    "featuregen.storage.reader": ("DatasetInfo",),
    "featuregen.storage.torch_dataset": ("FeatureDataset",),
    "featuregen.synthesis.generate": ("synthesize",),
    "featuregen.synthesis.kinds": ("register_kind",),
    "featuregen.training.loop": ("train",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "PGD",
    "Accuracy",
    "AttackResult",
    "BaseDataset",
    "CheckFailed",
    "Classifier",
    "Config",
    "Data",
    "DatasetDiff",
    "DatasetInfo",
    "Evaluation",
    "Experiment",
    "FeatureDataset",
    "LabelAgreement",
    "LabelFlips",
    "MaskingReport",
    "Synthesis",
    "TrainedModel",
    "Training",
    "UserError",
    "attack",
    "audit_labels",
    "build_model",
    "check_gradient_masking",
    "diff",
    "evaluate",
    "export_dataset",
    "import_released",
    "label_flips",
    "list_attacks",
    "list_models",
    "load_checkpoint",
    "load_config",
    "load_images",
    "load_model",
    "merge",
    "pgd",
    "register_architecture",
    "register_attack",
    "register_kind",
    "reproduce",
    "save_checkpoint",
    "save_model",
    "synthesize",
    "train",
    "transfer",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import a name when it is first used, so that `featuregen --help` need not wait for torch."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'featuregen' has no attribute '{name}'")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
