"""The HDF5 file, format version 1: written row by row, resumed, read as a torch `Dataset`, checked."""

from featuregen.store.checks import Check, check_against_base, check_file
from featuregen.store.compare import Comparison, compare
from featuregen.store.dataset import FeatureDataset
from featuregen.store.format import COLUMNS, FORMAT_VERSION, PAPER, Damaged, Header
from featuregen.store.merging import merge_shards
from featuregen.store.reader import Info, read_columns, read_images, read_info
from featuregen.store.sums import SUMS, check_sums, file_sha256
from featuregen.store.writer import Writer, refuse_another

__all__ = [
    "COLUMNS",
    "FORMAT_VERSION",
    "PAPER",
    "SUMS",
    "Check",
    "Comparison",
    "Damaged",
    "FeatureDataset",
    "Header",
    "Info",
    "Writer",
    "check_against_base",
    "check_file",
    "check_sums",
    "compare",
    "file_sha256",
    "merge_shards",
    "read_columns",
    "read_images",
    "read_info",
    "refuse_another",
]
