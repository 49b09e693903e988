"""An experiment: one config, one base dataset, one output folder; its models, datasets and results."""

from featuregen.experiment.cost import cost_of, estimate_cost
from featuregen.experiment.dataset_job import dataset_path
from featuregen.experiment.evaluate_files import evaluate_file, experiment_on, run_record, sweep_file
from featuregen.experiment.experiment import FRESH_SEED, Experiment
from featuregen.experiment.files import copy_model, experiment_of, recorded_config
from featuregen.experiment.outputs import draw_preview, write_results
from featuregen.experiment.remake import remake
from featuregen.experiment.reproduce import reproduce
from featuregen.experiment.shards import make_distributed, make_shard, parse_shard, warn_unused_shards
from featuregen.experiment.share import share_file
from featuregen.experiment.transfer import transfer
from featuregen.experiment.verify import verify

__all__ = [
    "FRESH_SEED",
    "Experiment",
    "copy_model",
    "cost_of",
    "dataset_path",
    "draw_preview",
    "estimate_cost",
    "evaluate_file",
    "experiment_of",
    "experiment_on",
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
    "write_results",
]
