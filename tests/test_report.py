"""Reports: the numbers stand where they should, and the pictures and the page can be looked at."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
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

from featuregen import report
from featuregen.errors import UserError
from featuregen.report import canvas, pictures, sections, tables

CLEAN = {
    "standard": (0.994, 0.589, 0.31),
    "adversarial": (0.978, 0.808, 0.72),
    "robust": (0.992, 0.664, 0.42),
    "nonrobust": (0.99, 0.556, 0.28),
    "robust-noise": (0.962, 0.61, 0.35),
    "nonrobust-noise": (0.95, 0.38, 0.12),
    "rand": (0.869, 0.021, 0.0),
    "det": (0.461, 0.003, 0.0),
}
TITLES = ["D, standard", "D, adversarial", "D_R", "D_NR", "D_R from noise", "D_NR from noise", "D_rand", "D_det"]
JUDGES = ["source model", "robust model", "second standard model", "1-nearest neighbour"]


def make_runs(clean: float, mid: float, strong: float, seeds: int) -> list[dict[str, Any]]:
    shifts = [0.0, -0.02, 0.02, 0.01, -0.01][:seeds]
    runs = []
    for seed, shift in enumerate(shifts):
        moved = [min(1.0, max(0.0, value + shift * (1 - value) * 2)) for value in (clean, mid, strong)]
        runs.append(
            {"seed": seed, "clean": moved[0], "train_accuracy": 1.0, "seconds": 2.1,
             "l2": {"0.25": (moved[0] + moved[1]) / 2, "0.5": moved[1], "1.0": moved[2]},
             "linf": {"0.05": moved[1], "0.1": moved[2] / 2}}
        )  # fmt: skip
    return runs


def make_honesty(slope: float) -> list[dict[str, Any]]:
    rows = []
    for eps in (0.75, 1.0, 1.25, 1.5):
        judges = {}
        for j, judge in enumerate(JUDGES):
            stored = min(1.0, slope * eps) if j == 0 else min(0.6, 0.2 * eps**2 * (0.5 + 0.2 * j))
            true = max(0.0, 0.95 - stored)
            judges[judge] = {"true": true, "stored": stored, "neither": 1 - true - stored}
        rows.append({"eps": eps, "rows": 360, "judges": judges})
    return rows


def make_results(seeds: int = 3) -> dict[str, Any]:
    models = [
        {"key": key, "title": title, "runs": make_runs(*values, seeds)}
        for (key, values), title in zip(CLEAN.items(), TITLES, strict=True)
    ]
    datasets = [
        {"kind": kind, "file": f"digits-{kind}.h5", "rows": 1437, "success_rate": 0.97, "objective": 0.1534,
         "norm": 1.2 + i, "content_sha256": f"{i}a7c" * 16, "seconds": 4.2, "steps": 200,
         "norm_name": "l2" if kind in ("rand", "det") else "none", "eps": 1.25 if kind in ("rand", "det") else 0.0}
        for i, kind in enumerate(list(CLEAN)[2:])
    ]  # fmt: skip
    return {
        "format": "featuregen-results",
        "version": 1,
        "config": {"name": "digits", "seed": 0, "evaluation": {"headline": 0.5, "l2": [0.25, 0.5, 1.0]}},
        "base": {"name": "digits", "train_rows": 1437, "test_rows": 360, "train_sha256": "a" * 64,
                 "test_sha256": "b" * 64, "classes": [str(i) for i in range(10)], "image_shape": [1, 8, 8]},
        "software": {"featuregen": "0.1.0", "torch": "2.9.0", "device": "cpu (x86_64)", "precision": "fp32"},
        "models": models,
        "datasets": datasets,
        "honesty": {"det": make_honesty(0.7), "rand": make_honesty(0.68)},
        "timings": [{"stage": "source, seed 0", "seconds": 2.14}, {"stage": "D_det, 1437 rows", "seconds": 61.0}],
    }  # fmt: skip


def some_images(count: int = 4, size: int = 8, channels: int = 1, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((count, channels, size, size), dtype=np.float32)


class Page(HTMLParser):
    """Fails on unbalanced tags; keeps the text, the attributes and the tables."""

    void = frozenset({"meta", "img", "br", "link"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)
            if "tr" in self.open:
                self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(self.words).replace("\N{NO-BREAK SPACE}", " ")

    def row(self, first: str) -> list[str]:
        return next(row for row in self.rows if row and row[0] == first)


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
    assert image.info == {}, "metadata would change from version to version"
    assert len(np.unique(np.asarray(image.convert("L")))) > 4, "blank"
    return image.convert("RGB")


# Numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.5], (0.5, None, 0.5, 0.5)), ([0.1, 0.3], (0.2, 0.1414214, 0.1, 0.3)), ([0, 0, 3], (1, 1.7320508, 0, 3))],
)
def test_summary(values: list[float], expected: tuple[float, float | None, float, float]) -> None:
    assert report.summary(values) == pytest.approx(expected)


def test_table_shows_measured_beside_published(results: dict[str, Any]) -> None:
    table = report.results_table(results)
    assert max(len(line) for line in table.splitlines()) <= 160
    assert "paper: CIFAR-10, ResNet-50" in table
    assert "mean ± standard deviation over 3 seeds" in table
    det = next(line for line in table.splitlines() if line.startswith("D_det"))
    assert re.findall(r"[\d.]+ ± [\d.]+|~?[\d.]+|–", det) == [
        "46.1 ± 2.2", "23.8 ± 2.2", "1.5 ± 2.4", "1.3 ± 2.3", "1.5 ± 2.4", "0.7 ± 1.2", "43.7", "~0", "~0",
    ]  # fmt: skip
    robust = next(line for line in table.splitlines() if line.startswith("D_R "))
    assert robust.split()[-3:] == ["~84.1", "~48.3", "–"]
    noise = next(line for line in table.splitlines() if line.startswith("D_R from noise"))
    assert noise.split()[-3:] == ["–", "–", "–"]


def test_single_seed_has_no_spread() -> None:
    results = make_results(seeds=1)
    for shown in (report.results_table(results), report.results_markdown(results)):
        assert "±" not in shown
        assert "46.1" in shown
        assert "a single seed" in shown


def test_table_without_linf_and_with_gaps(results: dict[str, Any]) -> None:
    for model in results["models"]:
        for run in model["runs"]:
            run["linf"] = {}
    results["models"][0]["runs"][0]["l2"].pop("0.5")
    results["models"][1]["runs"] = []
    table = report.results_table(results)
    assert "Linf" not in table
    assert "0 to 3 seeds per row" in table
    empty = next(line for line in table.splitlines() if line.startswith("D, adversarial"))
    assert empty.split()[2:6] == ["–", "–", "–", "–"]


def test_wide_table_breaks_into_several(results: dict[str, Any]) -> None:
    for model in results["models"]:
        for run in model["runs"]:
            run["l2"] = {str(eps / 10): 0.9 - eps / 100 for eps in range(1, 20)}
    table = report.results_table(results)
    assert max(len(line) for line in table.splitlines()) <= 160
    assert len(re.findall(r"^D_det ", table, re.MULTILINE)) == 3
    assert len(re.findall(r"^trained on .* clean    0.25     0.5$", table, re.MULTILINE)) == 1
    for eps in range(1, 20):
        assert re.search(rf"^trained on.* {eps / 10:g}( |$)", table, re.MULTILINE)


def test_evaluation_table_needs_only_titles_and_runs() -> None:
    runs = [{"clean": 0.9, "l2": {"0.5": 0.25}, "linf": {}}, {"clean": 1.0, "l2": {"0.5": 0.35}, "linf": {}}]
    table = report.evaluation_table([{"title": "det.safetensors", "runs": runs}])
    assert "paper" not in table
    assert re.search(r"det\.safetensors\s+95\.0 ± 7\.1\s+30\.0 ± 7\.1", table)


def test_markdown_is_one_rectangular_table(results: dict[str, Any]) -> None:
    results["models"][0]["title"] = "a|b\n*c*"
    lines = [line for line in report.results_markdown(results).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(results["models"])
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {11}
    assert r"a\|b?\*c\*" in lines[2]
    assert "46.1 ± 2.2 (43.9–48.3)" in lines[-1]


def test_terminal_is_safe_from_control_characters(results: dict[str, Any]) -> None:
    results["models"][0]["title"] = "\x1b[2Jgone"
    assert "\x1b" not in report.results_table(results)


# Pictures ------------------------------------------------------------------------------------------

CHARTS = [
    (report.accuracy_bars, "three seeds"),
    (report.accuracy_bars, "one seed, no linf"),
    (report.accuracy_bars, "strange names"),
    (report.accuracy_curves, "three seeds"),
    (report.accuracy_curves, "one seed, no linf"),
    (report.accuracy_curves, "strange names"),
    (report.honesty_curves, "three seeds"),
    (report.honesty_curves, "few"),
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
    report.accuracy_bars(results, tmp_path / "one.png")
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "black"}):
        report.accuracy_bars(copy.deepcopy(results), tmp_path / "two.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert dict(matplotlib.rcParams) == before


def test_bar_heights_are_the_means(results: dict[str, Any], tmp_path: Path, drawn: list[Figure]) -> None:
    report.accuracy_bars(results, tmp_path / "bars.png")
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
    assert report.honesty_curves(results, tmp_path / "h.png") is None
    assert report.accuracy_curves(results, tmp_path / "c.png") is None
    assert list(tmp_path.iterdir()) == []
    assert_good_png(report.accuracy_bars(results, tmp_path / "b.png"))


def test_honesty_marks_the_eps_of_the_set(results: dict[str, Any], tmp_path: Path, drawn: list[Figure]) -> None:
    results["honesty"].pop("rand")
    report.honesty_curves(results, tmp_path / "honesty.png")
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
    captions: pictures.Captions = {"columns": ["7 → 8"], "title": "D_det: true → stored label"}
    path = report.preview(tmp_path / "p.png", image, image, image, captions)
    again = report.preview(tmp_path / "q.png", image, image, image, captions)
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
    labels = {
        pictures.BASE_ROW: ["automobile"] * 12,
        "D_det": ["automobile → bird"] * 12,
        "D_R": ["a class whose name nobody can bear"] * 12,
    }
    rows = {kind: some_images(12, size, channels, seed) for seed, kind in enumerate(["D_R", "D_NR", "D_det"])}
    assert_good_png(report.kinds_grid(tmp_path / "grid.png", images, rows, labels))
    assert_words_are_legible(drawn[0])
    assert len(drawn[0].images) == 4 * 10, "ten columns at most"


def test_colour_and_range(tmp_path: Path, drawn: list[Figure]) -> None:
    image = np.array([2.0, -1.0, 0.5], dtype=np.float32).reshape(1, 3, 1, 1) * np.ones((1, 3, 8, 8), np.float32)
    report.kinds_grid(tmp_path / "g.png", [image[0]], {"uint8": (image.clip(0, 1) * 255).round().astype(np.uint8)})
    shades = {tuple(np.asarray(drawing.get_array())[0, 0]) for drawing in drawn[0].images}
    assert shades == {(255, 0, 128)}


def test_undrawable_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(2, 8, 8\)"):
        report.kinds_grid(tmp_path / "g.png", some_images(channels=2), {})
    with pytest.raises(ValueError, match="no images"):
        report.kinds_grid(tmp_path / "g.png", [], {})
    assert list(tmp_path.iterdir()) == []


# The page ------------------------------------------------------------------------------------------


def write_page(results: dict[str, Any], folder: Path, caption: str = "What it shows.") -> str:
    png = folder / "picture.png"
    Image.new("RGB", (4, 4), "red").save(png)
    return report.write_report(results, [("A picture", caption, png)], folder / "report.html").read_text("utf-8")


def test_page_says_what_was_measured(results: dict[str, Any], tmp_path: Path) -> None:
    page = Page(write_page(results, tmp_path))
    assert "(D_det) reaches 46.1 ± 2.2 % on the true test set; chance is 10.0 % (3 of 3 runs" in page.text
    assert "sees the true class in 73.1 % of those images (ε = 1.25) and the stored label in 21.9 %" in page.text
    assert "gives 66.4 ± 1.3 % under L2 attack at ε = 0.5, against 55.6 ± 1.8 % for D_NR" in page.text
    accuracy, made = (row for row in page.rows if row and row[0] == "D_det")
    assert accuracy[1] == "46.1 ± 2.243.9–48.3"
    assert accuracy[-3:] == ["43.7", "~0", "~0"]
    assert made == [
        "D_det",
        "1,437",
        "97.0",
        "6.200",
        "0.1534",
        "L2 ball, ε = 1.25",
        "200",
        "digits-det.h5",
        "5a7c5a7c5a7c…",
    ]
    assert ("code", {"title": "5a7c" * 16}) in page.tags
    assert page.row("1.25")[1:4] == ["360", "7.5", "87.5"]
    assert page.row("sum over stages, several of which run at once")[1] == "1 min 3 s"
    assert "headline: 0.5" in page.text
    assert "a" * 64 in page.text


def test_page_follows_the_numbers(results: dict[str, Any], tmp_path: Path) -> None:
    for run in results["models"][-1]["runs"]:
        run["clean"] = 0.05
    results["base"]["classes"] = ["a", "b", "c", "d"]
    page = Page(write_page(results, tmp_path))
    assert "reaches 5.0 ± 0.0 % on the true test set; chance is 25.0 % (0 of 3 runs" in page.text


def test_page_stands_alone_and_is_accessible(results: dict[str, Any], tmp_path: Path) -> None:
    source = write_page(results, tmp_path)
    page = Page(source)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe")
        assert not {"href", "srcset", "action", "onclick"} & set(attributes)
        if tag == "img":
            assert str(attributes["src"]).startswith("data:image/png;base64,")
            assert attributes["alt"] == "A picture. What it shows."
        if tag == "th":
            assert attributes["scope"] in ("row", "col", "colgroup")
    assert ("html", {"lang": "en"}) in page.tags
    assert not re.search(r"https?:|url\(|@import", source)
    assert "prefers-color-scheme: dark" in source
    assert source == write_page(results, tmp_path), "the same numbers make the same page"


def test_page_of_little(tmp_path: Path) -> None:
    results = make_results(seeds=1)
    results |= {"honesty": {}, "datasets": [], "timings": [], "models": results["models"][:1]}
    page = Page(write_page(results, tmp_path))
    assert "±" not in page.text
    assert "Clean test accuracy on digits: D, standard 99.4 %." in page.text
    assert "Data sets" not in page.text and "judge" not in page.text
    results["models"] = []
    assert "No network has been tested" in Page(write_page(results, tmp_path)).text
    assert "no run" in report.results_table(results)


def test_hostile_names_stay_words(results: dict[str, Any], tmp_path: Path) -> None:
    evil = "\"'><script>alert(1)</script>&amp;"
    results["config"]["name"] = results["base"]["name"] = evil
    results["software"][evil] = evil
    for model in results["models"]:
        model["title"] = evil
    for made in results["datasets"]:
        made["file"] = made["content_sha256"] = made["kind"] = evil
    results["timings"][0]["stage"] = evil
    results["honesty"] = {evil: [{"eps": 1.0, "rows": 3, "judges": {evil: {"true": 1, "stored": 0, "neither": 0}}}]}
    page = Page(write_page(results, tmp_path, caption=evil))
    assert {tag for tag, _ in page.tags}.isdisjoint({"script"})
    assert evil in page.words


def test_unknown_values_are_dashes(results: dict[str, Any], tmp_path: Path) -> None:
    results["datasets"][0] |= {"success_rate": float("nan"), "objective": float("nan"), "norm": None}
    assert Page(write_page(results, tmp_path)).rows[-1]
    made = sections.datasets(results)
    assert made.count(f"<td>{tables.UNKNOWN}</td>") == 3


def test_missing_picture_is_one_sentence(results: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Cannot read picture .*gone\.png"):
        report.write_report(results, [("t", "c", tmp_path / "gone.png")], tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []
