"""Architectures, classifiers and model files.

Importing a module of architectures registers them; this is the order of the table.
"""

# Imported to register, so not used.
from featuregen.models.architectures import convnets, resnets, robustness_nets  # noqa: F401
