"""The one place where featuregen loads matplotlib.

While it is imported, matplotlib reads a file `matplotlibrc` in the current folder, which may be a folder that somebody
sent; some versions evaluate a value in it as code. So it is imported from the folder of this module, which holds an
empty one. Then no setting of the user's applies either, and pictures are the same on every machine.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from featuregen.errors import UserError, one_line


@contextmanager
def quiet_matplotlib() -> Iterator[None]:
    """Without its messages about fonts and caches, which quote names from files."""
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _in_own_folder() -> Iterator[None]:
    """With this module's folder as the current one. By a descriptor, since the current one may have been deleted."""
    here = os.open(".", getattr(os, "O_PATH", os.O_RDONLY))
    try:
        os.chdir(Path(__file__).parent)
        yield
    except OSError as error:
        # It makes a temporary folder for its caches where the user's cannot be written.
        raise UserError(
            f"matplotlib cannot be loaded ({one_line(error)}); set MPLCONFIGDIR to a folder that you can write."
        ) from None
    finally:
        os.fchdir(here)
        os.close(here)


with quiet_matplotlib(), _in_own_folder():
    from matplotlib import style
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties, findfont, get_font
    from matplotlib.image import AxesImage
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.textpath import TextToPath

__all__ = [
    "Axes",
    "AxesImage",
    "Figure",
    "FigureCanvasAgg",
    "FontProperties",
    "Line2D",
    "LinearSegmentedColormap",
    "Patch",
    "RendererAgg",
    "TextToPath",
    "findfont",
    "get_font",
    "quiet_matplotlib",
    "style",
]
