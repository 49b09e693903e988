"""featuregen makes, shares and checks robust and non-robust image datasets.

    import featuregen as fg

The names below need no other import; each has an example in its docstring.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featuregen.attacks.api import attack
    from featuregen.attacks.registry import list_attacks, register_attack
    from featuregen.attacks.result import AttackResult
    from featuregen.config.loader import load_config
    from featuregen.config.schema import PGD, Config, Data, Evaluation, Synthesis, Training
    from featuregen.data.base_dataset import BaseDataset
    from featuregen.data.sources import load_images
    from featuregen.errors import CheckFailed, UserError
    from featuregen.evaluation.accuracy import evaluate
    from featuregen.evaluation.gradient_masking import check_gradient_masking
    from featuregen.evaluation.label_audit import audit_labels
    from featuregen.evaluation.label_flips import label_flips
    from featuregen.experiment.experiment import Experiment
    from featuregen.experiment.reproduce import reproduce
    from featuregen.experiment.verify import verify
    from featuregen.interop.export import export_dataset
    from featuregen.interop.load import load_model
    from featuregen.interop.released import import_released
    from featuregen.interop.robustness import save_checkpoint
    from featuregen.models.classifier import Backbone, Classifier
    from featuregen.models.io import Accuracy, TrainedModel, save_model
    from featuregen.models.registry import build_model, list_models, register_architecture
    from featuregen.storage.diff import diff
    from featuregen.storage.merge import merge
    from featuregen.storage.torch_dataset import FeatureDataset
    from featuregen.synthesis.generate import synthesize
    from featuregen.synthesis.kinds import register_kind
    from featuregen.training.loop import train

__version__ = "0.1.0"

_MODULES = {
    "featuregen.attacks.api": ("attack",),
    "featuregen.attacks.registry": ("list_attacks", "register_attack"),
    "featuregen.attacks.result": ("AttackResult",),
    "featuregen.config.loader": ("load_config",),
    "featuregen.config.schema": ("PGD", "Config", "Data", "Evaluation", "Synthesis", "Training"),
    "featuregen.data.base_dataset": ("BaseDataset",),
    "featuregen.data.sources": ("load_images",),
    "featuregen.errors": ("CheckFailed", "UserError"),
    "featuregen.evaluation.accuracy": ("evaluate",),
    "featuregen.evaluation.gradient_masking": ("check_gradient_masking",),
    "featuregen.evaluation.label_audit": ("audit_labels",),
    "featuregen.evaluation.label_flips": ("label_flips",),
    "featuregen.experiment.experiment": ("Experiment",),
    "featuregen.experiment.reproduce": ("reproduce",),
    "featuregen.experiment.verify": ("verify",),
    "featuregen.interop.export": ("export_dataset",),
    "featuregen.interop.load": ("load_model",),
    "featuregen.interop.released": ("import_released",),
    "featuregen.interop.robustness": ("save_checkpoint",),
    "featuregen.models.classifier": ("Backbone", "Classifier"),
    "featuregen.models.registry": ("build_model", "list_models", "register_architecture"),
    "featuregen.models.io": ("Accuracy", "TrainedModel", "save_model"),
    "featuregen.storage.diff": ("diff",),
    "featuregen.storage.merge": ("merge",),
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
    "Backbone",
    "BaseDataset",
    "CheckFailed",
    "Classifier",
    "Config",
    "Data",
    "Evaluation",
    "Experiment",
    "FeatureDataset",
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
    "load_config",
    "load_images",
    "load_model",
    "merge",
    "register_architecture",
    "register_attack",
    "register_kind",
    "reproduce",
    "save_checkpoint",
    "save_model",
    "synthesize",
    "train",
    "verify",
]


if not TYPE_CHECKING:  # a type checker would take every misspelt name for one of type Any

    def __getattr__(name: str) -> Any:
        """Import a name when it is first used, so that `featuregen --help` need not wait for torch."""
        if name not in _MODULE_OF:
            raise AttributeError(f"module 'featuregen' has no attribute '{name}'")
        return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
