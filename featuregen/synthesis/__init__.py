"""Synthesis of datasets: kinds, plans, and the optimisation of pixels."""

from featuregen.synthesis.generate import class_loss, synthesize
from featuregen.synthesis.kinds import RULES, meaning_of
from featuregen.synthesis.plan import RowPlan, make_plan, start_images
from featuregen.synthesis.quantize import quantize, to_unit_range

__all__ = [
    "RULES",
    "RowPlan",
    "class_loss",
    "make_plan",
    "meaning_of",
    "quantize",
    "start_images",
    "synthesize",
    "to_unit_range",
]
