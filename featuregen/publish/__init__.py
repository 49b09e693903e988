"""A dataset ready to publish: its folder, card and metadata."""

from featuregen.publish.bundle import Bundle, check_name, write_folder
from featuregen.publish.facts import evaluation_section, results_about
from featuregen.publish.layout import base_citation

__all__ = ["Bundle", "base_citation", "check_name", "evaluation_section", "results_about", "write_folder"]
