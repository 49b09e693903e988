"""Attacks: the one loop that moves pixels, and every other way to mislead a model, behind one call."""

from featuregen.attacks.library import attack
from featuregen.attacks.outcome import Outcome
from featuregen.attacks.pgd import pgd, random_in_ball
from featuregen.attacks.registry import ATTACKS, attack_table, find_attack

__all__ = ["ATTACKS", "Outcome", "attack", "attack_table", "find_attack", "pgd", "random_in_ball"]
