"""Evaluation without rounding: exact rational numbers, and certified enclosures where logits make them irrational.

Needs python-flint, which pip install 'fastpg[exact]' brings.
"""

from fastpg.exact.balls import Balls
from fastpg.exact.enclosure import Enclosure, enclose
from fastpg.exact.evaluation import ExactEvaluation, ExactFiniteHorizonEvaluation, evaluate_exactly
from fastpg.exact.model import ExactMDP

__all__ = [
    "Balls",
    "Enclosure",
    "ExactEvaluation",
    "ExactFiniteHorizonEvaluation",
    "ExactMDP",
    "enclose",
    "evaluate_exactly",
]
