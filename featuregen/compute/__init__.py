"""How networks are computed: folded and grouped models, Winograd kernels, the pixel optimiser, autotuning."""

from featuregen.compute.autotune import (
    bytes_per_image,
    fitting_batch,
    load_or_autotune,
    pick_compute_spec,
    seconds_for,
    untrained_model,
)
from featuregen.compute.folding import FoldedModel, folded_copy
from featuregen.compute.grouped import GroupedEnsemble, supports_grouping
from featuregen.compute.optimize import (
    TINY,
    Ball,
    Objective,
    frozen_eval,
    image_norms,
    move_pixels,
    project,
    steepest,
    step_sizes,
)

__all__ = [
    "TINY",
    "Ball",
    "FoldedModel",
    "GroupedEnsemble",
    "Objective",
    "bytes_per_image",
    "fitting_batch",
    "folded_copy",
    "frozen_eval",
    "image_norms",
    "load_or_autotune",
    "move_pixels",
    "pick_compute_spec",
    "project",
    "seconds_for",
    "steepest",
    "step_sizes",
    "supports_grouping",
    "untrained_model",
]
