"""HDF5 files that are whole and lie: links, foreign storage, odd types, shapes, filters and attributes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from random import Random
from typing import Any

import h5py
import numpy as np

from featuregen.storage.reader import attributes_of
from featuregen.storage.schema import content_digest, record_digest
from reliability.fuzz_bytes import ODD, Mutation, changed

_SHAPES: tuple[tuple[int, ...] | None, ...] = (
    (), (0,), (1,), (2**31,), (10**12,), (2**60,), (10, 0), (1, 1, 1, 1), (10, 1, 5, 5), (2**40, 1, 5, 5), (10,) * 6,
    None,
)  # fmt: skip
_TYPES: tuple[Any, ...] = (
    "<i8", ">i8", "<i4", "u1", "<f2", "<f4", "<f8", "c8", "S3", "V5", h5py.string_dtype(), h5py.vlen_dtype("i4"),
    [("a", "i4"), ("b", "f8")], h5py.ref_dtype, h5py.regionref_dtype, h5py.enum_dtype({"a": 1}), ("i4", (3,)), "?",
)  # fmt: skip
Lie = Callable[[h5py.File, str, Random], None]


def lying(data: bytes, random: Random) -> bytes:
    """One or two members or attributes made into something else; with their digests made to agree, at times."""
    target = io.BytesIO(data)
    with h5py.File(target, "r+") as root:
        for _ in range(random.choice((1, 1, 2))):
            _lie(root, random)
        if random.random() < 0.3:
            _seal(root)
    return target.getvalue()


def _lie(root: h5py.File, random: Random) -> None:
    members = list(root)
    if root.attrs and random.random() < 0.5:
        _attribute(root, random.choice(list(root.attrs)), random)
    elif members:
        random.choice(_LIES)(root, random.choice(members), random)


def _seal(root: h5py.File) -> None:
    """Where that is no work, and harmless."""
    members = [root.get(name, getlink=True) for name in root]
    if not all(isinstance(link, h5py.HardLink) for link in members):
        return
    if not all(
        isinstance(root[name], h5py.Dataset) and root[name].id.get_storage_size() > 0 and (root[name].size or 0) < 10**5
        for name in root
    ):
        return
    try:
        attributes = attributes_of(root, root.filename)
        root.attrs["content_sha256"] = attributes["content_sha256"] = content_digest(root, attributes)
        root.attrs["record_sha256"] = record_digest(attributes)
    # What has been made of the file may be beyond reading; then its digests stay as they were.
    except Exception:
        return


# Attributes ----------------------------------------------------------------------------------------


def _attribute(root: h5py.File, name: str, random: Random) -> None:
    old = root.attrs[name]
    del root.attrs[name]
    kind = random.random()
    if kind < 0.55 and isinstance(old, str) and old[:1] in "[{":
        _put(root, name, json.dumps(changed(json.loads(old), random)))
    elif kind < 0.75:
        _put(
            root,
            name,
            random.choice(
                (*ODD, "[" * 50_000, "{" * 50_000, "9" * 5000, np.arange(5), np.zeros(9000, "u1"), b"\xff\xfe")
            ),
        )
    elif kind < 0.9:
        shape, dtype = random.choice(_SHAPES), random.choice(_TYPES)
        _create(lambda: root.attrs.create(name, h5py.Empty(dtype) if shape is None else np.zeros(_small(shape), dtype)))


def _put(root: h5py.File, name: str, value: Any) -> None:
    if value is None or isinstance(value, (list, dict)) or (isinstance(value, int) and abs(value) >= 2**63):
        value = json.dumps(value)
    if isinstance(value, str):
        value = np.bytes_(value.encode("utf-8", "surrogatepass")) if "\ud800" in value else value.replace("\0", " ")
    _create(lambda: root.attrs.__setitem__(name, value))


def _create(make: Callable[[], Any]) -> None:
    """Not everything can be written by h5py; what cannot is left out."""
    try:
        make()
    except (TypeError, ValueError, OSError, RuntimeError, OverflowError):
        return


def _small(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(min(length, 20) for length in shape)


# Members -------------------------------------------------------------------------------------------


def _gone(root: h5py.File, name: str, random: Random) -> None:
    del root[name]


def _link(root: h5py.File, name: str, random: Random) -> None:
    del root[name]
    root[name] = random.choice((
        h5py.ExternalLink("../decoy/decoy.h5", name), h5py.ExternalLink("../decoy/decoy.h5", "/"),
        h5py.SoftLink("/labels"), h5py.SoftLink(f"/{name}"), h5py.SoftLink("/nowhere"),
    ))  # fmt: skip


def _outside(root: h5py.File, name: str, random: Random) -> None:
    """Values that lie in another file, as HDF5 lets them."""
    shape, dtype = root[name].shape, root[name].dtype
    del root[name]
    if random.random() < 0.5:
        size = int(np.prod(shape)) * dtype.itemsize
        root.create_dataset(name, shape, dtype, external=[("../decoy/decoy.bin", random.choice((0, 3)), size)])
        return
    layout = h5py.VirtualLayout(shape, dtype)
    layout[...] = h5py.VirtualSource("../decoy/decoy.h5", name, shape)
    root.create_virtual_dataset(name, layout)


def _group(root: h5py.File, name: str, random: Random) -> None:
    del root[name]
    if random.random() < 0.5:
        root.create_group(name)
    else:
        root[name] = np.dtype(random.choice(("<i8", "S3")))


def _other(root: h5py.File, name: str, random: Random) -> None:
    """Another shape or type, chunks or none, filters or none, with or without values behind it."""
    old, layout = root[name], random.random()
    shape = old.shape if random.random() < 0.5 else random.choice(_SHAPES)
    dtype = old.dtype if random.random() < 0.6 else random.choice(_TYPES)
    del root[name]
    if shape is None:
        _create(lambda: root.create_dataset(name, data=h5py.Empty(dtype)))
        return
    how: dict[str, Any] = (
        {"chunks": tuple(max(1, min(length, 10**9)) for length in shape)} if layout < 0.3 and shape else {}
    )
    if layout > 0.3 and shape:
        how = random.choice((
            {"chunks": _small(shape)}, {"fletcher32": True}, {"compression": "gzip", "compression_opts": 9},
            {"compression": "lzf", "shuffle": True}, {"scaleoffset": 0}, {"maxshape": (None,) * len(shape)}, {},
        ))  # fmt: skip
    values = shape == _small(shape) and random.random() < 0.7
    _create(lambda: root.create_dataset(name, shape, dtype, data=np.zeros(shape, dtype) if values else None, **how))


def _bomb(root: h5py.File, name: str, random: Random) -> None:
    """Zeros that take no room: a chunk that unpacks to many times the file."""
    shape, dtype = root[name].shape, root[name].dtype
    del root[name]
    rows = random.choice((10**6, 3 * 10**7))
    chunk = (rows // random.choice((1, 8)), *shape[1:])
    made = root.create_dataset(name, (rows, *shape[1:]), dtype, chunks=chunk, compression="gzip", shuffle=True)
    made.id.write_direct_chunk((0,) * len(shape), _DEFLATED)


# A deflated million zeros, which stands for however many a chunk has.
_DEFLATED = __import__("zlib").compress(bytes(10**6), 9)


def _values(root: h5py.File, name: str, random: Random) -> None:
    """Other numbers in their places."""
    if not isinstance(root.get(name), h5py.Dataset) or not root[name].shape:
        return
    odd = random.choice((0, -1, -2, 1, 2, 100, 2**31, 2**62, -(2**63), float("nan"), float("inf"), -0.5, 1e30))
    _create(lambda: root[name].__setitem__(random.choice((0, Ellipsis)), odd))


def _filters(root: h5py.File, name: str, random: Random) -> None:
    """Filters that HDF5 would load from elsewhere, and chunks said to have skipped theirs."""
    shape, dtype = root[name].shape, root[name].dtype
    del root[name]
    number = random.choice((1, 2, 3, 4, 5, 6, 305, 32000, 32001, 32015, 65000))
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk(_small(shape) or (1,))
    _create(
        lambda: properties.set_filter(
            number, h5py.h5z.FLAG_OPTIONAL, tuple(random.choice((0, 1, 9, 2**31)) for _ in range(random.randrange(4)))
        )
    )
    space = h5py.h5s.create_simple(shape or (1,))
    made = h5py.h5d.create(root.id, name.encode(), h5py.h5t.py_create(dtype, logical=True), space, properties)
    content = np.zeros(_small(shape) or (1,), dtype).tobytes()
    _create(
        lambda: made.write_direct_chunk(
            (0,) * max(1, len(shape)), random.choice((content, _DEFLATED, content[:5])), random.choice((0, 1))
        )
    )


def _more(root: h5py.File, name: str, random: Random) -> None:
    _create(lambda: root.__setitem__(f"{name}.more", h5py.ExternalLink("../decoy/decoy.h5", "/")))
    _create(lambda: root[name].attrs.__setitem__("unit", "metre"))


_LIES: tuple[Lie, ...] = (
    _gone,
    _link,
    _outside,
    _outside,
    _group,
    _other,
    _other,
    _other,
    _bomb,
    _values,
    _values,
    _filters,
    _more,
)
HDF5: tuple[Mutation, ...] = (lying,)
