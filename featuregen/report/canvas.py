"""Where pictures are drawn: one style, no global state left behind, the same bytes for the same input."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from featuregen.runtime.atomic import atomic_write
from featuregen.runtime.marks import PNG_FIELD, PNG_PROGRAM

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


@contextmanager
def drawing(
    path: str | Path, width: float, height: float, layout: Literal["constrained"] | None = "constrained"
) -> Iterator[Figure]:
    """A figure of `width` × `height` pixels at twice the usual density, saved as PNG when the block ends."""
    with style.context(["default", _STYLE]):
        figure = Figure(figsize=(2 * width / DPI, 2 * height / DPI), dpi=DPI, layout=layout)
        canvas = FigureCanvasAgg(figure)
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
