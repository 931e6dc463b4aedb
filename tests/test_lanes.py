"""Lanes: a trajectory is the same however many walk beside it, obeys the law, and is weighed as estimators say."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from fastpg import (
    GAE,
    MDP,
    InvalidArgument,
    RewardToGo,
    SoftmaxPolicy,
    TemporalDifference,
    TotalReturn,
    estimate_gradient,
    evaluate,
    problems,
    rollout,
    sample_returns,
)
from fastpg.kernels import sampling as kernels
from fastpg.kernels.alias import alias_tables
from fastpg.sampling.tables import FOREVER, outcome_table, state_bits, stopping

# The whole suite raises a false alarm with probability 1e-6 for each chance it is given here; seeds are fixed.
ALPHA = 1e-6

LAKE = problems.frozen_lake("4x4")
RANDOM = SoftmaxPolicy.random(LAKE, rng=1)
KEY = np.array([2**63 + 5, 77], dtype=np.uint64)


def walked(law, n, lanes, rows, recent, walk_some=kernels.walk_some):
    """The codes of trajectories 0 to n-1, each an array with its first state before all else."""
    log, begin, column, length = np.empty((1, rows, lanes), np.uint32), *np.empty((3, 50), np.int64)
    stop, paths = np.zeros(1, bool), []
    while len(paths) < n:
        log, count, _ = walk_some(KEY, len(paths), n, law, stop, recent, log, begin, column, length)
        paths += [log[0, begin[i] : begin[i] + length[i] + 1, column[i]].copy() for i in range(count)]
    return paths


@pytest.mark.parametrize("horizon", [1, 17, "geometric"])
@pytest.mark.parametrize("model", [LAKE, problems.random_mdp(7, 3, rng=0)])
def test_lanes_rows_and_batches_change_no_trajectory(model, horizon):
    policy = SoftmaxPolicy.random(model, rng=1)
    law = stopping(model, policy, horizon).law(outcome_table(model, policy))
    alone = walked(law, 200, 1, 5000, 0)
    assert horizon == "geometric" or max(map(len, alone)) == horizon + 1
    for lanes, rows, recent in ((2, 10_000, 9), (3, 2, 1), (64, 1, 5000), (64, 2000, 300), (101, 1, 0)):
        other = walked(law, 200, lanes, rows, recent)
        assert all(np.array_equal(x, y) for x, y in zip(alone, other, strict=True))


def test_the_walk_agrees_compiled_and_interpreted(monkeypatch):
    law = stopping(LAKE, RANDOM, 17).law(outcome_table(LAKE, RANDOM))
    compiled = walked(law, 30, 5, 40, 20)
    for name in ("walk", "step"):
        monkeypatch.setattr(kernels, name, getattr(kernels, name).py_func)
    with np.errstate(over="ignore"):
        interpreted = walked(law, 30, 5, 40, 20, kernels.walk_some.py_func)
    assert all(np.array_equal(x, y) for x, y in zip(compiled, interpreted, strict=True))


def test_alias_tables_agree_compiled_and_interpreted():
    rng = np.random.default_rng(0)
    weight, offset = rng.dirichlet(np.full(40, 0.1)), np.array([0, 10, 10, 11, 40])
    successor, action, terminal = rng.integers(0, 4, 40), rng.integers(0, 3, 40), np.arange(4) == 2
    compiled, interpreted = ((np.zeros(40, np.int64), np.zeros((40, 2), np.uint64)) for _ in range(2))
    alias_tables(weight, offset, successor, action, terminal, 2, *compiled)
    with np.errstate(over="ignore"):
        alias_tables.py_func(weight, offset, successor, action, terminal, 2, *interpreted)
    assert all(np.array_equal(x, y) for x, y in zip(compiled, interpreted, strict=True))


def words_for(threshold, alias):
    """How many of the 2^64 words draw each outcome of a state; `alias` counts from its first outcome."""
    n = len(threshold)
    count = [0] * n
    for cell in range(n):
        # The words x of a cell have cell 2^64 <= x n < (cell + 1) 2^64, its own part x n < cell 2^64 + threshold.
        first, split, last = (-(-(cell * 2**64 + end) // n) for end in (0, int(threshold[cell]), 2**64))
        count[cell] += split - first
        count[alias[cell]] += last - split
    return count


def total_variation(words, weight):
    """Between the law of counted words and exact weights."""
    total = sum(map(Fraction, weight))
    return sum(abs(Fraction(x, 2**64) - Fraction(w) / total) for x, w in zip(words, weight, strict=True)) / 2


def test_words_draw_the_law_of_a_state_to_64_bits():
    rng = np.random.default_rng(0)
    transition = rng.dirichlet(np.full(50, 0.1), size=(50, 3))
    transition[0, 0] = np.eye(50)[3]
    mdp = MDP(transition, np.zeros(50), 0.9)
    table = outcome_table(mdp, SoftmaxPolicy(20 * rng.standard_normal((50, 3))))
    wrong = 0
    for first, last in pairwise(table.offset):
        weight, threshold = table.probability[first:last], table.draws.record[first:last, 0]
        alias = table.alias[first:last] - first
        bound = Fraction(int(last - first) + 4, 2**64)
        assert total_variation(words_for(threshold, alias), weight) <= bound
        rounded = threshold & ~np.uint64(2**11 - 1)  # to 53 bits
        wrong += total_variation(words_for(rounded, alias), weight) > bound
    assert wrong > 25


@pytest.mark.parametrize("n", [1, 2, 3, 6, 400])
def test_a_step_draws_as_the_words_are_counted(n):
    # The first and the last word of each part of each cell.
    rng = np.random.default_rng(n)
    mdp = MDP(rng.dirichlet(np.ones(n), size=(n, 1)), np.zeros(n), 0.9, start=0)
    table = outcome_table(mdp, SoftmaxPolicy.uniform(mdp))
    threshold, alias = table.draws.record[:n, 0], table.alias[:n]
    edges, expected = [], []
    for cell in range(n):
        first, split, last = (-(-(cell * 2**64 + end) // n) for end in (0, int(threshold[cell]), 2**64))
        for begin, end, k in ((first, split, cell), (split, last, alias[cell])):
            if begin < end:
                edges += [begin, end - 1]
                expected += [k, k]
    word, here, codes, slots = (np.zeros(len(edges), t) for t in (np.uint64, np.uint64, np.uint32, np.uint32))
    word[:] = edges
    mask = np.uint64(2**table.draws.bits - 1)
    assert not kernels.step(word, here, table.draws.segment, table.draws.record, mask, codes, slots)
    assert np.array_equal(codes, np.array(expected))
    assert np.array_equal(here, codes)
    assert np.array_equal(np.stack((np.arange(n), alias), axis=1).ravel()[slots], codes)


def test_every_step_of_every_lane_has_the_law_of_its_state():
    # Given the visits n_s of each state its n_s outcomes are independent draws, so chi-squares add up over states.
    # Moving mass x between outcomes p and q of state s gives a noncentrality of n_s x^2 (1/p + 1/q); with 28 degrees
    # of freedom 120 is found with probability .999 at ALPHA, and the mutant's 0.6 % has more than that.
    rng = np.random.default_rng(0)
    mdp = MDP(rng.dirichlet(np.ones(4), size=(4, 2)), np.zeros(4), 0.9)
    policy = SoftmaxPolicy.random(mdp, rng=1)
    paths = rollout(mdp, policy, n=10_007, horizon=150, rng=2)
    cell = np.ravel_multi_index((paths.states[:, :-1], paths.actions, paths.states[:, 1:]), (4, 2, 4))
    count = np.bincount(cell.ravel(), minlength=32).reshape(4, 8)
    law = (policy.probabilities[:, :, None] * mdp.transition).reshape(4, 8)

    def p_value(law):
        expected = count.sum(axis=1, keepdims=True) * law
        assert expected.min() > 25
        return stats.chi2.sf(((count - expected) ** 2 / expected).sum(), 4 * 7)

    assert p_value(law) > ALPHA
    wrong = law.copy()
    wrong[1, np.argsort(law[1])[-2:]] += np.array([-1, 1]) * 0.006
    assert count[1].sum() * 0.006**2 * (1 / np.sort(law[1])[-2:]).sum() > 120
    assert p_value(wrong) < ALPHA


@pytest.mark.parametrize("horizon", [25, "geometric"])
@pytest.mark.parametrize("model", [LAKE, problems.cliff_walking(slippery=True)])
def test_returns_are_those_of_the_stored_trajectories(model, horizon):
    policy = SoftmaxPolicy.random(model, rng=1)
    paths = rollout(model, policy, n=5_000, horizon=horizon, rng=3)
    discount = 1.0 if horizon == "geometric" else model.discount
    expected = paths.rewards @ discount ** np.arange(paths.rewards.shape[1])
    for threads in (1, 2):
        found = sample_returns(model, policy, n=5_000, horizon=horizon, rng=3, threads=threads)
        assert np.allclose(found, expected, rtol=1e-13, atol=1e-12)
        assert not found.flags.writeable
    assert abs(expected).max() > 0


def to_go(r, rho, discount, trace, last, b):
    """discount^t rho_0..rho_t (sum_u (discount trace)^(u-t) rho_{t+1}..rho_u r_u - b_t), last an r of step L."""
    r = np.append(r, last)
    return [
        discount**t
        * rho[: t + 1].prod()
        * (sum((discount * trace) ** (u - t) * rho[t + 1 : u + 1].prod() * r[u] for u in range(t, r.size)) - b[t])
        for t in range(rho.size)
    ]


def three_dimensional(seed, terminal):
    """A model whose rewards depend on the successor, with a terminal state or none."""
    rng = np.random.default_rng(seed)
    ended = np.arange(5) == terminal
    reward = np.where(ended[:, None, None], 0.0, rng.standard_normal((5, 3, 5)))
    return MDP(rng.dirichlet(np.ones(5), size=(5, 3)), reward, 0.9, terminal=ended)


def weights_of(kind, r, delta, rho, discount, last, b):
    """w_t of each step of one trajectory, by the estimators' docstrings."""
    if kind == "total":
        return rho.prod() * (r @ discount ** np.arange(r.size) - b)
    worth, trace = {"to go": (r, 1.0), "bootstrap": (r, 1.0), "gae": (delta, 0.7), "difference": (delta, 0.0)}[kind]
    return to_go(worth, rho, discount, trace, last if kind == "bootstrap" else 0.0, b)


