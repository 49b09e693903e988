"""The image sets by name, and where each comes from."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featuregen import config
from featuregen.config import did_you_mean
from featuregen.data.base_dataset import BaseDataset, DatasetSize, ImageSplit
from featuregen.data.npz import ARRAYS, WANTED, checked, one_line, read_npz
from featuregen.data.on_disk import read_folder, read_hdf5
from featuregen.data.sampling import class_ranks
from featuregen.errors import UserError


@dataclass(frozen=True)
class _Known:
    """What is known of a set by its name; `loader` is torchvision's class and `place` where it looks for files.

    `rows` are those of training and test set, for plans made before anything is downloaded.
    """

    classes: tuple[str, ...]
    licence: str
    citation: str
    loader: str = ""
    place: str = ""
    rows: tuple[int, int] = (0, 0)
    image_shape: tuple[int, int, int] = (0, 0, 0)


_TEN = tuple("0123456789")
KNOWN = {
    "digits": _Known(
        _TEN,
        "CC BY 4.0",
        "E. Alpaydin and C. Kaynak: Optical Recognition of Handwritten Digits. UCI Machine Learning Repository, 1998. "
        "https://doi.org/10.24432/C50P49",
    ),
    "cifar10": _Known(
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        "none stated by its authors",
        "A. Krizhevsky: Learning Multiple Layers of Features from Tiny Images. Technical report, 2009.",
        "CIFAR10",
        "cifar-10-batches-py",
        (50_000, 10_000),
        (3, 32, 32),
    ),
    "mnist": _Known(
        _TEN,
        "CC BY-SA 3.0",
        "Y. LeCun, L. Bottou, Y. Bengio and P. Haffner: Gradient-Based Learning Applied to Document Recognition. "
        "Proceedings of the IEEE 86(11), 1998.",
        "MNIST",
        "MNIST/raw",
        (60_000, 10_000),
        (1, 28, 28),
    ),
    "fashion-mnist": _Known(
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


def load_images(data: config.Data) -> BaseDataset:
    """The set called `data.name`, or the one in the `.npz` file of that path."""
    if data.name == "digits":
        return _digits()
    if data.name in KNOWN:
        return _official(data.name, Path(data.folder).expanduser())
    path = Path(data.name).expanduser()
    if path.suffix.lower() == ".npz":
        return _named(path, *checked(read_npz(path), path), "not stated in the .npz file")
    if data.name and path.is_dir():
        train, test, classes = read_folder(path)
        return BaseDataset(path.name, train, test, classes, "not stated in the folder", "")
    if path.suffix.lower() in (".h5", ".hdf5") and path.exists():
        return _named(path, *read_hdf5(path), "not stated in the HDF5 file")
    if path.exists():
        raise UserError(
            f"{path} is no .npz file, no .h5 file and no folder: give one with {WANTED}, or one of {', '.join(KNOWN)}."
        )
    hint = did_you_mean(data.name.lower(), KNOWN)
    raise UserError(
        f"No image set '{data.name}': name a known set, a .npz or HDF5 file, or a folder with --data; {hint}"
    )


def needs_download(data: config.Data) -> bool:
    """Whether the set is one that torchvision fetches, and its folder does not have it."""
    known = KNOWN.get(data.name)
    return known is not None and known.loader != "" and not (Path(data.folder).expanduser() / known.place).is_dir()


def size_of(data: config.Data) -> DatasetSize:
    """The size of a set, without downloading it."""
    known = KNOWN.get(data.name)
    if known and known.loader:
        return DatasetSize(data.name, *known.rows, known.image_shape, len(known.classes))
    return load_images(data).size


def _digits() -> BaseDataset:
    """scikit-learn's 1,797 digits; a fifth of each class is the test set, the same for every seed."""
    from sklearn.datasets import load_digits

    source = load_digits()
    images = np.rint(source.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    labels = source.target.astype(np.int64)
    tested = class_ranks(labels, 0, "digits test set") < np.rint(np.bincount(labels)[labels] / 5)
    known = KNOWN["digits"]
    train, test = ImageSplit(images[~tested], labels[~tested]), ImageSplit(images[tested], labels[tested])
    return BaseDataset("digits", train, test, known.classes, known.licence, known.citation)


def _official(name: str, folder: Path) -> BaseDataset:
    """Through torchvision, which downloads what is not in the folder."""
    from torchvision import datasets

    known = KNOWN[name]
    loader = getattr(datasets, known.loader)
    try:
        # Some versions of torchvision print, and standard output is for results.
        with redirect_stdout(sys.stderr):
            train, test = (loader(root=str(folder), train=part, download=True) for part in (True, False))
    except Exception as error:  # Network, disk or a damaged file: torchvision has no error type of its own.
        raise UserError(
            f"Cannot get {name} ({one_line(error)}): put the official files into {folder / known.place}, replacing "
            f"damaged ones, or use a .npz file with {WANTED} as --data path.npz."
        ) from None
    arrays = [np.asarray(part) for split in (train, test) for part in (split.data, split.targets)]
    splits = checked(dict(zip(ARRAYS, arrays, strict=True)), folder / known.place)
    return BaseDataset(name, *splits, known.classes, known.licence, known.citation)


def _named(path: Path, train: ImageSplit, test: ImageSplit, licence: str) -> BaseDataset:
    """A known set is known by its file's name, too."""
    count = int(train.labels.max()) + 1
    name = path.stem.replace("_", "-")
    known = KNOWN.get(name)
    if known is None or not known.loader or count != len(known.classes):
        name, known = path.stem, _Known(tuple(map(str, range(count))), "", "")
    return BaseDataset(name, train, test, known.classes, licence, known.citation)
