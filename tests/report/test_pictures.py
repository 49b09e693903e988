"""Pictures of results: they can be looked at, their words do not overlap, and they show the numbers."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image

from featuregen.report import canvas
from featuregen.report.image_grid import Row, draw_grid
from featuregen.report.plots import accuracy_bars, accuracy_curves, label_audit_curves
from tests.helpers.report_cases import JUDGES, make_results


def some_images(count: int = 4, size: int = 8, channels: int = 1, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((count, channels, size, size), dtype=np.float32)


@pytest.fixture
def results() -> dict[str, Any]:
    return make_results()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure drawn during the test, for measuring where its words came to lie."""
    figures: list[Figure] = []
    original = canvas.drawing

    @contextmanager
    def recording(*args: Any, **settings: Any) -> Iterator[Figure]:
        with original(*args, **settings) as figure:
            figures.append(figure)
            yield figure

    monkeypatch.setattr(canvas, "drawing", recording)
    return figures


def assert_words_are_legible(figure: Figure) -> None:
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text) and text.get_visible() and text.get_text()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    boxes = [(text, box) for text, box in boxes if box.width and box.height]
    for text, box in boxes:
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1, text
    for (one, first), (other, second) in itertools.combinations(boxes, 2):
        apart = first.x1 <= second.x0 or second.x1 <= first.x0 or first.y1 <= second.y0 + 1 or second.y1 <= first.y0 + 1
        assert apart, f"{one!r} lies on {other!r}"


def assert_good_png(path: Path) -> Image.Image:
    assert path.stat().st_size < 300 * 1024
    image = Image.open(path)
    assert image.format == "PNG"
    assert image.info == {"Software": "featuregen"}, "other metadata would change from version to version"
    assert len(np.unique(np.asarray(image.convert("L")))) > 4, "blank"
    return image.convert("RGB")


CHARTS = [
    (accuracy_bars, "three seeds"),
    (accuracy_bars, "one seed, no linf"),
    (accuracy_bars, "strange names"),
    (accuracy_curves, "three seeds"),
    (accuracy_curves, "one seed, no linf"),
    (accuracy_curves, "strange names"),
    (label_audit_curves, "three seeds"),
    (label_audit_curves, "few"),
]


@pytest.mark.parametrize(("draw", "case"), CHARTS)
def test_charts(draw: Any, case: str, tmp_path: Path, drawn: list[Figure]) -> None:
    results = make_results(1 if case == "one seed, no linf" else 3)
    if case == "one seed, no linf":
        for model in results["models"]:
            model["runs"][0].pop("linf")
    if case == "few":
        results["models"] = results["models"][::7]
        del results["honesty"]["rand"]
        for row in results["honesty"]["det"]:
            row["judges"] = {judge: row["judges"][judge] for judge in JUDGES[:1] if row["eps"] > 1}
    if case == "strange names":
        results["base"]["name"] = "$x_{</b>" * 20
        for model in results["models"]:
            model["title"] = "_$\\frac{ a rather long and strange title <b> " + model["title"]
    path = tmp_path / "new" / "chart.png"
    assert draw(results, path) == path
    image = assert_good_png(path)
    assert image.width >= 900
    assert_words_are_legible(drawn[0])
    assert [file.name for file in path.parent.iterdir()] == ["chart.png"]


