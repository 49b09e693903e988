"""Grids of images, every pixel a sharp square."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featuregen.errors import UserError, printable
from featuregen.report import canvas
from featuregen.runtime.safe_matplotlib import FontProperties, TextToPath

Images = Sequence[NDArray[Any]] | NDArray[Any]

MAX_COLUMNS = 10

# Pixels of the PNG, which has twice the usual density.
_IMAGE, _GAP, _LINE = 140, 14, 30
# Characters of a text from a file, of which no more would fit.
_NAME = 80


@dataclass(frozen=True)
class Row:
    """Images side by side, with the row's title on the left and captions below; at most ten are drawn."""

    title: str
    images: Images
    captions: Sequence[str] = ()


def draw_grid(path: str | Path, rows: Sequence[Row], headers: Sequence[str] = (), title: str = "") -> Path:
    """Rows of images under each other; `headers` are above the columns, such as "7 → 8" (true → stored label)."""
    headers = [printable(text, _NAME) for text in headers]
    rows = [Row(row.title, row.images, [printable(text, _NAME) for text in row.captions]) for row in rows]
    title = printable(title, 2 * _NAME)
    images = [[_pixels(np.asarray(image)) for image in row.images[:MAX_COLUMNS]] for row in rows]
    size = max((max(image.shape[:2]) for row in images for image in row), default=0)
    if not size:
        raise ValueError(f"no images to draw for {path}")
    # Whole multiples keep every pixel the same size; only an image larger than its place is thinned out.
    scale, thin = max(1, round(_IMAGE / size)), -(-size // _IMAGE)
    cell = -(-size // thin) * scale
    left = _GAP + max(_text_width(row.title, 9) for row in rows) + 2 * _GAP
    count = max(len(row) for row in images)
    head = _fit(headers[:MAX_COLUMNS], cell + _GAP // 2, 9)
    top = _GAP + (_LINE + _GAP if title else 0) + _LINE * head.lines
    captions = [_fit(row.captions, cell + _GAP // 2, 8.5) for row in rows]
    heights = [cell + _LINE * caption.lines + _GAP for caption in captions]
    width = max(left + count * (cell + _GAP), 2 * _GAP + _text_width(title, 10, "bold"))
    height = top + sum(heights)
    with canvas.drawing(path, width / 2, height / 2, layout=None) as figure:

        def write(text: str, x: float, y: float, align: str, size: float, weight: str = "normal") -> None:
            """`y` counts from the top, unlike matplotlib's."""
            figure.text(x, height - y, text, transform=None, ha=align, va="center", fontsize=size, fontweight=weight)

        write(title, _GAP, _GAP + _LINE / 2, "left", 10, "bold")
        centres = [left + i * (cell + _GAP) + cell / 2 for i in range(count)]
        for header, x in zip(head.texts, centres, strict=False):
            write(header, x, top - _LINE * head.lines / 2 - 4, "center", head.size)
        for row, row_images, caption, row_height in zip(rows, images, captions, heights, strict=True):
            write(row.title, left - 2 * _GAP, top + cell / 2, "right", 9)
            for image, x in zip(row_images, centres, strict=False):
                block = image[::thin, ::thin].repeat(scale, 0).repeat(scale, 1)
                figure.figimage(block, round(x - cell / 2), height - top - block.shape[0], origin="upper")
            for text, x in zip(caption.texts, centres, strict=False):
                write(text, x, top + cell + 2 + _LINE * caption.lines / 2, "center", caption.size)
            top += row_height
    return Path(path)


def can_be_drawn(image_shape: Sequence[int]) -> bool:
    """Whether images of this shape, channels first, are grey or coloured."""
    return len(image_shape) == 3 and image_shape[0] in (1, 3)


def check_can_be_drawn(image_shape: Sequence[int], origin: object) -> None:
    """Refuse images that are neither, before any work; `origin` is their file."""
    if not can_be_drawn(image_shape):
        raise UserError(f"{origin} has images of {image_shape[0]} channels; a picture shows images of 1 or 3.")


def _pixels(image: NDArray[Any]) -> NDArray[np.uint8]:
    """One CHW image, float in [0, 1] or uint8, as HWC colours."""
    if not can_be_drawn(image.shape):
        raise ValueError(f"an image of shape {image.shape} cannot be drawn; give (1, H, W) or (3, H, W)")
    if image.dtype != np.uint8:
        image = np.rint(255 * np.clip(np.nan_to_num(image.astype(np.float64)), 0, 1)).astype(np.uint8)
    return np.repeat(np.moveaxis(image, 0, 2), 3 // image.shape[0], axis=2)


def _text_width(text: str, size: float, weight: str = "normal") -> float:
    font = FontProperties(size=size, weight=weight)
    width, _, _ = TextToPath().get_text_width_height_descent(canvas.drawable(text, font), font, ismath=False)
    return float(width) * canvas.DPI / 72


@dataclass(frozen=True)
class _Fitted:
    texts: list[str]
    size: float

    @property
    def lines(self) -> int:
        """Lines of the tallest text."""
        return max((1 + text.count("\n") for text in self.texts), default=0)


def _fit(texts: Sequence[str], width: float, size: float) -> _Fitted:
    """Texts above or below images: broken at the arrow, then set smaller, then cut until they fit."""
    if any(_text_width(text, size) > width for text in texts):
        texts = [text.replace(" → ", "\n→ ") for text in texts]
    widest = max((_text_width(line, size) for text in texts for line in text.split("\n")), default=width)
    fitting = max(6.5, size * min(1.0, width / max(widest, 1.0)))
    return _Fitted(["\n".join(_cut(line, width, fitting) for line in text.split("\n")) for text in texts], fitting)


def _cut(text: str, width: float, size: float) -> str:
    if _text_width(text, size) <= width + 1:
        return text
    kept = next((n for n in range(len(text) - 1, 0, -1) if _text_width(f"{text[:n]}…", size) <= width), 0)
    return f"{text[:kept]}…"
