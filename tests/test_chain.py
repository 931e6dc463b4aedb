"""The induced chain, and at discount 1 which states never end."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from fastpg import (
    MDP,
    DirectPolicy,
    SoftmaxPolicy,
    SolveError,
    evaluate,
    natural_gradient,
    parallel,
    policy_gradient,
    problems,
)
from fastpg.chain import induced_chain, next_value, with_state_value
from fastpg.testing.assertions import assert_within
from fastpg.testing.models import as_sparse, dense_reward, dense_transition
from fastpg.testing.strategies import direct_policies, mdp_and_policy, mdps, softmax_policies

EPS = np.finfo(float).eps


def dense(P):
    """P_pi as a dense array."""
    return P.toarray() if sparse.issparse(P) else P


@given(mdp_and_policy(sparse=None))
def test_transition_and_reward_are_averages_over_actions(case):
    mdp, policy = case
    chain = induced_chain(mdp, policy)
    P, R, pi = dense_transition(mdp), dense_reward(mdp), policy.probabilities
    assert chain.is_sparse == mdp.is_sparse
    assert_within(dense(chain.transition), np.einsum("sa,sak->sk", pi, P), 8 * EPS * mdp.n_actions)
    size = np.abs(R).max() * 8 * EPS * mdp.n_actions * mdp.n_states
    assert_within(chain.reward, np.einsum("sa,sak,sak->s", pi, P, R), size)
    assert not dense(chain.transition)[mdp.terminal].any()
    assert not chain.undefined.any()


@pytest.mark.parametrize("sparse_rows", [False, True])
def test_all_that_threads_share_is_what_one_would_make(sparse_rows, monkeypatch):
    """In pieces of a few rows, which end anywhere, as for large models."""
    mdp = problems.garnet(37, 3, 5, rng=0, sparse=sparse_rows)
    policy = SoftmaxPolicy.random(mdp, rng=1)
    monkeypatch.setattr("fastpg.chain.ONE_THREAD", 0)
    found = []
    for worth in (10**9, 1):
        monkeypatch.setattr(parallel, "WORTH", worth)
        monkeypatch.setattr(parallel, "PIECE", 10**9 if worth > 1 else 60)
        made = SoftmaxPolicy(policy.logits)
        ev = evaluate(mdp, made)
        found.append(
            (made.probabilities, dense(ev.chain.transition), ev.action_value, ev.advantage, policy_gradient(ev))
        )
    P = dense_transition(mdp)
    assert_within(found[1][1], np.einsum("sa,sak->sk", policy.probabilities, P), 1e-15)
    for one, several in zip(*found, strict=True):
        np.testing.assert_array_equal(one, several)


@given(mdps(sparse=None))
def test_next_value_averages_over_the_next_state_with_axes_kept(mdp):
    P = dense_transition(mdp)
    V = np.arange(3.0 * mdp.n_states).reshape(mdp.n_states, 3)
    bound = 4 * EPS * mdp.n_states * 15
    assert_within(next_value(mdp, V), np.einsum("sak,km->sam", P, V), bound)
    assert_within(next_value(mdp, V[:, 0]), np.einsum("sak,k->sa", P, V[:, 0]), bound)
    filled = with_state_value(mdp, np.full(mdp.available.shape, -1.0), V[:, 0])
    missing = ~mdp.available & ~mdp.terminal[:, None]
    assert_within(filled, np.where(missing, V[:, :1], -1.0), 0)


def reach(P):
    """reach(P)[i, j]: whether a path of zero or more steps leads from i to j."""
    return np.linalg.matrix_power((P > 0) + np.eye(len(P)), len(P)) > 0


@given(st.data())
def test_at_discount_1_the_error_names_a_recurrent_class_that_start_reaches(data):
    mdp = data.draw(mdps(discount=0.5, sparse=None)).discounted(1)
    policy = data.draw(softmax_policies(mdp, extreme=False) | direct_policies(mdp))
    P = np.einsum("sa,sak->sk", policy.probabilities, dense_transition(mdp))
    leads = reach(P)
    trapped = ~leads[:, mdp.terminal].any(axis=1)
    endless = leads[:, trapped].any(axis=1)
    from_start = leads[mdp.start > 0].any(axis=0)
    if (endless & from_start).any():
        with pytest.raises(SolveError, match="at discount 1 the process must end for certain") as caught:
            evaluate(mdp, policy)
        state, size = map(int, re.search(r"state (\d+) belongs to .* class of (\d+) state", str(caught.value)).groups())
        assert from_start[state]
        assert not mdp.terminal[state]
        assert leads[leads[state], state].all()
        assert size == np.count_nonzero(leads[state])
    else:
        assert (induced_chain(mdp, policy).undefined == endless).all()


# State 0 ends, or by its second action enters the trap 1; state 2 may do either; state 3 has ended.
TRAP = np.zeros((4, 2, 4))
TRAP[0, 0, 3] = TRAP[0, 1, 1] = TRAP[1, :, 1] = TRAP[2, 0, 1] = TRAP[2, 1, 3] = 1
STAYS = MDP(TRAP, [[2.0, 5.0], [1.0, 1.0], [7.0, 9.0], [0.0, 0.0]], 1, start=0, terminal=[0, 0, 0, 1])


@pytest.mark.parametrize("mdp", [STAYS, as_sparse(STAYS)], ids=["dense", "sparse"])
@pytest.mark.parametrize(
    "policy", [SoftmaxPolicy([[0.0, -np.inf], [0, 0], [0, 0], [0, 0]]), DirectPolicy([[1, 0], *3 * [[0.5, 0.5]]])]
)
def test_an_unreachable_trap_has_no_value_and_no_gradient(mdp, policy):
    ev = evaluate(mdp, policy)
    nan = np.nan
    assert_within(ev.value, [2, nan, nan, 0], 0)
    assert_within(ev.action_value, [[2, nan], [nan, nan], [nan, 9], [0, 0]], 0)
    assert_within(ev.occupancy, [1, 0, 0, 0], 0)
    assert_within(ev.visitation, [0, 0, 0, 1], 0)
    assert ev.expected_return == 2
    assert_within(ev.logit_gradient, np.zeros((4, 2)), 0)
    assert_within(natural_gradient(ev), np.zeros((4, 2)), 0)


def test_the_gradient_next_to_an_unreachable_trap():
    P = np.zeros((3, 3, 3))
    P[0, :2, 2] = P[0, 2, 1] = P[1, :, 1] = 1
    mdp = MDP(P, [[1.0, 4.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]], 1, start=0, terminal=[0, 0, 1])
    ev = evaluate(mdp, SoftmaxPolicy([[0.0, 0.0, -np.inf], [0, 0, 0], [0, 0, 0]]))
    assert_within(policy_gradient(ev), [[-0.75, 0.75, 0], [0, 0, 0], [0, 0, 0]], 0)
    assert_within(natural_gradient(ev), [[-1.5, 1.5, 0], [0, 0, 0], [0, 0, 0]], 0)


@pytest.mark.parametrize("mdp", [STAYS, as_sparse(STAYS)], ids=["dense", "sparse"])
def test_a_policy_that_makes_ending_uncertain_is_refused(mdp):
    message = "state 1 belongs to a recurrent class of 1 state that it never leaves; use a discount below 1"
    with pytest.raises(SolveError, match=message):
        evaluate(mdp, SoftmaxPolicy.uniform(mdp))
    assert np.isfinite(evaluate(mdp, SoftmaxPolicy.uniform(mdp), horizon=9).expected_return)
    assert np.isfinite(evaluate(mdp.discounted(0.999), SoftmaxPolicy.uniform(mdp)).expected_return)


def test_a_model_without_terminal_states_is_refused_at_discount_1():
    ring = MDP(np.eye(3)[[1, 2, 0]][:, None, :], [1.0, 1.0, 1.0], 1)
    with pytest.raises(SolveError, match="state 0 belongs to a recurrent class of 3 states") as caught:
        evaluate(ring, SoftmaxPolicy.uniform(ring))
    assert isinstance(caught.value, ArithmeticError)


def test_the_error_names_neither_transient_nor_terminal_states():
    P = np.zeros((4, 1, 4))
    P[0, 0, [1, 2]] = 0.5  # transient, as is 2
    P[2, 0, 3] = P[3, 0, 3] = 1
    mdp = MDP(P, [1.0, 0.0, 1.0, 1.0], 1, start=0, terminal=[0, 1, 0, 0])
    with pytest.raises(SolveError, match="state 3 belongs to a recurrent class of 1 state"):
        evaluate(mdp, SoftmaxPolicy.uniform(mdp))


def test_probabilities_that_underflow_make_ending_impossible():
    mdp = MDP([[[0, 1], [1, 0]], [[0, 0], [0, 0]]], [1.0, 0.0], 1, terminal=[False, True])
    with pytest.raises(SolveError, match="state 0 belongs to a recurrent class of 1 state"):
        evaluate(mdp, SoftmaxPolicy([[-800.0, 0.0], [0.0, 0.0]]))


def test_a_long_line_ends_at_its_end():
    S = 100_000
    states = np.arange(S - 1)
    P = sparse.csr_array((np.ones(S - 1), (states, states + 1)), shape=(S, S))
    line = MDP(P, np.append(-np.ones(S - 1), 0.0), 1.0, start=0, terminal=np.arange(S) == S - 1)
    assert evaluate(line, SoftmaxPolicy.uniform(line)).expected_return == 1 - S