@pytest.mark.parametrize("model", [LAKE, three_dimensional(0, 4), three_dimensional(1, -1)])
@pytest.mark.parametrize("off_policy", [False, True])
@pytest.mark.parametrize("kind", ["total", "to go", "bootstrap", "gae", "difference"])
def test_each_trajectory_is_weighed_as_the_estimator_says(model, off_policy, kind):
    policy, n, T = SoftmaxPolicy.random(model, rng=1), 200, 7
    behaviour = SoftmaxPolicy(0.5 * policy.logits) if off_policy else None
    sampled, gamma, terminal = behaviour or policy, model.discount, model.terminal
    v = evaluate(model, sampled).value + 1.0
    zero_v, b = np.where(terminal, 0.0, v), v**2
    estimator = {
        "total": TotalReturn(b, behaviour=behaviour),
        "to go": RewardToGo(b, behaviour=behaviour),
        "bootstrap": RewardToGo(b, bootstrap=v, behaviour=behaviour),
        "gae": GAE(0.7, v, b, behaviour=behaviour),
        "difference": TemporalDifference(v, baseline=b, behaviour=behaviour),
    }[kind]
    paths = rollout(model, sampled, n=n, horizon=T, rng=4)
    expected = np.zeros((n, model.n_states, model.n_actions))
    for i, L in enumerate(paths.lengths):
        s, a, r = paths.states[i, : L + 1], paths.actions[i, :L], paths.rewards[i, :L]
        rho = policy.probabilities[s[:-1], a] / sampled.probabilities[s[:-1], a]
        delta = r + gamma * zero_v[s[1:]] - v[s[:-1]]
        last = zero_v[s[-1]] if T == L else 0.0
        weight = weights_of(kind, r, delta, rho, gamma, last, b[s[:-1]])
        for t in range(L):
            expected[i, s[t]] += weight[t] * (np.eye(model.n_actions)[a[t]] - policy.probabilities[s[t]])
    estimate = estimate_gradient(model, policy, estimator, n=n, horizon=T, rng=4)
    assert estimate.steps == paths.lengths.sum()
    # With n <= 4096 a block is one trajectory.
    assert np.allclose(estimate.blocks, expected.reshape(n, -1), rtol=1e-12, atol=1e-12 * abs(expected).max())


