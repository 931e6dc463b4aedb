"""Outcome tables: every outcome that can happen, once and in order; the same on any number of threads."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings

from fastpg import MDP, SoftmaxPolicy, problems
from fastpg.kernels import outcomes as kernels
from fastpg.kernels.alias import fixed_point
from fastpg.kernels.sampling import LANES, lines, step
from fastpg.sampling import tables
from fastpg.sampling.tables import outcome_table
from fastpg.testing.models import as_sparse, dense_reward, dense_transition
from fastpg.testing.strategies import mdp_and_policy


def outcomes_of(mdp, policy):
    """(s, a, k, probability, reward) of all that can happen, enumerated in plain Python; of S the first states."""
    P, R, pi, S = dense_transition(mdp), dense_reward(mdp), policy.probabilities, mdp.n_states
    for s, a, k in np.ndindex(P.shape):
        if pi[s, a] * P[s, a, k] > 0:
            yield s, a, k, pi[s, a] * P[s, a, k], R[s, a, k]
    for k in range(S):
        if mdp.start[k] > 0:
            yield S, 0, k, mdp.start[k], 0.0


@settings(max_examples=200)
@given(mdp_and_policy(sparse=None))
def test_a_table_lists_what_can_happen(case):
    mdp, policy = case
    policy = policy.masked(mdp.available | mdp.terminal[:, None])
    table = outcome_table(mdp, policy)
    segment = np.repeat(np.arange(mdp.n_states + 1), np.diff(table.offset))
    found = zip(segment, table.action, table.successor, table.probability, table.reward, strict=True)
    assert list(found) == list(outcomes_of(mdp, policy))


def model(reward):
    """Six states, the last of them terminal, and three actions; a reward of so many dimensions."""
    rng, ended = np.random.default_rng(0), np.arange(6) == 5
    P = rng.dirichlet(np.full(6, 0.3), size=(6, 3))
    R = rng.standard_normal((6, 3, 6)[:reward])
    R[ended] = 0
    return MDP(P, R, 0.9, terminal=ended)


@pytest.mark.parametrize("reward", [1, 2, 3])
@pytest.mark.parametrize("stored", [False, True])
def test_outcomes_agree_compiled_and_interpreted(monkeypatch, reward, stored):
    mdp = as_sparse(model(reward)) if stored else model(reward)
    policy = SoftmaxPolicy.random(mdp, rng=1)

    def found():
        table = outcome_table(mdp, policy)
        by_slot, (values,) = table.indexed(mdp, table.reward)
        return table.offset, table.action, table.successor, table.probability, table.reward, values, by_slot

    compiled = found()
    for name in ("count_outcomes", "list_outcomes", "by_pair"):
        monkeypatch.setattr(tables, name, getattr(kernels, name).py_func)
    assert all(np.array_equal(x, y) for x, y in zip(compiled, found(), strict=True))
    assert compiled[-1] == (reward == 3)


def test_rewards_by_pair_are_told_from_rewards_by_successor():
    # One outcome of one pair pays otherwise, the last or the first of it.
    mdp = model(2)
    table = outcome_table(mdp, SoftmaxPolicy.random(mdp, rng=1))
    by_slot, (values,) = table.indexed(mdp, table.reward)
    assert not by_slot
    pairs = np.repeat(np.arange(6), np.diff(table.offset[:-1])) * 3 + table.action[: table.offset[6]]
    assert np.array_equal(values[pairs], table.reward[: table.offset[6]])
    _, first, count = np.unique(pairs, return_index=True, return_counts=True)
    for k in np.append(first, first + count - 1)[np.append(count, count) > 1]:
        other = table.reward.copy()
        other[k] += 1
        assert table.indexed(mdp, other)[0]


@pytest.mark.parametrize("reward", [1, 2, 3])
@pytest.mark.parametrize("stored", [False, True])
def test_tables_are_the_same_on_any_number_of_threads(monkeypatch, reward, stored):
    rng, garnet = np.random.default_rng(0), problems.garnet(40, 3, 7, rng=0)
    mdp = MDP(garnet.transition, rng.standard_normal((40, 3, 40)[:reward]), 0.9)
    mdp = as_sparse(mdp) if stored else mdp
    policy = SoftmaxPolicy.random(mdp, rng=1)
    whole = outcome_table(mdp, policy)
    assert whole.probability.size < tables.PIECE
    monkeypatch.setattr(tables, "PIECE", 100)
    for threads in (1, 3):
        pieces = outcome_table(mdp, policy, threads=threads)
        for name in ("offset", "successor", "action", "reward", "probability", "alias"):
            assert np.array_equal(getattr(pieces, name), getattr(whole, name))
        assert np.array_equal(pieces.draws.record, whole.draws.record)


@pytest.mark.parametrize(
    ("h", "e"), [(1.0, -(2.0**-60)), (1.0, 2.0**-60), (1 - 2.0**-53, 2.0**-53), (2.5, -1e-17), (3.0, 0.0)]
)
def test_two_floats_make_a_fixed_point_number(h, e):
    # A borrow from the whole number, a carry into it, and neither.
    whole, part = fixed_point(h, e)
    assert abs(whole + Fraction(int(part), 2**64) - Fraction(h) - Fraction(e)) <= Fraction(1, 2**63)


@pytest.mark.parametrize("rows_of", [lines, lines.py_func])
@pytest.mark.parametrize("lanes", [1, 8, LANES])
def test_lanes_begin_at_cache_lines(rows_of, lanes):
    kept = [rows_of(10, lanes) for _ in range(20)]
    assert {words.shape for words in kept} == {(10, lanes)}
    rows = [row.ctypes.data % 64 for words in kept for row in (words if lanes % 8 == 0 else words[:1])]
    assert not any(rows)
    assert LANES % 8 == 0


def test_slots_are_kept_where_they_are_asked_for():
    mdp = model(3)
    draws = outcome_table(mdp, SoftmaxPolicy.random(mdp, rng=1)).draws
    rng, mask = np.random.default_rng(0), np.uint64(2**draws.bits - 1)
    words = rng.integers(0, 2**64, size=200, dtype=np.uint64)
    states = rng.integers(0, 5, size=200).astype(np.uint64)
    codes, slots = np.zeros((2, 200), np.uint32), np.zeros(200, np.uint32)
    for out, kept in zip(codes, (slots, np.empty(0, np.uint32)), strict=True):
        step(words.copy(), states.copy(), draws.segment, draws.record, mask, out, kept)
    assert np.array_equal(*codes)
    assert len(set(slots.tolist())) > 20
