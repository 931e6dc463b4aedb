"""Iterations where a chain mixes: the Neumann series that leads BiCGSTAB, when it gives up, what threads change."""

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from fastpg import MDP, SoftmaxPolicy, SolveError, parallel, problems
from fastpg.chain import induced_chain
from fastpg.kernels import krylov as kernels
from fastpg.solvers import LU, Krylov, SparseLU, krylov, rows
from fastpg.solvers.krylov import KrylovFactorisation
from fastpg.solvers.rows import Rows
from fastpg.solvers.series import SINGLE, series
from fastpg.testing.strategies import mdp_and_policy
from tests.test_krylov import SIDES, error, solution, walk

EPS = float(np.finfo(np.float32).eps)


def garnet(S, discount, successors=5):
    """A chain that fills in, with mixed signs of rewards."""
    mdp = problems.garnet(S, 2, successors, rng=3, sparse=True, discount=discount)
    return induced_chain(mdp, SoftmaxPolicy.random(mdp, rng=4))


def never(*_):
    """What must not be called."""
    raise AssertionError


@given(mdp_and_policy(sparse=True), st.sampled_from(SIDES), st.integers(0, 2**32 - 1))
def test_the_certificate_holds_the_truth_after_a_series(case, transposed, seed):
    chain = induced_chain(*case)
    b = np.random.default_rng(seed).standard_normal(chain.n_states)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(krylov, "FEW_STATES", 0)
        factors = Krylov().factorise(chain)
        x = solution(factors, b, transposed)
    bound = factors.certificate(b, x, transposed=transposed)
    assert error(x, b, chain, transposed) <= bound.total
    assert bound.residual <= max(1e-12 * bound.size, bound.rounding)


@pytest.mark.parametrize("transposed", SIDES)
@pytest.mark.parametrize("discount", [0.0, 0.5, 0.99, 0.99999])
def test_a_garnet_needs_no_more_than_the_series(discount, transposed, monkeypatch):
    """And as few products at any discount: what fades as slowly as the discount is left out."""
    monkeypatch.setattr(KrylovFactorisation, "_improve", never)
    chain = garnet(1500, discount)
    b = np.random.default_rng(0).random(1500) - 0.3
    factors = Krylov().factorise(chain)
    x, bound, products = factors._iterate(b, transposed)
    truth = solution(LU().factorise(chain), b, transposed)
    assert products <= 50
    assert bound.relative <= 1e-12 + 2e-14 / (1 - discount)
    np.testing.assert_allclose(x, truth, rtol=0, atol=1e-12 * np.abs(truth).max() / (1 - discount) ** 0.5)


@pytest.mark.parametrize("transposed", SIDES)
def test_what_a_series_leaves_is_as_small_as_it_should_be(transposed):
    chain = garnet(1500, 0.95)
    rho = np.random.default_rng(0).standard_normal(1500)
    rho -= rho.mean()
    factors = Krylov().factorise(chain)
    for goal in (0.1, 1e-3, 1e-9):
        x, products, converges = series(factors._rows, 0.95, rho, goal, transposed, True, 1000)
        left = rho - factors.product(x, transposed=transposed)
        left -= 0.0 if transposed else left.mean()
        assert converges
        assert np.abs(left).sum() <= 3 * max(goal, SINGLE) * np.abs(rho).sum()
        assert series(factors._rows, 0.95, rho, goal, transposed, True, 2).products == min(products, 2)


@pytest.mark.parametrize("transposed", SIDES)
def test_a_slow_chain_is_left_to_bicgstab(transposed):
    chain = walk(2000, 0.999)
    b = np.sin(np.arange(2000.0) ** 2)
    rho = b - b.mean()
    found = series(Rows.of(chain.transition), 0.999, rho, 1e-12, transposed, True, 1000)
    assert not found.converges
    assert found.products < 20
    x = solution(Krylov().factorise(chain), b, transposed)
    truth = solution(SparseLU().factorise(chain), b, transposed)
    np.testing.assert_allclose(x, truth, rtol=0, atol=1e-11 * np.abs(truth).max())