def test_charts_repeat_to_the_byte_and_leave_matplotlib_alone(results: dict[str, Any], tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    accuracy_bars(results, tmp_path / "one.png")
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "black"}):
        accuracy_bars(copy.deepcopy(results), tmp_path / "two.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert dict(matplotlib.rcParams) == before


def test_bar_heights_are_the_means(results: dict[str, Any], tmp_path: Path, drawn: list[Figure]) -> None:
    accuracy_bars(results, tmp_path / "bars.png")
    axes = drawn[0].axes[0]
    heights = [patch.get_height() for patch in axes.patches if isinstance(patch, Rectangle)]
    assert heights[:2] == pytest.approx([99.4, 58.9])
    assert heights[-2] == pytest.approx(46.1)
    assert axes.get_ylim() == (0, 100)
    assert "46.1" in [text.get_text() for text in axes.texts]


def test_nothing_to_draw_draws_nothing(results: dict[str, Any], tmp_path: Path) -> None:
    results["honesty"] = {"det": []}
    for model in results["models"]:
        for run in model["runs"]:
            run["l2"] = run["linf"] = {}
    assert label_audit_curves(results, tmp_path / "h.png") is None
    assert accuracy_curves(results, tmp_path / "c.png") is None
    assert list(tmp_path.iterdir()) == []
    assert_good_png(accuracy_bars(results, tmp_path / "b.png"))


def test_honesty_marks_the_eps_of_the_set(results: dict[str, Any], tmp_path: Path, drawn: list[Figure]) -> None:
    results["honesty"].pop("rand")
    label_audit_curves(results, tmp_path / "honesty.png")
    assert [axes.get_title() for axes in drawn[0].axes] == JUDGES
    true, stored, made_at = drawn[0].axes[1].lines
    assert list(np.asarray(made_at.get_xdata())) == [1.25, 1.25]
    assert (true.get_linestyle(), stored.get_linestyle()) == ("-", "--")
    row = results["honesty"]["det"][0]["judges"]["robust model"]
    assert np.asarray(true.get_ydata())[0] == pytest.approx(100 * row["true"])
    assert np.asarray(stored.get_ydata())[0] == pytest.approx(100 * row["stored"])


def test_preview_shows_every_pixel_as_a_sharp_square(tmp_path: Path, drawn: list[Figure]) -> None:
    image = np.zeros((1, 1, 8, 8), dtype=np.float32)
    image[0, 0, 2, 5] = 128 / 255
    rows = [Row("base image", image), Row("start image", image), Row("result", image)]
    path, again = (
        draw_grid(tmp_path / name, rows, ["7 → 8"], "D_det: true → stored label") for name in ("p.png", "q.png")
    )
    assert path.read_bytes() == again.read_bytes()
    pixels = np.asarray(assert_good_png(path))[..., 0].astype(int)
    assert_words_are_legible(drawn[0])
    # The lit pixel is a block of one grey, with black on all sides, three times (base, start, result).
    top, left = np.argwhere(_blocks_of(pixels, 128, 18))[0]
    assert (pixels[top : top + 18, left : left + 18] == 128).all()
    assert (pixels[top - 36 : top, left : left + 18] == 0).all()
    assert (pixels[top : top + 18, left + 18 : left + 54] == 0).all()
    assert int(_blocks_of(pixels, 128, 18).sum()) == 3


def _blocks_of(pixels: NDArray[Any], value: int, size: int) -> NDArray[np.bool_]:
    windows = np.lib.stride_tricks.sliding_window_view(pixels == value, (size, size))
    return np.asarray(windows.all(axis=(2, 3)))


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3), (150, 3)])
def test_grids(size: int, channels: int, tmp_path: Path, drawn: list[Figure]) -> None:
    images = some_images(12, size, channels)
    rows = [
        Row("base image", images, ["automobile"] * 12),
        Row("D_R", some_images(12, size, channels, 0), ["a class whose name nobody can bear"] * 12),
        Row("D_NR", some_images(12, size, channels, 1)),
        Row("D_det", some_images(12, size, channels, 2), ["automobile → bird"] * 12),
    ]
    assert_good_png(draw_grid(tmp_path / "grid.png", rows))
    assert_words_are_legible(drawn[0])
    assert len(drawn[0].images) == 4 * 10, "ten columns at most"


def test_colour_and_range(tmp_path: Path, drawn: list[Figure]) -> None:
    image = np.array([2.0, -1.0, 0.5], dtype=np.float32).reshape(1, 3, 1, 1) * np.ones((1, 3, 8, 8), np.float32)
    as_uint8 = (image.clip(0, 1) * 255).round().astype(np.uint8)
    draw_grid(tmp_path / "g.png", [Row("float32", [image[0]]), Row("uint8", as_uint8)])
    shades = {tuple(np.asarray(drawing.get_array())[0, 0]) for drawing in drawn[0].images}
    assert shades == {(255, 0, 128)}


def test_undrawable_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(2, 8, 8\)"):
        draw_grid(tmp_path / "g.png", [Row("two channels", some_images(channels=2))])
    with pytest.raises(ValueError, match="no images"):
        draw_grid(tmp_path / "g.png", [Row("none", [])])
    assert list(tmp_path.iterdir()) == []
