"""Attacks behind one call, one file per attack with its settings beside it."""

# isort: off
# Importing an attack's module registers it: this is the order of the table.
from featuregen.attacks.pgd import pgd
from featuregen.attacks import apgd, fmn, lbfgs, few_pixel, spatial, square, noise, ensemble, foolbox  # noqa: F401

# isort: on
from featuregen.attacks.api import attack
from featuregen.attacks.criterion import Criterion
from featuregen.attacks.problem import AttackProblem
from featuregen.attacks.registry import attack_table, find_attack, list_attacks, register_attack, settings_for
from featuregen.attacks.result import AttackResult, measure_result

__all__ = [
    "AttackProblem",
    "AttackResult",
    "Criterion",
    "attack",
    "attack_table",
    "find_attack",
    "list_attacks",
    "measure_result",
    "pgd",
    "register_attack",
    "settings_for",
]
