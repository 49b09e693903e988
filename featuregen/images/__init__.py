"""Where images come from: embedded digits, torchvision's CIFAR-10, MNIST and Fashion-MNIST, any Keras-style `.npz`, and
HDF5 files and folders that need not fit into memory."""

from featuregen.images.sources import KNOWN, load_images, needs_download, size_of
from featuregen.images.split import PARTS, Base, Size, Split, balanced_rows
from featuregen.images.stored import holds_arrays

__all__ = [
    "KNOWN",
    "PARTS",
    "Base",
    "Size",
    "Split",
    "balanced_rows",
    "holds_arrays",
    "load_images",
    "needs_download",
    "size_of",
]
