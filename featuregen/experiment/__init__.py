"""An experiment: one config, one base dataset, one output folder; its models, datasets and results."""

from featuregen.experiment.cost import cost_of, estimate_cost
from featuregen.experiment.experiment import Experiment
from featuregen.experiment.files import (
    describe_model_file,
    evaluate_path,
    experiment_of,
    fresh_training_of,
    is_model,
    recorded_config,
    run_record,
    sweep_path,
    verify_file,
)
from featuregen.experiment.outputs import draw_preview, write_results
from featuregen.experiment.paths import copy_model, dataset_path
from featuregen.experiment.remake import remake
from featuregen.experiment.reproduce import reproduce
from featuregen.experiment.shards import make_shard, make_together, parse_shard, warn_unused_shards
from featuregen.experiment.share import share_file
from featuregen.experiment.transfer import transfer

__all__ = [
    "Experiment",
    "copy_model",
    "cost_of",
    "dataset_path",
    "describe_model_file",
    "draw_preview",
    "estimate_cost",
    "evaluate_path",
    "experiment_of",
    "fresh_training_of",
    "is_model",
    "make_shard",
    "make_together",
    "parse_shard",
    "recorded_config",
    "remake",
    "reproduce",
    "run_record",
    "share_file",
    "sweep_path",
    "transfer",
    "verify_file",
    "warn_unused_shards",
    "write_results",
]
