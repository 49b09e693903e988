"""What is opened, what is done to it before, and whose lines are counted meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import torch

from reliability import fuzz_datasets as sets
from reliability import fuzz_files as others
from reliability.fuzz_archives import NPZ, OLD_TORCH, PICTURES, TORCH, safetensors
from reliability.fuzz_bytes import BYTES, YAML, Mutation
from reliability.fuzz_datasets import Files
from reliability.fuzz_grammar import CONFIGS, DATASETS, MODELS
from reliability.fuzz_hdf5 import HDF5


@dataclass(frozen=True)
class Target:
    """`seeds` are whole inputs, `mutations` what their files are changed by, `open` is given the folder they lie in.

    `modules` are those whose lines and branches are counted.
    """

    name: str
    seeds: tuple[Files, ...]
    mutations: Mapping[str, tuple[Mutation, ...]]
    open: Callable[[Path], object]
    modules: tuple[str, ...]
    decoys: Callable[[], Files] = dict

    @property
    def hdf5(self) -> bool:
        return any(name.endswith(".h5") for name in self.mutations)


def input_of(target: Target, seed: int, number: int) -> Files:
    """The same for the same three, whoever asks."""
    random = Random(f"{seed} {target.name} {number}")
    files = dict(random.choice(target.seeds))
    name = random.choice([name for name in target.mutations if name in files])
    # First where the format is known, on what is whole; then where it is not.
    known = target.mutations[name]
    changes = [random.choice(known) for _ in range(random.choice((0, 1, 1, 2)))] if known else []
    changes += [
        random.choice(BYTES) for _ in range(0 if changes and random.random() < 0.7 else random.choice((1, 1, 2, 3)))
    ]
    for change in changes:
        if not files[name]:
            break
        try:
            files[name] = change(files[name], random)
        # A lie about a lie: what the first has made may be beyond what the second can read.
        except Exception:
            files[name] = random.choice(BYTES)(files[name], random)
    return files


def _decoys() -> Files:
    good, arrays = sets.dataset(), others.arrays_of_a_set()
    return {
        "decoy.h5": good, "decoy.bin": bytes(4096), "decoy.npz": others.npz(arrays),
        "decoy.pt": others.torch_file([torch.zeros(3)]),
    }  # fmt: skip


_STORAGE = ("storage/reader.py", "storage/schema.py", "runtime/hdf5_guard.py")
_TORCH = ("runtime/torch_files.py", "runtime/unpickle.py")
_CONFIG = ("config/loader.py", "config/serialize.py", "config/schema.py")


@cache
def targets() -> dict[str, Target]:
    images, hdf5 = others.image_sets(), (*HDF5, *DATASETS)
    pictures = {name: PICTURES if name.endswith(".png") else () for files in images[4:] for name in files}
    all_targets = (
        Target(
            "dataset", sets.datasets(), {"a.h5": hdf5}, sets.load_dataset,
            (*_STORAGE, "storage/torch_dataset.py", "storage/diff.py"), _decoys,
        ),
        Target(
            "verify", sets.datasets(), {"a.h5": hdf5}, sets.verify_dataset, (*_STORAGE, "storage/verify.py"), _decoys,
        ),
        Target("merge", (sets.shards(),), {"a.h5": hdf5}, sets.merge_files, ("storage/merge.py",), _decoys),
        Target("journal", (sets.journal(),), {"a.h5.partial": ()}, sets.go_on, ("storage/journal.py",)),
        Target(
            "sums", ({"a.h5": b"content", "SHA256SUMS": b"0" * 64 + b"  a.h5\n" + b"1" * 64 + b" *b.h5\n"},),
            {"SHA256SUMS": ()}, sets.look_at_sums, ("storage/checksums.py",),
        ),
        Target(
            "checkpoint", others.checkpoints(), {"a.pt": TORCH, "old.pt": OLD_TORCH}, others.open_checkpoint,
            (*_TORCH, "interop/robustness.py"), _decoys,
        ),
        Target(
            "released", others.release(), {"CIFAR_ims": (*TORCH, *OLD_TORCH), "CIFAR_lab": (*TORCH, *OLD_TORCH)},
            others.import_release, (*_TORCH, "interop/released.py"), _decoys,
        ),
        Target(
            "model", (others.model(),), {"a.safetensors": (*safetensors("featuregen"), *MODELS)}, others.open_model,
            ("models/io.py",),
        ),
        Target("halfway", (others.state_file(),), {"a.halfway": TORCH}, others.resume, ("training/resume.py",)),
        Target("config", others.configs(), {"a.yaml": (*YAML, *CONFIGS)}, others.open_config, _CONFIG),
        Target(
            "image-set", images, {"a.npz": NPZ, "b.npz": NPZ, "c.h5": HDF5, "d.h5": HDF5} | pictures, others.read_set,
            ("data/npz.py", "data/on_disk.py", "data/sources.py"), _decoys,
        ),
    )  # fmt: skip
    return {target.name: target for target in all_targets}
