"""Tables, pictures and pages made from results."""

from featuregen.report.attack import attack_picture, attack_text, describe_attack
from featuregen.report.cost import cost_sentence, cost_table
from featuregen.report.diff import diff_text
from featuregen.report.gradient_masking import masking_bars, masking_text
from featuregen.report.html import write_report
from featuregen.report.label_flips import flip_maps, flips_table
from featuregen.report.pictures import Captions, kinds_grid, preview
from featuregen.report.plots import KIND_NAMES, accuracy_bars, accuracy_curves, honesty_curves
from featuregen.report.results import evaluation_table, results_markdown, results_table
from featuregen.report.tables import (
    NORMS,
    accuracies,
    accuracy_columns,
    markdown_escape,
    markdown_table,
    percent,
    seeds_in_words,
    summary,
    tested_in_words,
)
from featuregen.report.transfer import transfer_scatter, transfer_table

__all__ = [
    "KIND_NAMES",
    "NORMS",
    "Captions",
    "accuracies",
    "accuracy_bars",
    "accuracy_columns",
    "accuracy_curves",
    "attack_picture",
    "attack_text",
    "cost_sentence",
    "cost_table",
    "describe_attack",
    "diff_text",
    "evaluation_table",
    "flip_maps",
    "flips_table",
    "honesty_curves",
    "kinds_grid",
    "markdown_escape",
    "markdown_table",
    "masking_bars",
    "masking_text",
    "percent",
    "preview",
    "results_markdown",
    "results_table",
    "seeds_in_words",
    "summary",
    "tested_in_words",
    "transfer_scatter",
    "transfer_table",
    "write_report",
]
