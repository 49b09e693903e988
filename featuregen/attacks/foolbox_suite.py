"""Attacks of Foolbox's that work in a plain untargeted call, behind the same interface as ours."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from featuregen.attacks.goals import Goal
from featuregen.config.attacks import FoolboxAttack
from featuregen.errors import UserError
from featuregen.optimize import fixed

# Our name: the class in foolbox.attacks, and whether it looks for the smallest change.
SUITE: dict[str, tuple[str, bool]] = {
    "deepfool-l2": ("L2DeepFoolAttack", True),
    "deepfool-linf": ("LinfDeepFoolAttack", True),
    "carlini-wagner": ("L2CarliniWagnerAttack", True),
    "ddn": ("DDNAttack", True),
    "ead": ("EADAttack", True),
    "fmn-l1": ("L1FMNAttack", True),
    "newton": ("NewtonFoolAttack", True),
    "boundary": ("BoundaryAttack", True),
    "hopskipjump": ("HopSkipJumpAttack", True),
    "mi-fgsm": ("LinfMomentumIterativeFastGradientMethod", False),
    "bim-l1": ("L1BasicIterativeAttack", False),
    "adam-pgd": ("LinfAdamProjectedGradientDescentAttack", False),
    "sparse-l1": ("SparseL1DescentAttack", False),
    "virtual": ("VirtualAdversarialAttack", False),
    "blur": ("GaussianBlurAttack", True),
    "contrast": ("LinearSearchContrastReductionAttack", True),
    "inversion": ("InversionAttack", True),
    "salt-pepper": ("SaltAndPepperNoiseAttack", True),
    "blended-noise": ("LinearSearchBlendedUniformNoiseAttack", True),
}
