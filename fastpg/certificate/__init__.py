"""Rigorous a-posteriori bounds on every number of an evaluation."""

from fastpg.certificate.bounds import ErrorBounds
from fastpg.certificate.horizon import FiniteHorizonErrorBounds
from fastpg.certificate.majorant import LARGEST

__all__ = ["LARGEST", "ErrorBounds", "FiniteHorizonErrorBounds"]
