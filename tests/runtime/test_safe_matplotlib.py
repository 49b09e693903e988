"""matplotlib: loaded by commands that draw alone, in one place, without a `matplotlibrc` of the current folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import featuregen
from tests.helpers.cli_runs import dataset, done, model, tiny

PACKAGE = Path(featuregen.__file__).parent
LOADER = PACKAGE / "runtime" / "safe_matplotlib.py"
# Runs each line of words as a command and says which of them left matplotlib behind.
COMMANDS = """
import shlex, sys, torch
from typer.testing import CliRunner
from featuregen.cli import app
torch.set_num_threads(1)
for line in sys.stdin.read().splitlines():
    ended = CliRunner().invoke(app, shlex.split(line), catch_exceptions=False)
    print(ended.exit_code, "matplotlib" in sys.modules, line)
    print(ended.stderr, file=sys.stderr)
"""
# A value that matplotlib 3.8 to 3.10 evaluates, one that it cannot read, and one that writes to a terminal.
HOSTILE = (
    "axes.prop_cycle : cycler('color', [open('pwned', 'w').name or 'r'])\n"
    "font.size : many\n\x1b]0;pwned\x07 : 1\nfont.family : Nowhere\naxes.facecolor : black\nno colon here\n"
)


def commands(folder: Path, *lines: str, **environment: str) -> tuple[list[str], str]:
    """What each command says of itself, run one after another in a process of its own, and what they warn of."""
    path = os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    ran = subprocess.run(
        [sys.executable, "-c", COMMANDS], input="\n".join(lines), cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": path, **environment}, timeout=600, check=True,
    )  # fmt: skip
    return ran.stdout.splitlines(), ran.stderr


def test_one_module_imports_matplotlib() -> None:
    pattern = re.compile(r"^\s*(from|import) +(matplotlib|foolbox|pylab|seaborn)\b", flags=re.MULTILINE)
    found = [file for file in PACKAGE.rglob("*.py") if pattern.search(file.read_text(encoding="utf-8"))]
    assert found == [LOADER]


def test_commands_that_only_read_do_not_load_matplotlib(tmp_path: Path) -> None:
    det, net = dataset("det"), model("standard")
    small = "--set synthesis.det.batch_size=20"
    lines = [
        "--help", "models", "attacks", f"info {det}", f"info {net}", f"info {det} --json", f"verify {det}",
        f"verify {det} --source {net}", f"diff {det} {det}", f"remake {det} --source {net} --out again.h5",
        f"reproduce --config {tiny()} --dry-run", f"evaluate {net}", f"export {det} --format npz --out det.npz",
        f"export {det} --format imagefolder --out pictures",
        f"train --on {det} --config {tiny()} --out fresh.safetensors",
        f"make-dataset det --config {tiny()} {small} --shard 1/2 --out det.h5",
        f"make-dataset det --config {tiny()} {small} --shard 2/2 --out det.h5",
        "merge det.shard-01-of-02.h5 det.shard-02-of-02.h5",
    ]  # fmt: skip
    told, _ = commands(tmp_path, *lines)
    assert told == [f"0 False {line}" for line in lines]


def test_settings_in_the_current_folder_are_neither_run_nor_used(tmp_path: Path) -> None:
    det, net = dataset("det"), model("standard")
    clean = tmp_path / "clean.png"
    done("preview", det, "--out", clean)
    (tmp_path / "matplotlibrc").write_text(HOSTILE, encoding="utf-8")
    lines = [
        f"preview {det} --out det.png", f"make-dataset det --config {tiny()} --out made.h5",
        f"attack {net} --attack fgsm --rows 10 --out attacked.h5", f"share {det} --source {net} --out sent",
        f"attack {net} --attack foolbox-deepfool-l2 --rows 10 --out foolbox.h5",
    ]  # fmt: skip
    told, warned = commands(tmp_path, *lines, MATPLOTLIBRC=str(tmp_path / "matplotlibrc"))
    assert told == [f"0 True {line}" for line in lines]
    assert not (tmp_path / "pwned").exists() and "\x1b" not in warned and "matplotlib" not in warned, warned
    assert (tmp_path / "det.png").read_bytes() == clean.read_bytes()


def test_a_home_that_is_no_folder(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.write_text("")
    nowhere = {"HOME": str(home), "XDG_CONFIG_HOME": "", "XDG_CACHE_HOME": "", "MPLCONFIGDIR": ""}
    told, warned = commands(tmp_path, f"preview {dataset('det')} --out det.png", **nowhere)
    assert told == [f"0 True preview {dataset('det')} --out det.png"] and "matplotlib" not in warned


def test_a_folder_that_was_deleted(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code = f"import os; os.rmdir({str(gone)!r}); import featuregen.report.canvas; print('drawn')"
    path = os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=gone, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": path}, timeout=600, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (0, "drawn\n"), ran.stderr
