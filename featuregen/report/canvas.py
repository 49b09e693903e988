"""Where pictures are drawn: one style, no global state left behind, the same bytes for the same input."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from featuregen.errors import printable
from featuregen.runtime.atomic import atomic_write
from featuregen.runtime.marks import PNG_FIELD, PNG_PROGRAM
from featuregen.runtime.safe_matplotlib import (
    Figure,
    FigureCanvasAgg,
    FontProperties,
    RendererAgg,
    findfont,
    get_font,
    quiet_matplotlib,
    style,
)

# Okabe and Ito's palette, which people with any colour vision can tell apart.
BLACK, BLUE, GREEN, ORANGE = "#000000", "#0072B2", "#009E73", "#E69F00"
VERMILLION, PURPLE, SKY = "#D55E00", "#CC79A7", "#56B4E9"
INK, FAINT = "#222222", "#8a8a8a"

DPI = 200
MAX_BYTES = 300 * 1024

_STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "text.color": INK,
    "text.parse_math": False,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid.axis": "y",
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "figure.constrained_layout.use": False,
}


# Drawn for a character that the font lacks.
_MISSING = "□"


@functools.cache
def _characters(font_file: str) -> frozenset[int]:
    """The code points for which a font has a glyph."""
    return frozenset(get_font(font_file).get_charmap())


def drawable(text: str, font: FontProperties) -> str:
    """The text as a font can draw it: a name from a file may hold anything."""
    known = _characters(str(findfont(font)))
    return "".join(char if ord(char) in known else _MISSING for char in printable(text))


class _Renderer(RendererAgg):
    """Draws only what the font has, and measures the same."""

    def draw_text(self, gc: Any, x: Any, y: Any, s: str, prop: FontProperties, *rest: Any, **named: Any) -> None:
        super().draw_text(gc, x, y, drawable(s, prop), prop, *rest, **named)  # type: ignore[no-untyped-call]

    def get_text_width_height_descent(self, s: str, prop: FontProperties, ismath: Any) -> Any:
        return super().get_text_width_height_descent(drawable(s, prop), prop, ismath)  # type: ignore[no-untyped-call]


class _Canvas(FigureCanvasAgg):
    _drawn: tuple[tuple[int, int], RendererAgg] | None = None

    def get_renderer(self) -> RendererAgg:
        size = self.get_width_height(physical=True)
        if self._drawn is None or self._drawn[0] != size:
            self._drawn = size, _Renderer(*size, self.figure.dpi)  # type: ignore[no-untyped-call]
        return self._drawn[1]


@contextmanager
def drawing(
    path: str | Path, width: float, height: float, layout: Literal["constrained"] | None = "constrained"
) -> Iterator[Figure]:
    """A figure of `width` × `height` pixels at twice the usual density, saved as PNG when the block ends."""
    with quiet_matplotlib(), style.context(["default", _STYLE]):
        figure = Figure(figsize=(2 * width / DPI, 2 * height / DPI), dpi=DPI, layout=layout)
        canvas = _Canvas(figure)
        yield figure
        canvas.draw()  # type: ignore[no-untyped-call]  # matplotlib leaves these two without types
        pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]  # as above
    atomic_write(path, _png(Image.fromarray(pixels).convert("RGB")))


def _png(image: Image.Image) -> bytes:
    """PNG that names its program alone; a picture of many photographs gives up colours until it fits a report."""
    content = _encoded(image)
    for colours in (256, 128, 64, 32, 16, 8):
        if len(content) <= MAX_BYTES:
            break
        content = _encoded(image.quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE))
    return content


def _encoded(image: Image.Image) -> bytes:
    buffer, mark = io.BytesIO(), PngInfo()
    mark.add_text(PNG_FIELD, PNG_PROGRAM)
    image.save(buffer, format="PNG", pnginfo=mark)
    return buffer.getvalue()
