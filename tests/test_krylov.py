"""BiCGSTAB: its certificate holds the truth of rational arithmetic, its budget ends, and a direct solver takes over."""

import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from fastpg import MDP, InvalidArgument, SoftmaxPolicy, SolveError, evaluate, policy_gradient, problems, uniform
from fastpg.certificate import majorant
from fastpg.chain import Chain, induced_chain
from fastpg.exact import evaluate_exactly
from fastpg.kernels import krylov as kernels
from fastpg.solvers import GTH, LU, Banded, Direct, Krylov, Near, SparseLU
from fastpg.solvers.krylov import KrylovFactorisation
from fastpg.testing.models import as_dense, as_sparse
from fastpg.testing.oracles import exact, rational_solve
from fastpg.testing.strategies import mdp_and_policy

SIDES = [False, True]


def solution(factors, b, transposed):
    """x of the system or of its transpose."""
    return factors.solve_transposed(b) if transposed else factors.solve(b)


def truth(chain, b, transposed):
    """The exact solution for the floats of P_pi and of the discount, as rationals."""
    P = chain.transition.toarray() if chain.is_sparse else chain.transition
    system = exact(np.eye(chain.n_states)) - Fraction(chain.discount) * exact(P)
    return rational_solve(system.T if transposed else system, exact(b))


def error(x, b, chain, transposed):
    """The largest error, or for the transpose the sum of all, by rational arithmetic."""
    wrong = [abs(Fraction(v) - w) for v, w in zip(x.tolist(), truth(chain, b, transposed), strict=True)]
    return float(sum(wrong) if transposed else max(wrong))


def chain_of(P, discount, **options):
    """The chain of a model with one action and rewards 0, 1, 2, ... where the process goes on."""
    P = sparse.csr_array(P)
    going_on = np.asarray(P.sum(axis=1)).ravel() > 0
    mdp = MDP(P, np.where(going_on, np.arange(P.shape[0]), 0.0), discount, terminal=~going_on, **options)
    return induced_chain(mdp, uniform(mdp))


def walk(S, discount):
    """A symmetric walk on a ring, which mixes in S^2 steps."""
    s = np.arange(S)
    ahead = sparse.csr_array((np.ones(S), (s, (s + 1) % S)), shape=(S, S))
    return chain_of((ahead + ahead.T) / 2, discount)


@given(mdp_and_policy(sparse=None), st.sampled_from(SIDES), st.integers(0, 2**32 - 1))
def test_the_certificate_holds_the_truth_and_is_met(case, transposed, seed):
    chain = induced_chain(*case)
    b = np.random.default_rng(seed).standard_normal(chain.n_states)
    factors = Krylov().factorise(chain)
    x = solution(factors, b, transposed)
    bound = factors.certificate(b, x, transposed=transposed)
    assert error(x, b, chain, transposed) <= bound.total
    assert bound.residual <= max(1e-12 * bound.size, bound.rounding)
    assert bound.relative <= 1e-11 + 100 * np.finfo(float).eps / max(chain.discount_complement, 1e-4)


@given(mdp_and_policy(sparse=None), st.sampled_from(SIDES), st.floats(-12, 2))
def test_the_certificate_holds_the_truth_of_wrong_solutions(case, transposed, digits):
    """However wrong x is, and the bound is not much larger than the error can be."""
    chain = induced_chain(*case)
    b = np.linspace(-1, 2, chain.n_states)
    x = GTH().factorise(chain)
    x = solution(x, b, transposed) + 10.0**digits * np.cos(np.arange(chain.n_states))
    bound = Krylov().factorise(chain).certificate(b, x, transposed=transposed)
    assert error(x, b, chain, transposed) <= bound.total
    if chain.discount < 0.9:
        assert bound.total <= 21 * error(x, b, chain, transposed) + 1e-11


