"""LU in single precision, and the iteration that it leads."""

import numpy as np
import pytest

from fastpg import MDP, evaluate, uniform
from fastpg.chain import Chain
from fastpg.solvers import LU, Krylov, SingleLU


def _barely_linked(S, discount=0.999):
    """A dense chain of four blocks, which mixes slowly, with rewards."""
    rng = np.random.default_rng(0)
    P = 1e-3 * rng.random((S, S)) / S
    for block in np.array_split(np.arange(S), 4):
        P[np.ix_(block, block)] += rng.dirichlet(np.ones(block.size), size=block.size)
    return Chain(P / P.sum(axis=1, keepdims=True), rng.standard_normal(S), discount, 1 - discount, np.zeros(S, bool))


@pytest.mark.parametrize("scale", [1.0, 1e300, 1e-300])
def test_single_precision_leads_to_what_double_precision_finds(scale):
    chain = _barely_linked(120)
    factors = Krylov(tolerance=1e-14, products=24, preconditioner=SingleLU()).factorise(chain)
    for solve, expected in (
        (factors.solve, LU().factorise(chain).solve),
        (factors.solve_transposed, LU().factorise(chain).solve_transposed),
    ):
        x, exact_x = solve(scale * chain.reward), expected(scale * chain.reward)
        np.testing.assert_allclose(x, exact_x, rtol=0, atol=1e-12 * abs(exact_x).max())
        alone = SingleLU().factorise(chain)
        rough = alone.solve if solve == factors.solve else alone.solve_transposed
        assert 1e-9 < abs(rough(chain.reward) * scale - exact_x).max() / abs(exact_x).max() < 1e-3


def test_what_single_precision_cannot_hold_is_left_to_the_fallback():
    """1 - discount = 1e-9 is lost in float32: whatever its factors lead to, the residual decides."""
    chain = _barely_linked(60, discount=1 - 1e-9)
    factors = Krylov(tolerance=1e-14, products=24, fallback=LU(), preconditioner=SingleLU()).factorise(chain)
    np.testing.assert_allclose(factors.solve(chain.reward), LU().factorise(chain).solve(chain.reward), rtol=1e-5)
    assert factors.fell_back


def test_large_dense_chains_that_do_not_mix_are_led_by_single_precision():
    chain = _barely_linked(1001)
    mdp = MDP(chain.transition[:, None], chain.reward, 0.999)
    ev = evaluate(mdp, uniform(mdp))
    assert ev.solved_by == "Krylov, then Krylov with SingleLU"
    np.testing.assert_allclose(
        ev.value, LU().factorise(chain).solve(chain.reward), rtol=0, atol=1e-11 * abs(ev.value).max()
    )
