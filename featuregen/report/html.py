"""One HTML page that needs nothing else: no network, no script, no file beside it."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path

from featuregen.errors import UserError
from featuregen.report import sections
from featuregen.report.findings import headline
from featuregen.report.sections import text
from featuregen.report.style import STYLE
from featuregen.report.tables import Results
from featuregen.runtime import atomic_write

Picture = tuple[str, str, str | Path]


def write_report(results: Results, pictures: Iterable[Picture], path: str | Path) -> Path:
    """Tables, pictures of (title, caption, PNG file) and the record of an experiment, in one file."""
    name, base = results["config"]["name"], results["base"]["name"]
    title = f"featuregen report: {name if base in name else f'{name} on {base}'}"
    body = [
        f'<h1>{text(title)}</h1><p class="lead">{text(_unbroken(" ".join(headline(results))))}</p>',
        sections.accuracy(results),
        *(_figure(picture) for picture in pictures),
        sections.datasets(results),
        sections.honesty(results),
        sections.settings(results),
        sections.timings(results),
        sections.software(results),
    ]
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head>\n"
        "<body><main>\n" + "\n".join(part for part in body if part) + "\n</main></body></html>\n"
    )
    atomic_write(path, page)
    return Path(path)


def _unbroken(sentences: str) -> str:
    """No line ends inside a number with its spread and sign."""
    return sentences.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}").replace(" %", "\N{NO-BREAK SPACE}%")


def _figure(picture: Picture) -> str:
    title, caption, path = picture
    try:
        content = base64.b64encode(Path(path).read_bytes()).decode("ascii")
    except OSError as error:
        raise UserError(f"Cannot read picture {path} for the report: {error.strerror}.") from None
    return (
        f'<figure><h2>{text(title)}</h2><div class="scroll" role="region" aria-label="{text(title)}" tabindex="0">'
        f'<img alt="{text(f"{title}. {caption}")}" src="data:image/png;base64,{content}"></div>'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )
