"""Gain and bias of large chains near discount 1, against elimination without subtraction and rational arithmetic."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from fastpg import MDP, InvalidArgument, SoftmaxPolicy, SolveError, evaluate, policy_gradient, problems, uniform
from fastpg.chain import induced_chain
from fastpg.exact import evaluate_exactly
from fastpg.solvers import GTH, Components, GainBias, Krylov, choose
from fastpg.solvers.gain_bias import GainBiasFactorisation
from fastpg.testing.oracles import exact

COMPLEMENTS = [1e-5, 1e-9, 1e-12, 1e-15, 1e-30, 1e-300]


def model(P, complement, reward=None):
    """A model with one action."""
    reward = np.cos(np.arange(P.shape[0]) ** 2.0) + 2 if reward is None else reward
    return MDP(sparse.csr_array(P), reward, 1.0 - complement, discount_complement=complement)


def garnet(S, complement, seed=0):
    mdp = problems.garnet(S, 3, 4, rng=seed, sparse=True)
    mdp = MDP(mdp.transition, mdp.reward, 1.0 - complement, discount_complement=complement)
    return mdp, SoftmaxPolicy.random(mdp, rng=1)


@pytest.mark.parametrize("complement", COMPLEMENTS)
def test_gain_and_bias_keep_the_digits_that_gth_keeps(complement):
    chain = induced_chain(*garnet(300, complement))
    factors, truth = GainBias().factorise(chain), GTH().factorise(chain)
    assert isinstance(factors, GainBiasFactorisation)
    for b in (chain.reward, np.eye(300)[7], np.linspace(-1, 1, 300)):
        x, (level, bias) = truth.solve(b), factors.solve_up_to_a_constant(b)
        np.testing.assert_allclose(level.value, x, rtol=1e-12, atol=1e-13 / complement)
        np.testing.assert_array_equal(factors.solve(b), level.value)
        h = min(truth.solve_up_to_a_constant(b), key=lambda estimate: estimate.size.max()).value
        np.testing.assert_allclose(bias.value - bias.value[0], h - h[0], rtol=0, atol=1e-12)
        positive, negative = truth.solve_parts(b, transposed=True)
        cancels = 1e-14 * (positive + negative).sum()
        np.testing.assert_allclose(factors.solve_transposed(b), positive - negative, rtol=0, atol=cancels)
    np.testing.assert_allclose(factors.solve(np.ones((300, 2))), 1 / complement, rtol=1e-15)


@given(st.integers(1, 6), st.integers(0, 2**32 - 1), st.sampled_from([1e-3, 1e-7, 1e-11]))
def test_small_chains_against_rational_arithmetic(S, seed, complement):
    """Transient states, periodic chains and single states included."""
    random = np.random.default_rng(seed)
    P = random.dirichlet(np.ones(S), size=S) * (random.random((S, S)) < 0.5)
    P[np.arange(S), np.arange(1, S + 1) % S] += 0.3  # a way through all states, so that there is one class
    P[: S // 2] = np.eye(S)[S - 1 - np.arange(S // 2)]
    mdp = model(P / P.sum(axis=1, keepdims=True), complement)
    truth = evaluate_exactly(mdp, uniform(mdp))
    ev = evaluate(mdp, uniform(mdp), solver=GainBias())
    assert isinstance(ev.factors, GainBiasFactorisation)
    np.testing.assert_allclose(ev.value, truth.value.astype(float), rtol=1e-12)
    np.testing.assert_allclose(ev.occupancy, truth.occupancy.astype(float), rtol=0, atol=1e-12 / complement)


@pytest.mark.parametrize("complement", [1e-7, 1e-9, 1e-12])
def test_large_sparse_models_near_discount_1_have_narrow_bounds(complement):
    mdp, policy = garnet(2500, complement)
    ev, dense = evaluate(mdp, policy), evaluate(mdp, policy, solver=GTH())
    assert isinstance(ev.factors, GainBiasFactorisation)
    for name, scale in (("value", np.abs(ev.value).max()), ("advantage", np.abs(ev.advantage).max())):
        width = getattr(ev.error, name)
        assert width.max() <= 1e-12 * scale
        off = np.abs(getattr(ev, name) - getattr(dense, name))
        assert (off <= width + getattr(dense.error, name)).all()
    g = policy_gradient(ev)
    assert ev.error.gradient.max() <= 1e-11 * np.abs(g).max()
    assert (np.abs(g - policy_gradient(dense)) <= ev.error.gradient + dense.error.gradient).all()
    assert ev.error.occupancy <= 1e-12 * ev.occupancy.sum()
    assert np.abs(ev.occupancy - dense.occupancy).sum() <= ev.error.occupancy + dense.error.occupancy


def test_the_bounds_hold_the_truth_of_rational_arithmetic():
    mdp, policy = garnet(40, 1e-10)
    ev, truth = evaluate(mdp, policy, solver=GainBias()), evaluate_exactly(mdp, policy)
    assert (abs(exact(ev.value) - truth.value) <= exact(ev.error.value)).all()
    assert abs(exact(ev.occupancy) - truth.occupancy).sum() <= Fraction(float(ev.error.occupancy))
    assert (abs(exact(ev.logit_gradient) - truth.logit_gradient) <= exact(ev.error.gradient)).all()


def blocks(coupling):
    """Two rings of 600 states, each of which is left with probability `coupling`."""
    s = np.arange(600)
    ring = sparse.csr_array((np.ones(600), (s, (s + 1) % 600)), shape=(600, 600)) / 2
    jump = sparse.csr_array(np.full((600, 1), 1 / 2)) @ sparse.csr_array(np.eye(600)[:1])
    P = sparse.block_diag([ring + jump] * 2).tolil()
    if coupling:
        P[5, :] *= 1 - coupling
        P[605, :] *= 1 - coupling
        P[5, 605], P[605, 5] = coupling, coupling
    return sparse.csr_array(P)


def test_recurrent_classes_are_solved_one_by_one():
    mdp = model(blocks(0.0), 1e-10)
    chain = induced_chain(mdp, uniform(mdp))
    assert choose(chain) == Components()
    ev, truth = evaluate(mdp, uniform(mdp)), evaluate(mdp, uniform(mdp), solver=GTH())
    np.testing.assert_allclose(ev.value, truth.value, rtol=1e-13)
    np.testing.assert_allclose(ev.occupancy, truth.occupancy, rtol=1e-12)
    with pytest.raises(SolveError, match="mixes too slowly, or falls into several recurrent classes"):
        GainBias().factorise(chain).solve(chain.reward)


def test_a_chain_that_nearly_falls_apart_is_refused_or_left_to_the_fallback():
    mdp = model(blocks(1e-13), 1e-10)
    chain = induced_chain(mdp, uniform(mdp))
    with pytest.raises(SolveError, match="mixes too slowly"):
        GainBias().factorise(chain).solve(chain.reward)
    drift = sparse.diags_array([np.full(1499, 0.6), np.full(1500, 0.1), np.full(1499, 0.3)], offsets=[-1, 0, 1]).tolil()
    drift[0, 0], drift[-1, -1] = 0.7, 0.4
    drift[700:, :] = drift[799::-1, ::-1]  # towards both ends
    mdp = model(sparse.csr_array(drift), 1e-10)
    ev, truth = evaluate(mdp, uniform(mdp)), evaluate(mdp, uniform(mdp), solver=GTH())
    assert ev.solved_by == "GainBias, then Banded"
    np.testing.assert_allclose(ev.value, truth.value, rtol=1e-12)
    np.testing.assert_allclose(ev.occupancy, truth.occupancy, rtol=0, atol=1e-12 * truth.occupancy.sum())


def test_chains_that_end_are_refused():
    mdp = MDP([[[0.5, 0.5]], [[0.0, 0.0]]], [1.0, 0.0], 0.9, terminal=[False, True])
    with pytest.raises(InvalidArgument, match="takes chains that never end"):
        GainBias().factorise(induced_chain(mdp, uniform(mdp)))


@pytest.mark.parametrize("discount", [0.0, 0.5])
def test_a_discount_far_from_1_is_named_where_it_is_the_cause(discount):
    mdp, policy = garnet(50, 1.0 - discount)
    with pytest.raises(
        SolveError, match=f"is for discounts near 1: at 1 - discount = {1 - discount:g} .*; use another"
    ):
        evaluate(mdp, policy, solver=GainBias())


@pytest.mark.parametrize(("solver", "name"), [(GainBias, "fallback"), (Components, "inner")])
@pytest.mark.parametrize("value", [3, "lu", GTH])
def test_what_is_no_solver_is_refused(solver, name, value):
    with pytest.raises(InvalidArgument, match=rf"{name} must be a solver such as LU\(\) but is"):
        solver(**{name: value})


def test_what_solves_near_discount_1():
    large = garnet(1500, 1e-8)
    assert isinstance(choose(induced_chain(*large)), GainBias)
    assert isinstance(choose(induced_chain(*garnet(1500, 1e-5))), Krylov)
    assert isinstance(choose(induced_chain(*garnet(900, 1e-8))), GTH)


def test_what_overflows_is_an_error_and_no_warning():
    mdp = MDP([[[0.5, 0.5]]] * 2, [1e10, 0.0], 1.0, 0, discount_complement=1e-300)
    with pytest.raises(SolveError, match="overflows float64"):
        evaluate(mdp, uniform(mdp), solver=GainBias())
    factors = GainBias().factorise(
        induced_chain(MDP(mdp.transition, [0.0, 0.0], 1.0, discount_complement=1e-300), uniform(mdp))
    )
    assert not np.isfinite(factors.solve_transposed(np.full(2, 1e10))).all()
