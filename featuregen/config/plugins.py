"""Plugins: Python files of the user that register attacks, architectures or kinds."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from featuregen.errors import CheckFailed, UserError

_loaded: dict[Path, str] = {}


def load_plugin(path: Path) -> None:
    """Run a Python file once per process, so that what it registers can be used by name.

    Only a file that the user names may be loaded, never one that a dataset, a model or a config names.
    """
    # Of a link to itself, Path.resolve raises what is no OSError before Python 3.13.
    file = Path(os.path.realpath(path))
    if file in _loaded:
        return
    if not file.is_file() or file.suffix != ".py":
        raise UserError(f"{path} is no Python file; name a .py file that registers attacks, architectures or kinds.")
    # Listed among the modules, so that dataclasses and pickles of the file find it.
    name = f"featuregen_plugin_{len(_loaded)}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} cannot be loaded as a Python file; name another.")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (UserError, CheckFailed):
        del sys.modules[name]
        raise
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UserError(f"{path} failed with {type(error).__name__}: {_reason(error, file)}; correct it.") from error
    _loaded[file] = name


def loaded_plugins() -> tuple[Path, ...]:
    """The files loaded so far, which worker processes must load as well."""
    return tuple(_loaded)


def _reason(error: BaseException, file: Path) -> str:
    """The error's message and the last line of the file that was reached."""
    line = error.lineno if isinstance(error, SyntaxError) else None
    trace = error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == str(file):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{error}" + (f" (line {line})" if line else "")
