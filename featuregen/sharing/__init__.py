"""The folder a collaborator gets: the dataset as it is, and all that is needed to trust, load and make it again."""

from featuregen.sharing.evaluated import evaluation_section
from featuregen.sharing.folder import Parcel, check_name, file_sha256, write_folder

__all__ = ["Parcel", "check_name", "evaluation_section", "file_sha256", "write_folder"]
