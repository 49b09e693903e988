"""`featuregen models`."""

from __future__ import annotations

from featuregen.runtime.console import show


def models() -> None:
    """List the architectures and the image sizes that each accepts.

    featuregen models
    """
    from featuregen.models.registry import architecture_table

    show(architecture_table())
