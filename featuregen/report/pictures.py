"""Pictures of images, every pixel a sharp square; the charts of `charts` are offered here too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath
from numpy.typing import NDArray

from featuregen.report import canvas
from featuregen.report.plots import accuracy_bars, accuracy_curves, honesty_curves

__all__ = ["Captions", "accuracy_bars", "accuracy_curves", "honesty_curves", "kinds_grid", "preview"]

Images = Sequence[NDArray[Any]] | NDArray[Any]

BASE_ROW = "base image"
MAX_COLUMNS = 10

# Pixels of the PNG, which has twice the usual density.
_IMAGE, _GAP, _LINE = 140, 14, 30


class Captions(TypedDict, total=False):
    """Words of a preview: a header per column, such as "7" or "7 → 8" (true → stored label)."""

    columns: Sequence[str]
    rows: Sequence[str]
    title: str


@dataclass(frozen=True)
class _Row:
    title: str
    images: list[NDArray[np.uint8]]
    labels: Sequence[str] = ()


def preview(
    path: str | Path, base_images: Images, start_images: Images, result_images: Images, captions: Captions
) -> Path:
    """Base image, start image and result, one column per row of the data set; at most ten are drawn."""
    titles = captions.get("rows", (BASE_ROW, "start image", "result"))
    batches = (base_images, start_images, result_images)
    rows = [_Row(title, _shown(images)) for title, images in zip(titles, batches, strict=True)]
    _grid(path, rows, list(captions.get("columns", ()))[:MAX_COLUMNS], captions.get("title", ""))
    return Path(path)


def kinds_grid(
    path: str | Path,
    columns: Images,
    rows: Mapping[str, Images],
    labels: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Base images on top, then a row per kind; `labels[row title]` (or `labels[BASE_ROW]`) stand under the pictures."""
    named = labels or {}
    content = {BASE_ROW: columns, **rows}
    _grid(path, [_Row(title, _shown(images), named.get(title, ())) for title, images in content.items()], [], "")
    return Path(path)


def drawn_rows(path: str | Path, rows: Sequence[tuple[str, Images, Sequence[str]]], title: str) -> Path:
    """Rows of pictures, each with its name on the left and words under its pictures."""
    _grid(path, [_Row(name, _shown(images), words) for name, images, words in rows], [], title)
    return Path(path)


def _shown(images: Images) -> list[NDArray[np.uint8]]:
    return [_pixels(np.asarray(image)) for image in images[:MAX_COLUMNS]]


def _pixels(image: NDArray[Any]) -> NDArray[np.uint8]:
    """One CHW image, float in [0, 1] or uint8, as HWC colours."""
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"an image of shape {image.shape} cannot be drawn; give (1, H, W) or (3, H, W)")
    if image.dtype != np.uint8:
        image = np.rint(255 * np.clip(np.nan_to_num(image.astype(np.float64)), 0, 1)).astype(np.uint8)
    return np.repeat(np.moveaxis(image, 0, 2), 3 // image.shape[0], axis=2)


# Drawing, in pixels from the top left --------------------------------------------------------------


def _grid(path: str | Path, rows: Sequence[_Row], headers: Sequence[str], title: str) -> None:
    images = [image for row in rows for image in row.images]
    if not images:
        raise ValueError(f"no images to draw for {path}")
    size = max(max(image.shape[:2]) for image in images)
    # Whole multiples keep every pixel the same size; only an image larger than its place is thinned out.
    scale, thin = max(1, round(_IMAGE / size)), -(-size // _IMAGE)
    cell = -(-size // thin) * scale
    left = _GAP + max(_text_width(row.title, 9) for row in rows) + 2 * _GAP
    count = max(len(row.images) for row in rows)
    head = _set(headers, cell + _GAP // 2, 9)
    top = _GAP + (_LINE + _GAP if title else 0) + _LINE * head.count
    words = [_set(row.labels, cell + _GAP // 2, 8.5) for row in rows]
    heights = [cell + _LINE * lines.count + _GAP for lines in words]
    width = max(left + count * (cell + _GAP), 2 * _GAP + _text_width(title, 10, "bold"))
    height = top + sum(heights)
    with canvas.drawing(path, width / 2, height / 2, layout=None) as figure:
        sheet = _Sheet(figure, height)
        if title:
            sheet.write(title, _GAP, _GAP + _LINE / 2, "left", 10, bold=True)
        centres = [left + i * (cell + _GAP) + cell / 2 for i in range(count)]
        for header, x in zip(head.texts, centres, strict=False):
            sheet.write(header, x, top - _LINE * head.count / 2 - 4, "center", head.size)
        for row, lines, row_height in zip(rows, words, heights, strict=True):
            sheet.write(row.title, left - 2 * _GAP, top + cell / 2, "right", 9)
            for image, x in zip(row.images, centres, strict=False):
                sheet.paste(image[::thin, ::thin].repeat(scale, 0).repeat(scale, 1), round(x - cell / 2), top)
            for label, x in zip(lines.texts, centres, strict=False):
                sheet.write(label, x, top + cell + 2 + _LINE * lines.count / 2, "center", lines.size)
            top += row_height


@dataclass(frozen=True)
class _Sheet:
    figure: Figure
    height: int

    def write(self, text: str, x: float, y: float, align: str, size: float, *, bold: bool = False) -> None:
        self.figure.text(
            x, self.height - y, text, transform=None, ha=align, va="center", fontsize=size,
            fontweight="bold" if bold else "normal", parse_math=False,
        )  # fmt: skip

    def paste(self, image: NDArray[np.uint8], x: int, y: int) -> None:
        self.figure.figimage(image, x, self.height - y - image.shape[0], origin="upper")


def _text_width(text: str, size: float, weight: str = "normal") -> float:
    width, _, _ = TextToPath().get_text_width_height_descent(
        text, FontProperties(size=size, weight=weight), ismath=False
    )
    return float(width) * canvas.DPI / 72


@dataclass(frozen=True)
class _Words:
    texts: list[str]
    size: float

    @property
    def count(self) -> int:
        """Lines of the tallest text."""
        return max((1 + text.count("\n") for text in self.texts), default=0)


def _set(texts: Sequence[str], width: float, size: float) -> _Words:
    """Texts that stand above or below pictures: broken at the arrow, then set smaller, then cut until they fit."""
    if any(_text_width(text, size) > width for text in texts):
        texts = [text.replace(" → ", "\n→ ") for text in texts]
    widest = max((_text_width(line, size) for text in texts for line in text.split("\n")), default=width)
    fitting = max(6.5, size * min(1.0, width / max(widest, 1.0)))
    return _Words(["\n".join(_cut(line, width, fitting) for line in text.split("\n")) for text in texts], fitting)


def _cut(text: str, width: float, size: float) -> str:
    if _text_width(text, size) <= width + 1:
        return text
    kept = next((n for n in range(len(text) - 1, 0, -1) if _text_width(f"{text[:n]}…", size) <= width), 0)
    return f"{text[:kept]}…"
