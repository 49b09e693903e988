"""Where images come from: embedded digits, torchvision's CIFAR-10, MNIST and Fashion-MNIST, any Keras-style `.npz`."""

from featuregen.images.sources import load_images, size_of
from featuregen.images.split import PARTS, Base, Size, Split, balanced_rows

__all__ = ["PARTS", "Base", "Size", "Split", "balanced_rows", "load_images", "size_of"]
