"""How two files differ, in lines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featuregen.errors import join_lines


def diff_text(first: Path, second: Path, diff: Mapping[str, Any]) -> str:
    lines = [("content", "the same, byte for byte" if diff["same"] else "differs")]
    for group, changes in (("setting", diff["settings"]), ("record", diff["record"])):
        lines += [(group, f"{name}: {one} in A, {other} in B") for name, one, other in changes]
    by = "" if diff["by"] == "index" else " (by their place, since one file does not record the rows of its base set)"
    counts = f"{diff['only_first']:,} only in A, {diff['only_second']:,} only in B"
    lines.append(("rows", f"{diff['shared']:,} in both{by}, {counts}"))
    lines += [(name, f"differ in {count:,} rows") for name, count in diff["columns"].items() if count]
    pixels = diff["pixels"]
    if pixels is None:
        images = "not comparable: their shapes differ, or no row is in both files"
    elif pixels["images"]:
        size = f"a pixel by at most {pixels['largest']:.4g}, an image by {pixels['median']:.4g} in L2 (median)"
        images = f"differ in {pixels['images']:,} rows, {size}"
    else:
        images = "the same, pixel for pixel"
    lines.append(("images", images))
    width = max(len(name) for name, _ in lines)
    return join_lines([f"A  {first}", f"B  {second}", *(f"  {name:{width}}  {text}" for name, text in lines)])
