"""Attacks: settings of the one loop that moves pixels."""

from featuregen.attacks.pgd import pgd, random_in_ball

__all__ = ["pgd", "random_in_ball"]
