"""Base datasets: where images come from, their digests, and reading them row by row."""

from featuregen.data.base_dataset import SPLITS, BaseDataset, DatasetSize, ImageSplit
from featuregen.data.lazy import ImageSource, LazyImages, h5_take
from featuregen.data.on_disk import is_image_file
from featuregen.data.sampling import balanced_rows
from featuregen.data.sources import KNOWN, load_images, needs_download, size_of

__all__ = [
    "KNOWN",
    "SPLITS",
    "BaseDataset",
    "DatasetSize",
    "ImageSource",
    "ImageSplit",
    "LazyImages",
    "balanced_rows",
    "h5_take",
    "is_image_file",
    "load_images",
    "needs_download",
    "size_of",
]
