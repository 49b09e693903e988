"""The wheel, installed beside nothing of the clone."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def call(*words: str | Path, cwd: Path) -> str:
    ended = subprocess.run([str(word) for word in words], capture_output=True, text=True, cwd=cwd, timeout=600)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.slow
def test_the_wheel_works_outside_the_clone(tmp_path: Path) -> None:
    isolated = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    call(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", *isolated, "-w", tmp_path, ROOT, cwd=tmp_path)
    (wheel,) = tmp_path.glob("featuregen-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"featuregen/configs/{path.name}" for path in (ROOT / "configs").glob("*.yaml")} <= names
    templates = {"report/report.html.j2", "report/style.css", "publish/card.md.j2"}
    assert {f"featuregen/{name}" for name in templates} <= names
    assert {"featuregen/cli/__init__.py", "featuregen/py.typed"} <= names and "cli.py" not in names
    assert not [name for name in names if name.startswith(("tests/", "cli"))]

    venv.create(tmp_path / "v", system_site_packages=False, with_pip=True)
    python = tmp_path / "v" / "bin" / "python"
    call(python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    # The environment of the tests lends everything else; its own featuregen comes later on the path.
    site = call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    lent = [path for path in sys.path if path.endswith("site-packages")]
    (Path(site) / "lent.pth").write_text("\n".join(lent) + "\n", encoding="utf-8")

    assert "make-robust-dataset" in call(tmp_path / "v" / "bin" / "featuregen", "--help", cwd=tmp_path)
    where = "import featuregen, featuregen.config as c; print(featuregen.__file__); print(c.load_config('digits').name)"
    place, name = call(python, "-c", where, cwd=tmp_path).split()
    assert Path(place).is_relative_to(tmp_path) and name == "digits"
    assert "convnet" in call(tmp_path / "v" / "bin" / "featuregen", "models", cwd=tmp_path)
