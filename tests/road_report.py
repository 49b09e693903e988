"""How many files of the package one row of a dataset passes on its way.

    PYTHONPATH=. python tests/road_report.py MODEL.safetensors

Runs `make-dataset det --rows 64 --steps 2 --source MODEL` on the digits and counts every function of the package that
is called: until the finished file is in its place and closed, and until the preview is drawn. It uses the command
alone, so that with another PYTHONPATH it counts the road through another version of the package.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from pathlib import Path
from types import FrameType

import featuregen

PACKAGE = str(Path(featuregen.__file__).parent)


class Road:
    """The functions called so far, and the deepest stack of them."""

    def __init__(self) -> None:
        self.functions: set[tuple[str, str]] = set()
        self.deepest = 0

    def see(self, frame: FrameType, event: str, argument: object) -> None:
        file = frame.f_code.co_filename
        if event != "call" or not file.startswith(PACKAGE):
            return
        depth, above = 0, frame.f_back
        while above:
            # What modules call while they are imported is no part of a row's way.
            if above.f_code.co_filename.startswith("<frozen importlib"):
                return
            depth += above.f_code.co_filename.startswith(PACKAGE)
            above = above.f_back
        # Classes, modules and comprehensions are run like functions, and are none.
        if frame.f_code.co_flags & 2 and not frame.f_code.co_name.startswith("<"):
            self.functions.add((file, frame.f_code.co_qualname))
        self.deepest = max(self.deepest, depth + 1)

    def __str__(self) -> str:
        files = {file for file, _ in self.functions}
        return f"{len(files)} files, {len(self.functions)} functions, {self.deepest} frames deep"


def main() -> None:
    from featuregen.cli import main as command

    road, until_closed = Road(), list[str]()

    def see(frame: FrameType, event: str, argument: object) -> None:
        if frame.f_code.co_name == "draw_preview" and not until_closed:
            until_closed.append(str(road))
        road.see(frame, event, argument)

    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "det.h5")
        sys.argv = ["featuregen", "make-dataset", "det", "--source", sys.argv[1], "--out", out]
        sys.argv += ["--rows", "64", "--steps", "2"]
        threading.setprofile(see)
        sys.setprofile(see)
        try:
            command()
        except SystemExit as end:
            if end.code:
                raise
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
    print(f"until the file is closed: {''.join(until_closed)}\nwith the preview: {road}", file=sys.stderr)


if __name__ == "__main__":
    main()
