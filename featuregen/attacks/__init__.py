"""Attacks: the one loop that moves pixels, and every other way to mislead a model, behind one call."""

from featuregen.attacks.goals import Goal
from featuregen.attacks.library import attack, settings_for
from featuregen.attacks.outcome import Outcome, measured
from featuregen.attacks.pgd import pgd, random_in_ball
from featuregen.attacks.registry import ATTACKS, attack_table, find_attack

__all__ = [
    "ATTACKS",
    "Goal",
    "Outcome",
    "attack",
    "attack_table",
    "find_attack",
    "measured",
    "pgd",
    "random_in_ball",
    "settings_for",
]
