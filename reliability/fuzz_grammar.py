"""Valid records drawn from the schema, in which one rule is then broken; digests agree with what is written.

The mutations of fuzz_hdf5.py and fuzz_bytes.py start from a few fixed files. These draw a whole valid file first: every
setting anywhere within its bounds, every field that docs/format.md names. So whatever is refused is refused for the
one rule that is broken.
"""

from __future__ import annotations

import dataclasses
import io
import json
import struct
import typing
from collections.abc import Mapping
from functools import cache
from random import Random
from typing import Any, Literal

import h5py
import numpy as np

from featuregen.config.loader import config_names, load_config
from featuregen.config.schema import Config
from featuregen.config.serialize import to_dict
from reliability.crafted_breaks import drawn_break
from reliability.crafted_datasets import put, seal, set_rows
from reliability.crafted_records import ATTRIBUTES, BY_HAND, COLUMN_VALUES, RECORDS
from reliability.fuzz_bytes import Mutation

# Settings that other settings must agree with; they stay as a shipped config has them.
_TIED = frozenset({
    "norm", "eps", "schedule", "attack", "l2", "linf", "headline", "mean", "std", "fake_relu", "alpha", "early_stop",
    "name",
    "folder", "standard_from", "robust_from", "device",
})  # fmt: skip
_SHARE = 0.25
_LONG_YAML = 50_000
# To make; the trial of crafted inputs has them.
_SLOW = ("15k text attributes", "classes-200k", "classes-long")


# Valid records -------------------------------------------------------------------------------------


@cache
def _shipped(name: str) -> dict[str, Any]:
    tree: dict[str, Any] = to_dict(load_config(name))
    return tree


def valid_config(random: Random) -> dict[str, Any]:
    """A shipped config with a quarter of its settings drawn anew within their bounds."""
    tree = json.loads(json.dumps(_shipped(random.choice(config_names()))))
    return _drawn(tree, Config, random)


def _drawn(tree: dict[str, Any], schema: Any, random: Random) -> dict[str, Any]:
    hints = typing.get_type_hints(schema)
    for each in dataclasses.fields(schema):
        old, hint = tree.get(each.name), hints[each.name]
        inner = next((part for part in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(part)), None)
        if isinstance(old, dict) and typing.get_origin(hint) is Mapping:
            # Kinds by name.
            tree[each.name] = {kind: _drawn(recipe, inner, random) for kind, recipe in old.items()}
        elif isinstance(old, dict):
            tree[each.name] = _drawn(old, inner, random)
        elif each.name in tree and each.name not in _TIED and random.random() < _SHARE:
            tree[each.name] = _value(old, hint, each.metadata, random)
    return tree


def _value(old: Any, hint: Any, bounds: Any, random: Random) -> Any:
    if typing.get_origin(hint) is Literal:
        return random.choice(typing.get_args(hint))
    if hint is bool:
        return random.random() < 0.5
    if hint is int:
        low = int(bounds.get("low", 0))
        high = int(bounds.get("high", low + 50))
        return random.choice((low, min(low + 1, high), random.randint(low, min(high, low + 50))))
    if hint is float:
        lowest, highest = float(bounds.get("low", bounds.get("above", 0.0))), float(bounds.get("high", 1.0))
        return lowest + (highest - lowest) * random.uniform(0.001, 0.999)
    return old