@pytest.mark.parametrize("b", [np.arange(2000.0), np.sin(np.arange(2000.0) ** 2)])
def test_a_slow_chain_meets_its_fallback_after_a_quarter_of_the_budget(b, monkeypatch):
    products = []
    product = KrylovFactorisation.product

    def counted(self, x, **options):
        products.append(x)
        return product(self, x, **options)

    monkeypatch.setattr(KrylovFactorisation, "product", counted)
    factors = Krylov(products=400, fallback=LU()).factorise(walk(2000, 0.9999))
    factors.solve(b)
    assert factors.fell_back
    assert 100 <= len(products) <= 110


@pytest.mark.parametrize("rho", [np.zeros(3), np.full(3, np.inf), np.full(3, np.nan)])
def test_no_series_of_nothing(rho):
    found = series(Rows.of(sparse.csr_array(np.eye(3))), 0.5, rho, 0.5, False, True, 9)
    assert (found.products, found.converges) == (0, False)
    np.testing.assert_array_equal(found.correction, np.zeros(3))


@pytest.mark.parametrize("transposed", SIDES)
@pytest.mark.parametrize("successors", [1, 5])
def test_threads_change_no_bit(successors, transposed, monkeypatch):
    """A chain of several pieces by the series, and one with few successors by BiCGSTAB."""
    for module in (parallel, rows):
        monkeypatch.setattr(module, "WORTH", 1)
    chain = garnet(20_000, 0.9, successors)
    assert len(Rows.of(chain.transition).pieces) == rows.PIECES
    found = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", threads)
        try:
            found.append(solution(Krylov(products=300).factorise(chain), chain.reward, transposed))
        except SolveError as failed:  # too few products for one successor
            found.append(str(failed))
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


@given(st.integers(1, 12), st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(-1, 1))
def test_terms_are_those_of_the_series_compiled_and_interpreted(S, seed, gamma, mean):
    random = np.random.default_rng(seed)
    P = sparse.csr_array(random.random((S, S)) * (random.random((S, S)) < 0.5))
    given = P.data.astype(np.float32), P.indices.view(np.uint32), P.indptr.view(np.uint32), gamma
    term, total = random.standard_normal((2, S)).astype(np.float32)
    tolerance = {"rtol": 0, "atol": 20 * EPS * (1 + S)}
    for run in (lambda kernel: kernel, lambda kernel: kernel.py_func):
        (after, there), summed, sums = np.empty((2, S), np.float32), total.copy(), np.empty((1, 2))
        run(kernels.next_term)(*given, mean, term, 0, S, after, summed, sums)
        np.testing.assert_allclose(after, gamma * (P @ term - mean), **tolerance)
        np.testing.assert_allclose(summed, total + term - mean, **tolerance)
        np.testing.assert_allclose(sums[0], [after.sum(), np.abs(after).sum()], **tolerance)
        flows, summed = np.empty((2, S), np.float32), total.copy()
        for i, piece in enumerate([(0, S // 2), (S // 2, S)]):
            run(kernels.flows)(*given, term, *piece, flows[i])
        run(kernels.next_term_transposed)(flows, term, 0, S, there, summed, sums)
        np.testing.assert_allclose(there, gamma * (P.T @ term), **tolerance)
        np.testing.assert_allclose(summed, total + term, **tolerance)
        np.testing.assert_allclose(sums[0], [there.sum(), np.abs(there).sum()], **tolerance)


@pytest.mark.parametrize("terminal", [1, 10])
@pytest.mark.parametrize("discount", [0.9, 0.999, 1.0])
def test_few_terminal_states_cost_no_products(discount, terminal):
    """No constant is fitted to the equations of what has ended: it took 174 to 1931 products."""
    S = 2000
    garnet = problems.garnet(S, 2, 5, rng=1, sparse=True)
    ends = np.arange(S) < terminal
    reward = np.where(ends[:, None], 0.0, garnet.expected_reward)
    mdp = MDP(garnet.transition, reward, discount, terminal=ends)
    chain = induced_chain(mdp, SoftmaxPolicy.random(mdp, rng=2))
    factors = Krylov().factorise(chain)
    x, bound, products = factors._iterate(chain.reward, transposed=False)
    truth = LU().factorise(chain).solve(chain.reward)
    assert products <= 100
    assert np.abs(x - truth).max() <= min(bound.total, 1e-11 * np.abs(truth).max())