@pytest.mark.parametrize("storage", [as_sparse, as_dense])
@pytest.mark.parametrize("discount", [0.0, 0.5, 0.99, 0.9999])
def test_garnets_are_solved_as_by_lu(storage, discount):
    mdp = storage(problems.garnet(300, 3, 4, rng=0, sparse=True, discount=discount))
    policy = SoftmaxPolicy.random(mdp, rng=1)
    one, other = evaluate(mdp, policy, solver=Krylov()), evaluate(mdp, policy, solver=LU())
    assert not one.factors.fell_back
    for name in ("value", "action_value", "occupancy", "visitation"):
        a, b = getattr(one, name), getattr(other, name)
        np.testing.assert_allclose(a, b, atol=2e-11 * np.abs(b).max(), rtol=0)
    gradient = policy_gradient(other)
    np.testing.assert_allclose(policy_gradient(one), gradient, atol=1e-8 * np.abs(gradient).max())


@pytest.mark.parametrize("transposed", SIDES)
@pytest.mark.parametrize("discount", [1.0, 1.0 - 1e-9, 0.99])
def test_a_walk_that_ends(discount, transposed):
    """The gambler's ruin on 100 states: at discount 1 only the time to the end can bound an error."""
    S = 100
    s = np.arange(1, S - 1)
    P = sparse.coo_array((np.full(2 * S - 4, 0.5), (np.r_[s, s], np.r_[s - 1, s + 1])), shape=(S, S))
    chain = chain_of(P, discount)
    factors, b = Krylov(tolerance=1e-10).factorise(chain), np.where(np.arange(S) == 60, 1.0, 0.0)
    x = solution(factors, b, transposed)
    bound = factors.certificate(b, x, transposed=transposed)
    assert error(x, b, chain, transposed) <= bound.total <= 1e-8 * bound.size
    if discount == 1 and not transposed:
        ruin = np.where(np.arange(S) <= 60, np.arange(S) * 39, (99 - np.arange(S)) * 60) / 99 * 2
        np.testing.assert_allclose(x, ruin, atol=1e-8)


@pytest.mark.parametrize(
    "P", [[[1.0]], [[0.0]], [[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]], np.eye(3)[[1, 1, 1]]]
)
@pytest.mark.parametrize("discount", [0.0, 0.5])
@pytest.mark.parametrize("transposed", SIDES)
def test_the_smallest_chains(P, discount, transposed):
    chain = chain_of(P, discount, start=0)
    factors = Krylov().factorise(chain)
    for b in (*np.eye(chain.n_states), np.zeros(chain.n_states), np.ones(chain.n_states)):
        x = solution(factors, b, transposed)
        assert error(x, b, chain, transposed) <= 1e-14
        np.testing.assert_array_equal(solution(factors, b[:, None], transposed), x[:, None])


@pytest.mark.parametrize("transposed", SIDES)
@pytest.mark.parametrize("end", [0.02, 0.001])
def test_a_chain_that_ends_everywhere_with_a_small_chance(end, transposed):
    """One state with very many arrivals, and a time to the end that is 50 or 1000 steps from each of the others."""
    S = 20_000
    random = np.random.default_rng(0)
    to = np.c_[random.integers(0, S - 1, (S, 5)), np.full(S, S - 1)]
    law = np.c_[random.dirichlet(np.ones(5), S) * (1 - end), np.full(S, end)]
    law[-1] = 0.0
    P = sparse.csr_array((law.ravel(), to.ravel(), np.arange(0, 6 * S + 1, 6)), shape=(S, S))
    P.eliminate_zeros()
    factors = Krylov(products=250, fallback=Direct()).factorise(chain_of(P, 1.0))
    x = solution(factors, np.where(np.arange(S) < S - 1, 1.0, 0.0), transposed)
    assert not factors.fell_back
    if transposed:  # all that starts arrives in the last state
        assert x[-1] == pytest.approx(S - 1, rel=1e-11)
        assert x[:-1].sum() == pytest.approx((S - 1) / end, rel=1e-11)
    else:
        np.testing.assert_allclose(x[:-1], 1 / end, rtol=1e-11)


def small_world(S, share, discount, end=0.0):
    """A walk within 3 states on a ring, a share of whose moves go anywhere, and which ends with a chance `end`."""
    random = np.random.default_rng(5)
    to = np.where(random.random((S, 4)) < share, random.integers(0, S, (S, 4)), np.arange(S)[:, None] + [-3, -1, 1, 2])
    to, law = np.c_[to % S, np.full(S, S)], np.c_[random.dirichlet(np.ones(4), S) * (1 - end), np.full(S, end)]
    P = sparse.csr_array((law.ravel(), to.ravel(), np.arange(0, 5 * S + 1, 5)), shape=(S, S + 1))
    P.eliminate_zeros()
    return chain_of(sparse.vstack([P, sparse.csr_array((1, S + 1))]), discount)


