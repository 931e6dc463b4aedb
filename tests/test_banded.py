"""Elimination within a band from both ends: every shape of it against rational arithmetic, whatever the threads."""

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from fastpg import MDP, SoftmaxPolicy, SolveError, evaluate, parallel, policy_gradient, uniform
from fastpg.chain import induced_chain
from fastpg.solvers import GTH, Banded, Near
from fastpg.testing.oracles import exact, exact_discount, rational_solve

EPS = np.finfo(float).eps


@st.composite
def in_a_band(draw, largest=14):
    """A model with one action whose moves go at most so far back and ahead; a few states have ended."""
    S = draw(st.integers(1, largest))
    back, ahead = draw(st.integers(0, 5)), draw(st.integers(0, 5))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    move = np.subtract.outer(np.arange(S), np.arange(S))
    weight = random.random((S, S)) * (move <= back) * (move >= -ahead)
    weight = weight * random.choice([1.0, 1e-9, 0.0], p=[0.6, 0.2, 0.2], size=(S, S))
    weight[random.random(S) < 0.1] = 0.0
    total = weight.sum(axis=1)
    P = sparse.csr_array(weight / np.where(total > 0, total, 1.0)[:, None])
    P.eliminate_zeros()
    ended = np.diff(P.indptr) == 0
    complement = draw(st.sampled_from([1e-300, 1e-17, 1e-9, 0.1, 1.0]))
    options = {"terminal": ended, "discount_complement": complement, "start": 0}
    return MDP(P, np.where(ended, 0.0, 1.0), 1.0 - complement, **options)


def rational_system(mdp):
    """I - discount P_pi of a model with one action, its rows divided by their sums."""
    P = exact(mdp.transition.toarray())
    total = P.sum(axis=1)
    total[total == 0] += 1
    return exact(np.eye(mdp.n_states)) - exact_discount(mdp) * P / total[:, None]


@given(in_a_band())
def test_each_entry_has_a_small_relative_error(mdp):
    chain, system = induced_chain(mdp, uniform(mdp)), rational_system(mdp)
    factors = Banded().factorise(chain)
    for b in np.eye(mdp.n_states)[[0, mdp.n_states // 2]]:
        for x, matrix in ((factors.solve(b), system), (factors.solve_transposed(b), system.T)):
            expected = rational_solve(matrix, exact(b)).astype(float)
            np.testing.assert_allclose(x, expected, rtol=16 * mdp.n_states * EPS, atol=0)


@given(in_a_band(), st.integers(1, 4))
def test_near_ends_with_longer_moves(mdp, local):
    S = mdp.n_states
    move = np.subtract.outer(np.arange(S), np.arange(S))
    system = rational_system(mdp) * (abs(move) <= local)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastpg.successors.LOCAL", local)
        mdp.__dict__.pop("successors", None)
        factors = Near().factorise(induced_chain(mdp, uniform(mdp)))
    assert factors.band.reach <= local
    b = np.arange(S) + 1.0
    for x, matrix in ((factors.solve(b), system), (factors.solve_transposed(b), system.T)):
        expected = rational_solve(matrix, exact(b)).astype(float)
        np.testing.assert_allclose(x, expected, rtol=16 * S * EPS, atol=0)


def local_model(S, reach, seed=0):
    random = np.random.default_rng(seed)
    to = np.clip(np.arange(S)[:, None, None] + random.integers(-reach, reach + 1, (S, 3, 4)), 0, S - 1)
    P = sparse.csr_array((random.dirichlet(np.ones(4), (S, 3)).ravel(), to.ravel(), np.arange(0, 12 * S + 1, 4)))
    return MDP(sparse.csr_array(P, shape=(3 * S, S)), random.random((S, 3)), 0.999)


@pytest.mark.parametrize(("S", "reach"), [(300, 1), (300, 3), (301, 4), (302, 9), (800, 20), (35, 20), (21, 20)])
def test_wide_and_narrow_bands_agree_with_gth(S, reach):
    mdp = local_model(S, reach)
    policy = SoftmaxPolicy.random(mdp, rng=1)
    ev, truth = evaluate(mdp, policy, solver=Banded()), evaluate(mdp, policy, solver=GTH())
    np.testing.assert_allclose(ev.value, truth.value, rtol=S * EPS)
    np.testing.assert_allclose(ev.occupancy, truth.occupancy, rtol=S * EPS)


def test_nothing_depends_on_the_number_of_threads(monkeypatch):
    mdp = local_model(40_000, 20)
    logits, found = SoftmaxPolicy.random(mdp, rng=1).logits, []
    for threads, worth in ((1, 1), (2, 1), (3, 1), (1, 10**9)):
        monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", threads)
        monkeypatch.setattr(parallel, "WORTH", worth)
        mdp.__dict__.pop("successors", None)
        ev = evaluate(mdp, SoftmaxPolicy(logits), solver=Banded())
        found.append((ev.chain.transition.data, ev.value, ev.occupancy, policy_gradient(ev)))
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, same)


@given(st.integers(0, 2**32 - 1))
def test_policies_share_where_states_lead(seed):
    random = np.random.default_rng(seed)
    S, A = random.integers(1, 9, 2)
    P = random.random((S, A, S)) * (random.random((S, A, S)) < 0.4) + 1e-3 * np.eye(S)[:, None]
    P /= P.sum(axis=-1, keepdims=True)
    available = random.random((S, A)) < 0.8
    available[:, 0] = True
    mdp = MDP(sparse.csr_array(P.reshape(S * A, S)), np.zeros((S, A)), 0.9, available=available)
    everywhere = SoftmaxPolicy.random(mdp, rng=seed)
    left_out = (random.random((S, A)) < 0.5) & (np.arange(A) > 0)
    few = SoftmaxPolicy(np.where(left_out, -np.inf, everywhere.logits))
    for policy in (everywhere, few, SoftmaxPolicy.random(mdp, rng=1)):
        chain, expected = induced_chain(mdp, policy), np.einsum("sak,sa->sk", P, policy.probabilities)
        assert (chain.successors is mdp.successors) == (policy is not few or not (left_out & available).any())
        np.testing.assert_allclose(chain.transition.toarray(), expected, rtol=1e-14)
        np.testing.assert_array_equal(chain.transition.toarray() > 0, expected > 0)
        assert chain.transition.nnz == np.count_nonzero(expected)


@pytest.mark.parametrize(("rare", "found"), [(1e-308, True), (5e-309, False), (5e-324, False)])
def test_pivots_without_an_inverse_are_refused(rare, found):
    rows = sparse.csr_array([[1.0, rare, 0.0], [0.0, 1.0, rare], [0.0, 0.0, 0.0]])
    mdp = MDP(rows, [rare, rare, 0.0], 1.0, 0, terminal=[False, False, True])
    if found:
        np.testing.assert_allclose(evaluate(mdp, uniform(mdp), solver=Banded()).value, [2.0, 1.0, 0.0], rtol=1e-15)
    else:
        with pytest.raises(SolveError, match="singular to float64"):
            evaluate(mdp, uniform(mdp), solver=Banded())
