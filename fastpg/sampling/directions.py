"""Directions in the space of logits along which a policy is perturbed, each law of them one small object.

Directions have one component for each free logit: one of an action that is taken, in a state that is reached and has
another such action. The laws are symmetric: a direction and its opposite are equally likely.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from scipy import sparse

from fastpg.errors import NoExactMoments
from fastpg.kernels.perturbation import COORDINATE, EVERY, NORMAL, SIGNS
from fastpg.validation import FloatArray

# Laws of up to 2^MOST_SIGNS sign vectors are enumerated.
MOST_SIGNS = 16


class Enumeration(NamedTuple):
    """Every direction (N, F), row n the opposite of row N - 1 - n, and how often a sample takes it, on average."""

    weight: FloatArray
    direction: sparse.csr_array


@dataclass(frozen=True)
class Directions(ABC):
    """A law of directions u with E u u^T = `second(F)` I.

    `kind` is its number in `fastpg.kernels.perturbation`. A sample takes one of them at random or, where the law is
    `in_turn`, F of them for certain.
    """

    kind: ClassVar[int]
    in_turn: ClassVar[bool] = False

    def second(self, size: int) -> float:  # noqa: ARG002
        """E u_f^2 for `size` free logits."""
        return 1.0

    def fourth(self, size: int) -> float:  # noqa: ARG002
        """E u_f^4."""
        return 1.0

    def typical(self, size: int) -> sparse.csr_array:
        """A direction for all components (1, F), or one for each (F, F), that stands for the others."""
        return sparse.csr_array(np.random.default_rng(size).choice([-1.0, 1.0], (1, size)))

    @abstractmethod
    def enumerate(self, size: int) -> Enumeration:
        """All directions for `size` free logits; NoExactMoments where they are too many."""


class Gaussian(Directions):
    """Independent standard normal components: infinitely many directions, so that moments are not enumerated."""

    kind = NORMAL

    def fourth(self, size: int) -> float:  # noqa: ARG002
        """3."""
        return 3.0

    def enumerate(self, size: int) -> Enumeration:  # noqa: ARG002
        """Refused."""
        raise NoExactMoments(
            "Gaussian directions have no exact moments, which are integrals over all of them; "
            "use directions.Coordinate(), or directions.Rademacher() for few free logits"
        )


class Rademacher(Directions):
    """Independent signs, +1 or -1: the simultaneous perturbation of Spall (1992)."""

    kind = SIGNS

    def enumerate(self, size: int) -> Enumeration:
        """All sign vectors, of up to 16 free logits."""
        if size > MOST_SIGNS:
            raise NoExactMoments(
                f"exact moments take all 2^{size} sign vectors of {size} free logits but at most 2^{MOST_SIGNS} are "
                f"enumerated; use directions.Coordinate()"
            )
        count = 2**size if size else 0
        bits = np.arange(count)[:, None] >> np.arange(size) & 1
        return Enumeration(np.full(count, 0.5**size), sparse.csr_array(2.0 * bits - 1.0))


class Coordinate(Directions):
    """One free logit at random, up or down."""

    kind = COORDINATE

    def second(self, size: int) -> float:
        """1 / F."""
        return 1.0 / max(size, 1)

    def fourth(self, size: int) -> float:
        """1 / F."""
        return 1.0 / max(size, 1)

    def typical(self, size: int) -> sparse.csr_array:
        """Each free logit, up."""
        return sparse.csr_array(sparse.eye_array(size, format="csr"))

    def enumerate(self, size: int) -> Enumeration:
        """Each free logit, up and down."""
        units = self.typical(size)
        both = sparse.csr_array(sparse.vstack((units, -units[::-1]), format="csr"))
        return Enumeration(np.full(2 * size, self.second(size) / 2), both)


class EveryCoordinate(Coordinate):
    """Each free logit in turn, all of them in a sample, so that together sum u u^T = I."""

    kind = EVERY
    in_turn = True

    def second(self, size: int) -> float:  # noqa: ARG002
        """1."""
        return 1.0

    def fourth(self, size: int) -> float:  # noqa: ARG002
        """1."""
        return 1.0