@pytest.mark.parametrize("transposed", SIDES)
@pytest.mark.parametrize(("discount", "end"), [(0.99, 0.0), (0.9999, 0.0), (0.9999, 0.001), (1.0, 0.01)])
def test_a_preconditioner_saves_products_and_does_not_change_the_solution(discount, end, transposed):
    chain = small_world(3000, 0.01, discount, end)
    b = np.sin(np.arange(3001.0) ** 2) + 0.5
    b[-1] = 0.0
    with_it, without = (Krylov(preconditioner=near).factorise(chain) for near in (Near(), None))
    (x, bound, few), (_, _, many) = (factors._iterate(b, transposed) for factors in (with_it, without))
    assert 2 * few < many
    assert few < 150
    truth = solution(SparseLU().factorise(chain), b, transposed)
    assert bound.total <= 1e-9 * bound.size
    assert np.abs(x - truth).max() <= 2 * bound.total
    exact = with_it.certificate(b, x, transposed=transposed)
    assert exact.total <= 1e-9 * exact.size


@given(mdp_and_policy(sparse=None), st.sampled_from(SIDES))
def test_with_a_preconditioner_the_certificate_holds_the_truth(case, transposed):
    chain = induced_chain(*case)
    b = np.linspace(-1, 1, chain.n_states)
    factors = Krylov(preconditioner=Near()).factorise(chain)
    x = solution(factors, b, transposed)
    assert error(x, b, chain, transposed) <= factors.certificate(b, x, transposed=transposed).total


@pytest.mark.parametrize("size", [1e-300, 1e-200, 1e200, 1e300])
def test_the_size_of_the_right_side_does_not_matter(size):
    chain = induced_chain(*_garnet(50))
    factors = Krylov().factorise(chain)
    x = factors.solve(chain.reward)
    np.testing.assert_allclose(factors.solve(chain.reward * size) / size, x, rtol=1e-10)


def _garnet(S, discount=0.95, b=5):
    mdp = problems.garnet(S, 2, b, rng=3, sparse=True, discount=discount)
    return mdp, SoftmaxPolicy.random(mdp, rng=4)


@pytest.mark.parametrize("transposed", SIDES)
def test_a_uniform_right_side_does_not_break_down(transposed):
    """SciPy's BiCGSTAB gives up with an error of 2% on the transpose; its shadow residual is invariant."""
    chain = induced_chain(*_garnet(2000, 0.99))
    b = np.full(chain.n_states, 1 / chain.n_states)
    factors = Krylov().factorise(chain)
    x = solution(factors, b, transposed)
    np.testing.assert_allclose(x, solution(SparseLU().factorise(chain), b, transposed), rtol=1e-9)


@pytest.mark.parametrize("transposed", SIDES)
def test_a_budget_that_ends_is_an_error_with_the_bound_reached(transposed):
    chain = walk(2000, 0.9999)
    factors, b = Krylov(products=50).factorise(chain), np.arange(2000.0)
    message = (
        r"error of up to [\d.e+-]+ of the solution's size after 50 products at 1 - discount = 0.0001 with 2000 states"
    )
    with pytest.raises(SolveError, match=message):
        solution(factors, b, transposed)


@pytest.mark.parametrize("products", [1, 2, 3, 4, 5])
def test_the_smallest_budgets(products):
    with pytest.raises(SolveError) as raised:
        Krylov(products=products).factorise(walk(200, 0.999)).solve(np.arange(200.0) ** 2)
    assert products - 2 <= int(re.search(r"after (\d+) products", str(raised.value))[1]) <= products


@pytest.mark.parametrize("transposed", SIDES)
@pytest.mark.parametrize("fallback", [Direct(), SparseLU(), LU(), Banded(), Krylov()])
def test_a_fallback_takes_over_where_the_budget_ends(fallback, transposed):
    chain = walk(500, 0.999)
    b = np.sin(np.arange(500.0))
    factors = Krylov(products=50, fallback=fallback).factorise(chain)
    assert not factors.fell_back
    x = solution(factors, b, transposed)
    assert factors.fell_back
    np.testing.assert_array_equal(x, solution(fallback.factorise(chain), b, transposed))
    np.testing.assert_array_equal(factors.solve(b), fallback.factorise(chain).solve(b))


