"""What a solver may know beyond a solution: its differences, where the solution itself is too large to hold them."""

from typing import NamedTuple, Protocol, TypeGuard

from fastpg.validation import FloatArray


class Estimate(NamedTuple):
    """A vector whose entries have errors of at most the same few S ulp of the entries of `size`."""

    value: FloatArray
    size: FloatArray


class KnowsDifferences(Protocol):
    """A factorisation that has the differences of a solution in more ways than one."""

    def solve_up_to_a_constant(self, b: FloatArray) -> tuple[Estimate, ...]:
        """The solution first, then vectors that differ from it by a constant; `b` is (S,)."""


def knows_differences(factors: object) -> TypeGuard[KnowsDifferences]:
    """Whether a factorisation does; asking a runtime-checkable protocol takes as long as a solve of 10 states."""
    return hasattr(factors, "solve_up_to_a_constant")
