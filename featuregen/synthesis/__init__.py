"""Synthesis of datasets: kinds, plans, and the optimisation of pixels."""

from featuregen.synthesis.generate import class_loss, quantize, synthesize, to_unit_range
from featuregen.synthesis.kinds import find_kind, meaning_of, register_kind
from featuregen.synthesis.plan import RowPlan, make_plan, start_images

__all__ = [
    "RowPlan",
    "class_loss",
    "find_kind",
    "make_plan",
    "meaning_of",
    "quantize",
    "register_kind",
    "start_images",
    "synthesize",
    "to_unit_range",
]
