"""Loading a base set: by name, from a file, or from a folder of images."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featuregen.config.loader import did_you_mean
from featuregen.config.schema import Data
from featuregen.config.serialize import shown_name
from featuregen.data.base_dataset import BaseDataset, DatasetSize, ImageSplit, class_ranks
from featuregen.data.npz import ARRAYS, EXPECTED, make_splits, read_npz
from featuregen.data.on_disk import read_folder, read_hdf5
from featuregen.errors import UserError, one_line
from featuregen.runtime.paths import check_file, expanded


@dataclass(frozen=True)
class _NamedSet:
    """A base set that featuregen knows by name; `loader` is torchvision's class, `subfolder` where it keeps the files.

    `rows` of training and test set allow cost estimates before anything is downloaded.
    """

    classes: tuple[str, ...]
    licence: str
    citation: str
    loader: str = ""
    subfolder: str = ""
    rows: tuple[int, int] = (0, 0)
    image_shape: tuple[int, int, int] = (0, 0, 0)


_TEN = tuple("0123456789")
NAMED_SETS = {
    "digits": _NamedSet(
        _TEN,
        "CC BY 4.0",
        "E. Alpaydin and C. Kaynak: Optical Recognition of Handwritten Digits. UCI Machine Learning Repository, 1998. "
        "https://doi.org/10.24432/C50P49",
    ),
    "cifar10": _NamedSet(
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        "none stated by its authors",
        "A. Krizhevsky: Learning Multiple Layers of Features from Tiny Images. Technical report, 2009.",
        "CIFAR10",
        "cifar-10-batches-py",
        (50_000, 10_000),
        (3, 32, 32),
    ),
    "mnist": _NamedSet(
        _TEN,
        "CC BY-SA 3.0",
        "Y. LeCun, L. Bottou, Y. Bengio and P. Haffner: Gradient-Based Learning Applied to Document Recognition. "
        "Proceedings of the IEEE 86(11), 1998.",
        "MNIST",
        "MNIST/raw",
        (60_000, 10_000),
        (1, 28, 28),
    ),
    "fashion-mnist": _NamedSet(
        ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        "MIT",
        "H. Xiao, K. Rasul and R. Vollgraf: Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning "
        "Algorithms. arXiv:1708.07747, 2017.",
        "FashionMNIST",
        "FashionMNIST/raw",
        (60_000, 10_000),
        (1, 28, 28),
    ),
}


def load_images(data: str | os.PathLike[str] | Data) -> BaseDataset:
    """Load a base set: the images that datasets are made from and models are tested on.

    Args:
        data: "digits", "cifar10", "mnist" or "fashion-mnist"; the path of a `.npz` or HDF5 file with x_train, y_train,
            x_test and y_test; the path of a folder with train/CLASS/*.png and test/CLASS/*.png; or `Data` settings,
            which also say where downloads are kept.

    Returns:
        The training and test split and the class names. HDF5 files and folders are read row by row.

    Raises:
        UserError: The name is unknown, the download fails, or the file is no base set.

    Example:
        >>> import featuregen as fg
        >>> base = fg.load_images("digits")
        >>> len(base.train), len(base.test), base.image_shape, len(base.classes)
        (1438, 359, (1, 8, 8), 10)
        >>> base.test.images_tensor().shape
        torch.Size([359, 1, 8, 8])
    """
    if not isinstance(data, Data):
        data = Data(name=os.fspath(data))
    if data.name == "digits":
        return _digits()
    if data.name in NAMED_SETS:
        return _torchvision_set(data.name, expanded(data.folder))
    path = expanded(data.name)
    if path.exists() and not path.is_dir():
        check_file(path)
    if path.suffix.lower() == ".npz":
        return _file_set(path, *make_splits(read_npz(path), path), "not stated in the .npz file")
    if data.name and path.is_dir():
        train, test, classes = read_folder(path)
        return BaseDataset(shown_name(path.name), train, test, classes, "not stated in the folder", "")
    if path.suffix.lower() in (".h5", ".hdf5") and path.exists():
        return _file_set(path, *read_hdf5(path), "not stated in the HDF5 file")
    if path.exists():
        raise UserError(
            f"{path} is no .npz file, no .h5 file and no folder: give one with {EXPECTED}, "
            f"or one of {', '.join(NAMED_SETS)}."
        )
    hint = did_you_mean(data.name.lower(), NAMED_SETS)
    raise UserError(
        f"No image set '{data.name}': name a known set, a .npz or HDF5 file, or a folder with --data; {hint}"
    )


def size_of(data: Data) -> DatasetSize:
    """The size of a set, without downloading it."""
    named = NAMED_SETS.get(data.name)
    if named and named.loader:
        return DatasetSize(data.name, *named.rows, named.image_shape, len(named.classes))
    return load_images(data).size


def _digits() -> BaseDataset:
    """scikit-learn's 1,797 digits; a fifth of each class is the test set, the same for every seed."""
    from sklearn.datasets import load_digits

    source = load_digits()
    images = np.rint(source.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    labels = source.target.astype(np.int64)
    tested = class_ranks(labels, 0, "digits test set") < np.rint(np.bincount(labels)[labels] / 5)
    named = NAMED_SETS["digits"]
    train, test = ImageSplit(images[~tested], labels[~tested]), ImageSplit(images[tested], labels[tested])
    return BaseDataset("digits", train, test, named.classes, named.licence, named.citation)


def _torchvision_set(name: str, folder: Path) -> BaseDataset:
    """A set of torchvision, which downloads what is not in the folder."""
    from torchvision import datasets

    named = NAMED_SETS[name]
    loader = getattr(datasets, named.loader)
    try:
        # Some versions of torchvision print, and standard output is for results.
        with redirect_stdout(sys.stderr):
            train, test = (loader(root=str(folder), train=part, download=True) for part in (True, False))
    except Exception as error:  # Network, disk or a damaged file: torchvision has no error type of its own.
        raise UserError(
            f"Cannot get {name} ({one_line(error)}): put the official files into {folder / named.subfolder}, or give a "
            f".npz file with --data."
        ) from None
    arrays = [np.asarray(part) for split in (train, test) for part in (split.data, split.targets)]
    splits = make_splits(dict(zip(ARRAYS, arrays, strict=True)), folder / named.subfolder)
    return BaseDataset(name, *splits, named.classes, named.licence, named.citation)


def _file_set(path: Path, train: ImageSplit, test: ImageSplit, licence: str) -> BaseDataset:
    """A file named like a known set with as many classes takes over its class names and citation."""
    count = int(train.labels.max()) + 1
    stem = shown_name(path.stem)
    name = stem.replace("_", "-")
    named = NAMED_SETS.get(name)
    if named is None or not named.loader or count != len(named.classes):
        name, named = stem, _NamedSet(tuple(map(str, range(count))), "", "")
    return BaseDataset(name, train, test, named.classes, licence, named.citation)