def test_a_solution_that_rounding_makes_worthless_is_refused():
    for solve in (factors := Krylov().factorise(walk(200, 1 - 1e-13))).solve, factors.solve_transposed:
        with pytest.raises(SolveError, match=r"error of up to .* after 0 products .*; the rest is lost to rounding"):
            solve(np.arange(200.0))


def test_a_time_to_the_end_that_is_not_verified_bounds_nothing(monkeypatch):
    chain = chain_of([[0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.0, 0.0]], 1.0)
    monkeypatch.setattr(KrylovFactorisation, "_improve", lambda *_: 0)
    for transposed in SIDES:
        bound = Krylov().factorise(chain).certificate(np.ones(3), np.ones(3), transposed=transposed)
        assert bound.total == np.inf


def test_a_time_to_the_end_that_is_not_found_is_what_is_said():
    line = sparse.diags_array([1.0], offsets=[1], shape=(2500, 2500))
    mdp = MDP(sparse.csr_array(line), np.arange(2500) < 2499, 1.0, 0, terminal=np.arange(2500) == 2499)
    with pytest.raises(
        SolveError, match=r"no bound on the time to the end at 1 - discount = 0 with 2500 .*; use a dir"
    ):
        evaluate(mdp, uniform(mdp), solver=Krylov())


def test_a_preconditioner_is_no_solver():
    mdp = problems.random_mdp(3, 2, rng=0)
    with pytest.raises(InvalidArgument, match=r"^solver must solve the chain, which Near\(\) does only nearly"):
        evaluate(mdp, uniform(mdp), solver=Near())


def test_a_discount_that_only_the_complement_tells_from_1_is_refused():
    mdp = MDP(np.full((2, 1, 2), 0.5), [1.0, 0.0], 1.0, discount_complement=1e-30)
    with pytest.raises(SolveError, match=r"use solvers.GTH"):
        evaluate(mdp, uniform(mdp), solver=Krylov())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tolerance", -1.0),
        ("tolerance", "1e-9"),
        ("products", 0),
        ("products", 2.5),
        ("preconditioner", Near),
        ("fallback", 3),
        ("fallback", Near()),
    ],
)
def test_senseless_settings_are_refused(name, value):
    with pytest.raises(InvalidArgument, match=name):
        Krylov(**{name: value})


@pytest.mark.parametrize("storage", [np.array, sparse.csr_array])
def test_the_complement_is_needed_where_the_process_can_go_on_for_ever(storage):
    ends, trap = [[0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.0, 0.0]], [[0.5, 0.25, 0.25], [0.0, 1.0, 0.0], [0.0] * 3]
    lost = sparse.csr_array(([1.0, 0.0], [0, 1], [0, 2, 2]), shape=(2, 2))  # a way to the end that has underflowed
    for P, complement, needed in [
        (storage(ends), 1e-17, False),
        (storage(trap), 1e-17, True),
        (storage(trap), 0.0, False),
        (lost, 1e-17, True),
    ]:
        S = P.shape[0]
        assert Chain(P, np.ones(S), 1.0, complement, np.zeros(S, bool)).needs_complement == needed
        assert not Chain(P, np.ones(S), 0.5, 0.5, np.zeros(S, bool)).needs_complement
    np.testing.assert_array_equal(lost.data, [1.0, 0.0])


