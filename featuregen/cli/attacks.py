"""`featuregen attacks`."""

from __future__ import annotations

from featuregen.runtime.console import show


def attacks() -> None:
    """List the attacks: the threat model of each, its settings, and what it does.

    featuregen attacks
    """
    from featuregen.attacks.registry import attack_table

    show(attack_table())
