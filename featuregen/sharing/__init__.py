"""The folder a collaborator gets: the dataset as it is, and all that is needed to trust, load and make it again."""

from featuregen.sharing.contents import base_citation
from featuregen.sharing.evaluated import evaluation_section, results_about
from featuregen.sharing.folder import Parcel, check_name, write_folder

__all__ = [
    "Parcel",
    "base_citation",
    "check_name",
    "evaluation_section",
    "results_about",
    "write_folder",
]
