"""Rigorous a-posteriori bounds on every number of an evaluation."""

from fastpg.certificate.bounds import ErrorBounds
from fastpg.certificate.equations import Equations, reward_unit
from fastpg.certificate.horizon import FiniteHorizonErrorBounds
from fastpg.certificate.majorant import LARGEST
from fastpg.certificate.refinement import CANCELS, corrected_value

__all__ = [
    "CANCELS",
    "LARGEST",
    "Equations",
    "ErrorBounds",
    "FiniteHorizonErrorBounds",
    "corrected_value",
    "reward_unit",
]
