"""featuregen: make, share and check robust and non-robust image datasets.

from featuregen import FeatureDataset, load_config, Workshop
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Attack": "featuregen.config",
    "Config": "featuregen.config",
    "Evaluation": "featuregen.config",
    "FeatureDataset": "featuregen.store",
    "Synthesis": "featuregen.config",
    "Training": "featuregen.config",
    "UserError": "featuregen.errors",
    "Workshop": "featuregen.pipeline",
    "attack": "featuregen.attacks",
    "build_model": "featuregen.models",
    "export_dataset": "featuregen.interop",
    "import_released": "featuregen.interop",
    "load_checkpoint": "featuregen.interop",
    "load_config": "featuregen.config",
    "load_images": "featuregen.images",
    "load_model": "featuregen.models",
    "pgd": "featuregen.attacks",
    "reproduce": "featuregen.pipeline",
    "save_checkpoint": "featuregen.interop",
    "sanity": "featuregen.masking",
    "save_model": "featuregen.models",
    "score": "featuregen.evaluation",
    "synthesize": "featuregen.synthesis",
    "train": "featuregen.training",
    "transfer": "featuregen.pipeline",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Names are imported when first used, so that `featuregen --help` need not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'featuregen' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
