"""Tables, pictures and pages made from results."""

from featuregen.report.attack import attack_picture, attack_text, describe_attack
from featuregen.report.cost import cost_sentence, cost_table
from featuregen.report.diff import diff_text
from featuregen.report.gradient_masking import masking_bars, masking_text
from featuregen.report.html import write_report
from featuregen.report.image_grid import Row, draw_grid
from featuregen.report.label_flips import flip_maps, flips_table
from featuregen.report.plots import accuracy_bars, accuracy_curves, label_audit_curves
from featuregen.report.results import evaluation_table, results_markdown, results_table
from featuregen.report.tables import (
    KIND_NAMES,
    NORMS,
    accuracies,
    accuracy_columns,
    describe_seeds,
    describe_test_images,
    markdown_escape,
    markdown_table,
    percent,
    titles_of,
)
from featuregen.report.transfer import transfer_scatter, transfer_table

__all__ = [
    "KIND_NAMES",
    "NORMS",
    "Row",
    "accuracies",
    "accuracy_bars",
    "accuracy_columns",
    "accuracy_curves",
    "attack_picture",
    "attack_text",
    "cost_sentence",
    "cost_table",
    "describe_attack",
    "describe_seeds",
    "describe_test_images",
    "diff_text",
    "draw_grid",
    "evaluation_table",
    "flip_maps",
    "flips_table",
    "label_audit_curves",
    "markdown_escape",
    "markdown_table",
    "masking_bars",
    "masking_text",
    "percent",
    "results_markdown",
    "results_table",
    "titles_of",
    "transfer_scatter",
    "transfer_table",
    "write_report",
]
