"""What models and datasets are worth: robust accuracy, label audit, label flips, gradient masking."""

from featuregen.evaluation.accuracy import Accuracy, evaluate, predict, transfer_rate
from featuregen.evaluation.gradient_masking import check_gradient_masking, masking_settings
from featuregen.evaluation.label_audit import label_agreement, nearest_neighbour
from featuregen.evaluation.label_flips import (
    AttackSpec,
    LabelFlips,
    agreement,
    asymmetry,
    attraction,
    expand_grid,
    find_label_flips,
)

__all__ = [
    "Accuracy",
    "AttackSpec",
    "LabelFlips",
    "agreement",
    "asymmetry",
    "attraction",
    "check_gradient_masking",
    "evaluate",
    "expand_grid",
    "find_label_flips",
    "label_agreement",
    "masking_settings",
    "nearest_neighbour",
    "predict",
    "transfer_rate",
]
