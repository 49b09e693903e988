"""The HDF5 file of a dataset: writing, reading, checking, merging, comparing."""

from featuregen.storage.checksums import SUMS, check_sums, file_sha256
from featuregen.storage.diff import DatasetDiff
from featuregen.storage.reader import DatasetInfo, column_blocks, read_columns, read_info, to_pixels
from featuregen.storage.schema import COLUMNS, PAPER, Header, column_dtype, row_blocks
from featuregen.storage.torch_dataset import FeatureDataset
from featuregen.storage.verify import Check, check_against_base, check_file
from featuregen.storage.writer import Writer, check_compatible

__all__ = [
    "COLUMNS",
    "PAPER",
    "SUMS",
    "Check",
    "DatasetDiff",
    "DatasetInfo",
    "FeatureDataset",
    "Header",
    "Writer",
    "check_against_base",
    "check_compatible",
    "check_file",
    "check_sums",
    "column_blocks",
    "column_dtype",
    "file_sha256",
    "read_columns",
    "read_info",
    "row_blocks",
    "to_pixels",
]
