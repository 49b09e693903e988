"""What models and datasets are worth: accuracy, transfer, label audit, label flips, gradient masking."""

from featuregen.evaluation.accuracy import evaluate, predict
from featuregen.evaluation.attack_run import (
    AttackInputs,
    AttackRun,
    AttackRunResult,
    attack_to_file,
    inputs_from_file,
    inputs_from_split,
)
from featuregen.evaluation.gradient_masking import check_gradient_masking, gradient_masking_to_file, masking_settings
from featuregen.evaluation.label_audit import LabelAgreement, audit_labels, nearest_neighbour
from featuregen.evaluation.label_flips import expand_grid, label_flips_to_folder
from featuregen.evaluation.transfer import adversarial_examples, transfer_correlation, transfer_rate

__all__ = [
    "AttackInputs",
    "AttackRun",
    "AttackRunResult",
    "LabelAgreement",
    "adversarial_examples",
    "attack_to_file",
    "audit_labels",
    "check_gradient_masking",
    "evaluate",
    "expand_grid",
    "gradient_masking_to_file",
    "inputs_from_file",
    "inputs_from_split",
    "label_flips_to_folder",
    "masking_settings",
    "nearest_neighbour",
    "predict",
    "transfer_correlation",
    "transfer_rate",
]
