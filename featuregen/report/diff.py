"""How two files differ, in lines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def diff_text(first: Path, second: Path, found: Mapping[str, Any]) -> str:
    lines = [f"A  {first}", f"B  {second}"]
    told = [("content", "the same, byte for byte" if found["same"] else "differs")]
    told += [("setting", f"{name}: {one} in A, {other} in B") for name, one, other in found["settings"]]
    told += [("record", f"{name}: {one} in A, {other} in B") for name, one, other in found["record"]]
    by = "" if found["by"] == "index" else " (by their place, since one does not record where its rows come from)"
    told.append(
        (
            "rows",
            f"{found['shared']:,} in both{by}, {found['only_first']:,} only in A, {found['only_second']:,} only in B",
        )
    )
    told += [(name, f"differ in {count:,} rows") for name, count in found["columns"].items() if count]
    if found["pixels"] is None:
        told.append(("images", "not comparable: they have other shapes, or no row in common"))
    elif found["pixels"]["images"]:
        pixels = found["pixels"]
        size = f"a pixel by at most {pixels['largest']:.4g}, an image by {pixels['median']:.4g} in L2 in the median"
        told.append(("images", f"differ in {pixels['images']:,} rows, {size}"))
    else:
        told.append(("images", "the same, pixel for pixel"))
    width = max(len(name) for name, _ in told)
    return "\n".join([*lines, *(f"  {name:{width}}  {words}" for name, words in told)])
