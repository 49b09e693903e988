"""The marks by which featuregen knows pictures, records and tables of its own, so that it never replaces another's."""

from __future__ import annotations

import os
import re
from pathlib import Path

from featuregen.errors import UserError
from featuregen.runtime.paths import check_output_file, read_start

# PNG has a field for the program that wrote a picture.
PNG_FIELD, PNG_PROGRAM = "Software", "featuregen"
MARKDOWN = "<!-- featuregen -->"
_PATTERNS = {
    ".png": rb"\x89PNG\r\n\x1a\n.*tEXtSoftware\0featuregen",
    ".json": rb'\s*\{\s*"format":\s*"featuregen-',
    # What follows a bar is how files of the first release begin.
    ".html": rb'<!DOCTYPE html>.*(<meta name="generator" content="featuregen">|<title>featuregen report: )',
    ".md": re.escape(MARKDOWN.encode()) + rb"|[^\n]+: test accuracy in %, ",
    ".csv": rb"model,attack,eps,true,predicted,count\r?\n",
}
# Every mark is near the start of its file.
_HEAD = 4096


def check_replaceable(*paths: Path, force: bool = False, remedy: str = "or replace it with --force") -> None:
    """Refuse a file that is there and was not written by featuregen, unless `force`.

    Asked before hours of work, and again before writing. `remedy` ends the sentence that refuses.
    """
    for path in paths:
        check_output_file(path)
        if not force and os.path.lexists(path) and not _is_own(path):
            raise UserError(f"{path} was not written by featuregen; move it away, {remedy}.")


def _is_own(path: Path) -> bool:
    return bool(re.match(_PATTERNS[path.suffix], read_start(path, _HEAD), re.DOTALL))
