"""The HTML page: what it shows, and that strangers' names stay text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from featuregen.errors import UserError
from featuregen.report.html import write_report
from featuregen.report.results import results_table
from featuregen.report.tables import UNKNOWN
from tests.helpers.report_cases import make_results


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
            if {"td", "th"} & {*self.open}:
                self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(self.words).replace("\N{NO-BREAK SPACE}", " ")

    def row(self, first: str) -> list[str]:
        return next(row for row in self.rows if row and row[0] == first)


@pytest.fixture
def results() -> dict[str, Any]:
    return make_results()


def write_page(results: dict[str, Any], folder: Path, caption: str = "What it shows.") -> str:
    png = folder / "picture.png"
    Image.new("RGB", (4, 4), "red").save(png)
    return write_report(results, [("A picture", caption, png)], folder / "report.html").read_text("utf-8")


def test_page_says_what_was_measured(results: dict[str, Any], tmp_path: Path) -> None:
    page = Page(write_page(results, tmp_path))
    assert "(D_det) reaches 46.1 ± 2.2 % on the true test set; chance is 10.0 % (3 of 3 runs" in page.text
    assert "predicts the true class for 73.1 % of those images (ε = 1.25) and the stored label for 21.9 %" in page.text
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
    assert "Datasets" not in page.text and "judge" not in page.text
    results["models"] = []
    assert "No network has been tested" in Page(write_page(results, tmp_path)).text
    assert "no run" in results_table(results)


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
    source = write_page(results, tmp_path)
    assert Page(source).rows[-1]
    datasets = source.partition("<h2>Datasets</h2>")[2].partition("</section>")[0]
    assert datasets.count(f"<td>{UNKNOWN}</td>") == 3


def test_missing_picture_is_one_sentence(results: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Cannot read picture .*gone\.png"):
        write_report(results, [("t", "c", tmp_path / "gone.png")], tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_a_sample_of_attacked_images_is_said(results: dict[str, Any], tmp_path: Path) -> None:
    results["config"]["evaluation"]["rows"] = 1000
    results["base"]["test_rows"] = 10_000
    assert "10,000 test images, 1,000 of them attacked" in write_page(results, tmp_path)
