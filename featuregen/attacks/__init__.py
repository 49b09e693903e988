"""Attacks behind one call, one file per attack."""

from featuregen.attacks.api import attack, settings_for
from featuregen.attacks.criterion import Criterion
from featuregen.attacks.pgd import pgd
from featuregen.attacks.registry import attack_table, find_attack
from featuregen.attacks.result import AttackResult, measure_result

__all__ = [
    "AttackResult",
    "Criterion",
    "attack",
    "attack_table",
    "find_attack",
    "measure_result",
    "pgd",
    "settings_for",
]