@pytest.mark.parametrize("solver", [Krylov(), SparseLU(), LU()])
@pytest.mark.parametrize("complement", [1e-300, 1e-17, 2e-16])
def test_a_discount_that_rounds_to_1_is_one_rounding_where_the_process_ends(solver, complement, monkeypatch):
    """Against rational arithmetic with that complement: the solution, the certificate and the bounds."""
    monkeypatch.setattr(majorant, "LARGEST", 5)  # as large models are bounded, by norms
    for seed in range(5):
        rng = np.random.default_rng(seed)
        S, ended = 30, np.arange(30) >= 28
        P = rng.dirichlet(np.full(S, 0.2), size=S) * 0.99 + 0.01 * (np.arange(S) == 29)
        reward = np.where(ended, 0.0, rng.integers(-100, 100, S))
        mdp = MDP(sparse.csr_array(P), reward, 1.0, 0, terminal=ended, discount_complement=complement)
        truth, ev = evaluate_exactly(mdp, uniform(mdp)), evaluate(mdp, uniform(mdp), solver=solver)
        wrong = abs(exact(ev.value) - truth.value)
        assert (wrong <= exact(ev.error.value)).all()
        assert ev.error.value.max() <= 1e-12 * abs(ev.value).max()
        assert max(wrong[~ended]) <= Krylov().factorise(ev.chain).certificate(ev.chain.reward, ev.value).total
        assert abs(exact(ev.occupancy) - truth.occupancy).sum() <= Fraction(float(ev.error.occupancy))


def test_the_tolerance_is_what_is_met_and_saves_products():
    chain = induced_chain(*_garnet(3000, 0.9))
    counts = []
    for tolerance in (1e-3, 1e-6, 1e-12):
        _, bound, products = Krylov(tolerance=tolerance).factorise(chain)._iterate(chain.reward, False)
        assert bound.relative <= 2 * tolerance
        counts.append(products)
    assert counts == sorted(set(counts))


@given(st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_kernels_compiled_equal_interpreted(S, seed):
    r, v, p, x = np.random.default_rng(seed).standard_normal((4, S))
    updates = {
        kernels.search_direction: (r, 0.5, 0.25, v, p),
        kernels.half_step: (0.5, v, r),
        kernels.full_step: (0.5, p, 0.25, v, v, x, r),
    }
    for kernel, arguments in updates.items():
        given = [np.copy(a) for a in arguments]
        again = [np.copy(a) for a in arguments]
        kernel(*(a if a.ndim else float(a) for a in given))
        kernel.py_func(*(a if a.ndim else float(a) for a in again))
        for one, other in zip(given, again, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-14)


def test_the_chain_is_not_touched():
    chain = induced_chain(*_garnet(100))
    before = chain.transition.copy(), chain.reward.copy()
    factors = Krylov().factorise(chain)
    factors.solve(chain.reward), factors.solve_transposed(chain.reward)
    assert isinstance(chain, Chain)
    assert (chain.transition != before[0]).nnz == 0
    np.testing.assert_array_equal(chain.reward, before[1])


@pytest.mark.parametrize("tolerance", [1e-3, 1e-12])
@pytest.mark.parametrize("discount", [0.5, 0.99, 1.0])
def test_bounds_hold_whatever_an_iteration_leaves_in_terminal_states(tolerance, discount, monkeypatch):
    # Elimination bounds small models; large ones, where the solution is refined from that of the iteration, by norms.
    monkeypatch.setattr(majorant, "LARGEST", 5)
    # Rows of terminal states are zero, and BiCGSTAB solves them like all others: only nearly.
    for seed in range(10):
        rng = np.random.default_rng(seed)
        P = np.zeros((12, 12))
        for s in range(10):
            P[s, rng.choice(12, 3, replace=False)] += [0.5, 0.25, 0.25]
            P[s] = 0.875 * P[s] + 0.125 * (np.arange(12) == 11)
        ended = np.arange(12) >= 10
        reward = np.where(ended, 0.0, rng.integers(-100, 100, 12))
        mdp = MDP(sparse.csr_array(P), reward, discount, 0, terminal=ended)
        policy = uniform(mdp)
        truth = evaluate_exactly(mdp, policy)
        ev = evaluate(mdp, policy, solver=Krylov(tolerance=tolerance))
        assert (ev.value[ended] == 0).all()
        assert (abs(exact(ev.value) - truth.value) <= exact(ev.error.value)).all()
        assert abs(exact(ev.occupancy) - truth.occupancy).sum() <= Fraction(float(ev.error.occupancy))


def test_a_breakdown_is_no_warning():
    """The search direction has an image of 0."""
    mdp = MDP([[[1.0, 2e-17]], [[0.0, 0.0]]], [1.0, 0.0], 1.0, 0, terminal=[False, True])
    with pytest.raises(SolveError, match="BiCGSTAB"):
        evaluate(mdp, uniform(mdp), solver=Krylov())
