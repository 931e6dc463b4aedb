"""Accelerated value iteration: bounds that hold the truth, nearly decomposable chains, and plain steps as its limit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from fastpg import MDP, InvalidArgument, SolveError, evaluate, uniform
from fastpg.chain import induced_chain
from fastpg.kernels import anderson as kernels
from fastpg.solvers import GTH, LU, Direct, Krylov, Near, ValueIteration, value_iteration
from fastpg.solvers.value_iteration import ValueIterationFactorisation
from fastpg.testing.models import as_dense
from fastpg.testing.strategies import mdp_and_policy
from tests.test_krylov import SIDES, chain_of, error, solution

NEARBY = [None, Near()]


def nearly_decomposable(S, blocks, leak, discount, end=0.0):
    """Blocks of random successors, each left with a chance `leak`; the last state ends the process, from all others."""
    random, size = np.random.default_rng(0), S // blocks
    inside = np.arange(S)[:, None] // size * size + random.integers(0, size, (S, 5))
    to = np.c_[inside, random.integers(0, S, S), np.full(S, S - 1)]
    law = np.c_[random.dirichlet(np.ones(5), S) * (1 - leak - end), np.full(S, leak), np.full(S, end)]
    if end:
        law[-1] = 0.0
    P = sparse.csr_array((law.ravel(), to.ravel(), np.arange(0, 7 * S + 1, 7)), shape=(S, S))
    P.sum_duplicates()
    P.eliminate_zeros()
    return chain_of(P, discount)


@given(mdp_and_policy(sparse=None), st.sampled_from(SIDES), st.sampled_from(NEARBY), st.integers(0, 2**32 - 1))
def test_the_bounds_hold_the_truth_and_are_met(case, transposed, nearby, seed):
    chain = induced_chain(*case)
    b = np.random.default_rng(seed).standard_normal(chain.n_states)
    factors = ValueIteration(preconditioner=nearby).factorise(chain)
    x = solution(factors, b, transposed)
    bound = Krylov().factorise(chain).certificate(b, x, transposed=transposed)
    assert error(x, b, chain, transposed) <= bound.total
    assert bound.residual <= max(1e-12 * bound.size, bound.rounding)
    assert bound.relative <= 1e-11 + 100 * np.finfo(float).eps / max(chain.discount_complement, 1e-4)


@pytest.mark.parametrize(
    "P",
    [
        [[1.0]],
        [[0.0]],
        [[1.0, 0.0], [0.0, 1.0]],
        [[0.0, 1.0], [1.0, 0.0]],
        np.eye(3)[[1, 1, 1]],
        np.eye(4)[1:] @ np.eye(4)[:, 1:],
    ],
)
@pytest.mark.parametrize("discount", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("transposed", SIDES)
def test_the_smallest_chains(P, discount, transposed):
    chain = chain_of(P, discount, start=0)
    factors = ValueIteration().factorise(chain)
    for b in (*np.eye(chain.n_states), np.zeros(chain.n_states), np.ones(chain.n_states)):
        x = solution(factors, b, transposed)
        bound = factors.certificate(b, x, transposed=transposed)
        assert error(x, b, chain, transposed) <= bound.total <= 1e-10 * bound.size
        two = solution(factors, np.stack([b, -b], axis=1), transposed)
        np.testing.assert_array_equal(two, np.stack([x, -x], axis=1))


@pytest.mark.parametrize("transposed", SIDES)
@pytest.mark.parametrize(("leak", "discount", "end"), [(1e-6, 1 - 1e-6, 0.0), (1e-3, 1 - 1e-6, 0.0), (1e-5, 1.0, 1e-5)])
def test_nearly_decomposable_chains(leak, discount, end, transposed):
    """Ten blocks that are seldom left: value iteration alone takes a million steps for the twelve digits."""
    chain = nearly_decomposable(1000, 10, leak, discount, end)
    b = np.where(chain.ended, 0.0, np.sin(np.arange(1000.0)) + 0.5)
    factors = ValueIteration(tolerance=1e-11).factorise(chain)
    x, bound, products = factors._iterate(b, transposed)
    assert products < 1500
    assert bound.relative <= 1e-7
    truth = solution(GTH().factorise(chain), b, transposed)
    assert np.linalg.norm(x - truth, 1 if transposed else np.inf) <= 1.001 * bound.total


def test_more_memory_takes_fewer_products():
    chain = nearly_decomposable(1000, 10, 1e-4, 1 - 1e-5)
    _, _, few = ValueIteration(memory=20).factorise(chain)._iterate(chain.reward / 1000, False)
    _, bound, many = ValueIteration(memory=1, products=2000).factorise(chain)._iterate(chain.reward / 1000, False)
    assert 3 * few < many
    assert bound.relative > 1e-9


@pytest.mark.parametrize("transposed", SIDES)
def test_with_all_steps_remembered_it_ends_as_gmres_does(transposed):
    """In exact arithmetic after S steps, less one for the constant or the mass, and one more with the last mixture."""
    P = np.random.default_rng(0).dirichlet(np.full(8, 0.3), 8)
    chain = as_dense_chain(P, 0.999)
    _, bound, products = ValueIteration(tolerance=1e-9).factorise(chain)._iterate(np.eye(8)[0], transposed)
    assert products <= 8 + 3  # with the first residual, the last, and a step that rounding makes necessary
    assert bound.relative <= 1e-9


def as_dense_chain(P, discount):
    """The chain of a dense model."""
    mdp = as_dense(MDP(sparse.csr_array(P), np.arange(len(P)), discount))
    return induced_chain(mdp, uniform(mdp))


@pytest.mark.parametrize("transposed", SIDES)
def test_without_mixtures_it_is_value_iteration(transposed, monkeypatch):
    """After n steps sum_{t<=n} (discount P)^t b, but for a constant; or from b / (1 - discount) as many steps."""
    monkeypatch.setattr(value_iteration, "_least_squares", lambda _, b: np.zeros(b.size))
    P, b = np.random.default_rng(1).dirichlet(np.ones(6), 6), np.arange(6.0)
    chain = as_dense_chain(P, 0.9)
    x, _, products = ValueIteration(products=9, tolerance=0.0).factorise(chain)._iterate(b, transposed)
    plain = b / 0.1 if transposed else np.zeros(6)
    for _ in range(products - 2):
        plain = b + 0.9 * (P.T if transposed else P) @ plain
    if not transposed:
        x, plain = x - x[0], plain - plain[0]
    np.testing.assert_allclose(x, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("transposed", SIDES)
def test_a_step_that_does_not_help_is_not_taken(transposed, monkeypatch):
    monkeypatch.setattr(value_iteration, "_least_squares", lambda _, b: np.full(b.size, 1e3))
    P, b = np.random.default_rng(1).dirichlet(np.ones(6), 6), np.arange(6.0)
    chain = as_dense_chain(P, 0.9)
    x = solution(ValueIteration().factorise(chain), b, transposed)
    np.testing.assert_allclose(x, solution(LU().factorise(chain), b, transposed), rtol=1e-11)


@pytest.mark.parametrize("transposed", SIDES)
def test_a_budget_that_ends_is_an_error_with_the_bound_reached(transposed):
    chain = nearly_decomposable(1000, 10, 1e-4, 1 - 1e-5)
    message = (
        r"^value iteration has an error of up to [\d.e+-]+ of the solution's size after 50 products at 1 - discount = "
        r"1e-05 with 1000 states; give solvers.ValueIteration more products, or use a direct solver, or a smaller disc"
    )
    with pytest.raises(SolveError, match=message):
        solution(ValueIteration(products=50).factorise(chain), chain.reward, transposed)


@pytest.mark.parametrize("transposed", SIDES)
def test_a_fallback_takes_over(transposed):
    chain = nearly_decomposable(1000, 10, 1e-4, 1 - 1e-5)
    factors = ValueIteration(products=50, fallback=GTH()).factorise(chain)
    x = solution(factors, chain.reward, transposed)
    assert factors.fell_back
    np.testing.assert_array_equal(x, solution(GTH().factorise(chain), chain.reward, transposed))


def test_it_is_the_last_resort_of_large_chains():
    chain = nearly_decomposable(4000, 10, 1e-6, 1 - 1e-6)
    assert Direct().choose(chain).fallback == ValueIteration()
    factors = Krylov(products=50, fallback=ValueIteration()).factorise(chain)
    x = factors.solve(chain.reward)
    assert isinstance(factors.direct, ValueIterationFactorisation)
    assert factors.certificate(chain.reward, x).relative < 1e-7


@pytest.mark.parametrize("memory", [0, -1, 2.5, "2"])
def test_senseless_memories_are_refused(memory):
    with pytest.raises(InvalidArgument, match="memory must be"):
        ValueIteration(memory=memory)


def test_an_evaluation_by_it_is_that_by_lu():
    mdp = MDP(np.random.default_rng(0).dirichlet(np.ones(50), (50, 3)), np.arange(150.0).reshape(50, 3), 0.99)
    one, other = (evaluate(mdp, uniform(mdp), solver=solver) for solver in (ValueIteration(), LU()))
    assert one.solved_by == "ValueIteration"
    np.testing.assert_allclose(one.value, other.value, rtol=1e-11)
    np.testing.assert_allclose(one.occupancy, other.occupancy, rtol=1e-11)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 6])
def test_kernels_compiled_equal_interpreted(count):
    random = np.random.default_rng(count)
    rows, x, weight = random.integers(-9, 9, (7, 13)).astype(float), np.arange(13.0), np.arange(7.0)
    for form in (lambda kernel: kernel, lambda kernel: kernel.py_func):
        out = np.zeros(count)
        form(kernels.products)(rows, count, x, out)
        np.testing.assert_array_equal(out, rows[:count] @ x)
        out = x.copy()
        form(kernels.take_away)(weight, rows, count, out)
        np.testing.assert_array_equal(out, x - weight[:count] @ rows[:count])