def test_trajectories_longer_than_a_log_are_whole():
    # One state, reward 1: the return is the length, which the first word of each stream says. Their mean is 1e5.
    mdp = MDP(np.ones((1, 1, 1)), [1.0], 1 - 1e-5)
    policy, rng = SoftmaxPolicy.uniform(mdp), np.random.default_rng(0)
    state = np.empty((4, 70), np.uint64)
    kernels.streams(rng.integers(0, 2**64, size=2, dtype=np.uint64), 0, *state)
    word = np.empty(70, np.uint64)
    kernels.xoshiro_lanes(*state, word)
    powers = stopping(mdp, policy, "geometric").powers
    expected = [kernels.geometric_length(w, powers) for w in word]
    assert max(expected) > kernels.ROWS
    assert np.array_equal(sample_returns(mdp, policy, n=70, horizon="geometric", rng=0), expected)


def test_a_stopped_walk_gives_nothing():
    law, reward = stopping(LAKE, RANDOM, 9).law(outcome_table(LAKE, RANDOM)), np.ones(64)
    for stopped in (True, False):
        out = np.full(5, -1.0)
        kernels.returns(KEY, 0, law, 4, False, reward, np.ones(1), np.array([stopped]), out)
        assert (out == -1).all() == stopped


def test_the_longest_horizon_is_one_without_end():
    paths = sample_returns(LAKE, RANDOM, n=100, horizon=10**30, rng=0)
    assert np.array_equal(paths, sample_returns(LAKE, RANDOM, n=100, horizon=FOREVER, rng=0))


def test_what_does_not_fit_a_code_or_a_slot_is_refused():
    assert state_bits(1, 1, 1) == 0
    assert state_bits(2**20, 2**11, 2**31) == 20
    with pytest.raises(InvalidArgument, match="the sampler needs 21 bits for 1048577 states and 11 for 2048 actions"):
        state_bits(2**20 + 1, 2**11, 1)
    with pytest.raises(InvalidArgument, match=r"at most 2147483648 outcomes \(s, a, s'\) but there are 2147483649"):
        state_bits(2, 2, 2**31 + 1)
