"""Base datasets: where images come from, their digests, and reading them row by row."""

from featuregen.data.base_dataset import SPLITS, BaseDataset, DatasetSize, ImageSplit, balanced_rows
from featuregen.data.lazy import HDF5_ERRORS, Hdf5Rows, ImageSource, LazyImages, Rows, h5_take
from featuregen.data.on_disk import is_image_file
from featuregen.data.sources import NAMED_SETS, load_images, needs_download, size_of

__all__ = [
    "HDF5_ERRORS",
    "NAMED_SETS",
    "SPLITS",
    "BaseDataset",
    "DatasetSize",
    "Hdf5Rows",
    "ImageSource",
    "ImageSplit",
    "LazyImages",
    "Rows",
    "balanced_rows",
    "h5_take",
    "is_image_file",
    "load_images",
    "needs_download",
    "size_of",
]
