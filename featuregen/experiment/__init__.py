"""An experiment: one config, one base dataset, one output folder; its models, datasets and results."""

from featuregen.experiment.attack_run import (
    AttackInputs,
    AttackRun,
    attack_to_file,
    draw_attack,
    inputs_from_file,
    inputs_from_split,
)
from featuregen.experiment.cost import cost_of, estimate_cost
from featuregen.experiment.evaluate_files import evaluate_file, experiment_on, run_record, sweep_file
from featuregen.experiment.experiment import FRESH_SEED, Experiment
from featuregen.experiment.gradient_masking import doubt_model, write_doubts
from featuregen.experiment.label_flips import flip_models, write_flips
from featuregen.experiment.outputs import draw_preview, write_results
from featuregen.experiment.paths import copy_model, dataset_path
from featuregen.experiment.recorded import describe_model_file, experiment_of, is_model, recorded_config
from featuregen.experiment.records import TrainedModel
from featuregen.experiment.remake import remake
from featuregen.experiment.reproduce import reproduce
from featuregen.experiment.shards import make_distributed, make_shard, parse_shard, warn_unused_shards
from featuregen.experiment.share import share_file
from featuregen.experiment.transfer import transfer
from featuregen.experiment.verify import verify

__all__ = [
    "FRESH_SEED",
    "AttackInputs",
    "AttackRun",
    "Experiment",
    "TrainedModel",
    "attack_to_file",
    "copy_model",
    "cost_of",
    "dataset_path",
    "describe_model_file",
    "doubt_model",
    "draw_attack",
    "draw_preview",
    "estimate_cost",
    "evaluate_file",
    "experiment_of",
    "experiment_on",
    "flip_models",
    "inputs_from_file",
    "inputs_from_split",
    "is_model",
    "make_distributed",
    "make_shard",
    "parse_shard",
    "recorded_config",
    "remake",
    "reproduce",
    "run_record",
    "share_file",
    "sweep_file",
    "transfer",
    "verify",
    "warn_unused_shards",
    "write_doubts",
    "write_flips",
    "write_results",
]