def valid_records(random: Random, rows: int) -> dict[str, Any]:
    """The JSON attributes of a dataset of the kind `det` on digits, with the fields that docs/format.md names."""
    config = valid_config(random)
    synthesis = {
        "batch_size": random.randint(1, 512), "dtype": "float32", "eps": random.choice((0.5, 1.25, 3.0)),
        "fake_relu": False,
        "momentum": random.random() * 0.9, "noise": 0.25, "norm": random.choice(("l2", "linf")), "rows": rows,
        "schedule": random.choice(("constant", "cosine", "linear")), "step_size": 0.2, "steps": random.randint(0, 100),
    }  # fmt: skip
    training = config["sources"]["standard"]
    digest = random.randbytes(32).hex()
    accuracy = {"clean": random.random(), "l2": {"0.5": random.random()}, "linf": {"0.05": random.random()}}
    settings = {
        "classes": 10, "convolution": "direct", "precision": "fp32", "seed": random.randrange(9), "data": digest,
        "model": config["model"], "training": training,
    }  # fmt: skip
    records: dict[str, Any] = {
        "recipe": {"seed": random.randrange(2**31), "precision": "fp32", "convolution": "direct",
            "synthesis": synthesis},
        "base": {"name": "digits", "rows": 1438, "split": "train", "licence": "CC BY 4.0", "sha256": digest,
            "test_sha256": digest},
        "source_model": {
            "architecture": "convnet", "width": 12, "weights_sha256": digest, "train_accuracy": random.random(),
            "trained_on": {"name": "digits", "sha256": digest}, "accuracy": accuracy, "settings": settings,
        },
        "software": {
            "batch": "512", "convolution": "direct", "device": "cpu (x86_64)", "featuregen": "0.1.0", "h5py": "3.16.0",
            "numpy": "2.4.6", "precision": "fp32", "python": "3.11.7", "threads": "1", "torch": "2.15.0",
        },
        "config": config, "classes": [str(number) for number in range(10)],
    }  # fmt: skip
    if random.random() < 0.2:
        attack = {"name": "pgd", "norm": "l2", "eps": 0.5, "target": "", "steps": 20, "step_size": 0.0, "restarts": 1}
        records["recipe"] = {"seed": 0, "precision": "fp32", "attack": attack}
    elif random.random() < 0.2:
        records["recipe"]["shard"] = {"number": 1, "of": 2, "rows": 2 * rows, "first": 0}
    return records


# Broken ones ---------------------------------------------------------------------------------------


def dataset_rule(data: bytes, random: Random) -> bytes:
    """A dataset with valid records, then one field, attribute or column against its rule."""
    target = io.BytesIO(data)
    with h5py.File(target, "r+") as root:
        shards = "shard" in json.loads(root.attrs["recipe"])
        # Shards must agree, or nothing else of them is looked at.
        if not shards and random.random() < 0.8:
            for name, record in valid_records(random, int(root["labels"].shape[0])).items():
                put(root, name, json.dumps(record, sort_keys=True, separators=(",", ":")))
            put(root, "kind", "attacked" if "attack" in json.loads(root.attrs["recipe"]) else "det")
        _break_one(root, random)
        seal(root)
    return target.getvalue()


def _break_one(root: h5py.File, random: Random) -> None:
    kind = random.random()
    if kind < 0.65:
        name = random.choice(RECORDS)
        put(root, name, drawn_break(json.loads(root.attrs[name]), random)[1])
    elif kind < 0.75:
        name = random.choice(list(ATTRIBUTES))
        put(root, name, random.choice(ATTRIBUTES[name]))
    elif kind < 0.9:
        column = random.choice([name for name in root if name != "images"])
        value = random.choice(COLUMN_VALUES if root[column].dtype.kind == "i" else (np.nan, np.inf, -1.0, 1e30))
        set_rows(column, random.choice((0, slice(0, 3), slice(None))), value)(root)
    else:
        # Some of these are for files of other kinds, and break no rule here.
        random.choice([edit for name, (_, edit) in BY_HAND.items() if name not in _SLOW])(root)


def model_rule(data: bytes, random: Random) -> bytes:
    """A model whose record has a valid config and settings, then one field against its rule."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    record = json.loads(header["__metadata__"]["featuregen"])
    drawn = valid_records(random, 10)
    record["record"] |= {
        "config": drawn["config"], "settings": drawn["source_model"]["settings"],
        "accuracy": drawn["source_model"]["accuracy"],
        "train_accuracy": random.random(), "software": drawn["software"], "seconds": {"train": 1.5},
        "base": {"name": "digits", "train_sha256": drawn["base"]["sha256"]},
    }  # fmt: skip
    header["__metadata__"]["featuregen"] = drawn_break(record, random)[1]
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + data[end:]


def config_rule(data: bytes, random: Random) -> bytes:
    """Valid settings, as JSON, which YAML includes, then one against its rule."""
    text = drawn_break(valid_config(random), random)[1]
    # Python reads a megabyte of YAML in half a minute, so most of these are left out.
    if len(text) > _LONG_YAML and random.random() < 0.9:
        text = drawn_break(valid_config(random), random)[1][:_LONG_YAML]
    return text.encode("utf-8", "surrogatepass")


DATASETS: tuple[Mutation, ...] = (dataset_rule,)
MODELS: tuple[Mutation, ...] = (model_rule, model_rule)
CONFIGS: tuple[Mutation, ...] = (config_rule, config_rule)
