"""The stages of an experiment, their cache by settings, and resuming."""

from featuregen.pipeline.attacking import Attempt, Victims, attack_into, draw_attack, victims_in, victims_of
from featuregen.pipeline.doubting import doubt_model, write_doubts
from featuregen.pipeline.files import (
    describe_model_file,
    evaluate_path,
    fresh_shop,
    is_model,
    recorded_config,
    run_of,
    sweep_path,
    verify_file,
    workshop_of,
)
from featuregen.pipeline.flipping import flip_models, write_flips
from featuregen.pipeline.outputs import draw_preview, write_results
from featuregen.pipeline.places import copy_model, dataset_path
from featuregen.pipeline.plan import dry_plan, plan_of
from featuregen.pipeline.records import Examples, Trained
from featuregen.pipeline.remaking import Remade, remake
from featuregen.pipeline.reproduce import reproduce
from featuregen.pipeline.shards import make_shard, make_together, parse_shard, tell_of_parts
from featuregen.pipeline.share import share_file
from featuregen.pipeline.transfer import transfer
from featuregen.pipeline.workshop import Workshop

__all__ = [
    "Attempt",
    "Examples",
    "Remade",
    "Trained",
    "Victims",
    "Workshop",
    "attack_into",
    "copy_model",
    "dataset_path",
    "describe_model_file",
    "doubt_model",
    "draw_attack",
    "draw_preview",
    "dry_plan",
    "evaluate_path",
    "flip_models",
    "fresh_shop",
    "is_model",
    "make_shard",
    "make_together",
    "parse_shard",
    "plan_of",
    "recorded_config",
    "remake",
    "reproduce",
    "run_of",
    "share_file",
    "sweep_path",
    "tell_of_parts",
    "transfer",
    "verify_file",
    "victims_in",
    "victims_of",
    "workshop_of",
    "write_doubts",
    "write_flips",
    "write_results",
]
