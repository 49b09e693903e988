"""Attacks behind one call, one file per attack with its settings beside it.

Importing an attack's module registers it; the table has the order of these imports.
"""

# Imported to register, so neither used nor sorted.
from featuregen.attacks import pgd, apgd, fmn, lbfgs, few_pixel, spatial, square, noise, ensemble, foolbox  # noqa: F401, I001
