"""Tables for people, PNG pictures and one self-contained HTML page, from the numbers of an experiment."""

from featuregen.report.attacks import attack_picture, attack_text, attack_words
from featuregen.report.charts import KIND_NAMES
from featuregen.report.comparing import comparison_text
from featuregen.report.flips import flip_maps, flips_table
from featuregen.report.overview import evaluation_table, results_markdown, results_table
from featuregen.report.page import write_report
from featuregen.report.pictures import accuracy_bars, accuracy_curves, honesty_curves, kinds_grid, preview
from featuregen.report.plans import plan_sentence, plan_table
from featuregen.report.sanity import sanity_bars, sanity_text
from featuregen.report.tables import summary
from featuregen.report.transfer import transfer_scatter, transfer_table

__all__ = [
    "KIND_NAMES",
    "accuracy_bars",
    "accuracy_curves",
    "attack_picture",
    "attack_text",
    "attack_words",
    "comparison_text",
    "evaluation_table",
    "flip_maps",
    "flips_table",
    "honesty_curves",
    "kinds_grid",
    "plan_sentence",
    "plan_table",
    "preview",
    "results_markdown",
    "results_table",
    "sanity_bars",
    "sanity_text",
    "summary",
    "transfer_scatter",
    "transfer_table",
    "write_report",
]
