"""`featuregen attacks`."""

from __future__ import annotations


def attacks() -> None:
    """List the attacks: the threat model of each, its settings, and what it does.

    featuregen attacks
    """
    from featuregen.attacks.registry import attack_table

    print(attack_table())
