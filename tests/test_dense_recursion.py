"""Exact moments of every estimator that weighs scores, by one dense recursion over generated models.

What a trajectory from s says is linear in what its rest says from s': Y_s = B Y_s', B a matrix of the step, so that

    E Y_s = E[B E Y_s'],   Cov Y_s = Cov(B E Y_s') + E[B Cov Y_s' B^T].

Y holds 1 or the product W of all ratios, the (weighed) return G, and (S, A) vectors: sums of scores Z, of scores times
the return, of scores times baselines, or of scores times what follows them. The matrices are written down from the
definitions; nothing of the library's own recursions enters.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fastpg import (
    GAE,
    MDP,
    InfiniteVariance,
    PlugIn,
    RewardToGo,
    SoftmaxPolicy,
    TemporalDifference,
    TotalReturn,
    estimator_moments,
    evaluate,
    optimal_baseline,
)
from fastpg.sampling.faults import (
    ActionBaseline,
    MissingDiscount,
    RewardBeforeAction,
    TruncatedWithoutBootstrap,
    WrongRatio,
)
from fastpg.testing.estimates import joint
from fastpg.testing.models import dense_reward, dense_transition
from fastpg.testing.strategies import mdps, softmax_policies

# Longer than anything is remembered: 0.9^500 is 1e-23.
LONG = 500
ESTIMATORS = ("total return", "reward to go", "bootstrap", "plug-in", "GAE", "difference", "visitation")
FAULTS = ("discount", "before action", "action baseline", "truncated", "truncated GAE", "no ratio", "inverse ratio")


def made(name, mdp, rng, b, **off):
    """An estimator with random tables and baseline b."""
    S, A = mdp.n_states, mdp.n_actions
    v, q = rng.normal(size=S), rng.normal(size=(S, A))
    return {
        "total return": lambda: TotalReturn(b, **off),
        "reward to go": lambda: RewardToGo(b, **off),
        "bootstrap": lambda: RewardToGo(b, bootstrap=v, **off),
        "plug-in": lambda: PlugIn(q, b, **off),
        "GAE": lambda: GAE(0.7, v, b, **off),
        "difference": lambda: TemporalDifference(v, baseline=b, **off),
        "visitation": lambda: TemporalDifference(v, along="visitation", baseline=b, **off),
        "discount": lambda: MissingDiscount(GAE(0.7, v, b, **off)),
        "before action": lambda: RewardBeforeAction(RewardToGo(b, **off)),
        "action baseline": lambda: ActionBaseline(RewardToGo(b, **off), q),
        "truncated": lambda: TruncatedWithoutBootstrap(RewardToGo(b, bootstrap=v, **off)),
        "truncated GAE": lambda: TruncatedWithoutBootstrap(GAE(0.7, v, b, **off)),
        "no ratio": lambda: WrongRatio(RewardToGo(b, **off)),
        "inverse ratio": lambda: WrongRatio(TotalReturn(b, **off), power=-1),
    }[name]()


def needs(condition):
    """Another example where it is not met."""
    if not condition:
        assume(False)


def step_matrix(x, fault, mdp, geometric, s, a, k, score):
    """B of the step (s, a, k) without its ratio, and with 1 in the corner."""
    n, v = score.size, np.where(mdp.terminal, 0.0, getattr(x, "value", 0.0))
    discount = 1.0 if geometric else mdp.discount
    b = np.broadcast_to(0.0 if x.baseline is None else x.baseline, mdp.n_states)[s]
    r = dense_reward(mdp)[s, a, k]
    if isinstance(x, TotalReturn):
        # (1, G, Z, sum of scores times G, sum of scores times b).
        B, Z, GZ, bZ = np.zeros((2 + 3 * n,) * 2), 2 + np.arange(n), 2 + n + np.arange(n), 2 + 2 * n + np.arange(n)
        B[0, 0], B[1, 0], B[1, 1] = 1.0, r, discount
        B[Z, 0], B[Z, Z] = score, 1.0
        B[GZ, 0], B[GZ, 1], B[GZ, Z], B[GZ, GZ] = r * score, discount * score, r, discount
        B[bZ, 0], B[bZ, bZ] = b * score, 1.0
        return B
    # (1, H, X).
    if isinstance(x, RewardToGo):
        credit, signal, trace = r, r - b, 1.0
    elif isinstance(x, PlugIn):
        credit, signal, trace = 0.0, x.action_value[s, a] - b, 0.0
    else:
        credit = r + mdp.discount * v[k] - v[s]
        signal, trace = credit - b, x.trace if isinstance(x, GAE) else 0.0
    signal -= r if isinstance(fault, RewardBeforeAction) else 0.0
    signal -= fault.baseline[s, a] if isinstance(fault, ActionBaseline) else 0.0
    B, X = np.zeros((2 + n,) * 2), 2 + np.arange(n)
    B[0, 0], B[1, 0], B[1, 1] = 1.0, credit, discount * trace
    B[X, 0], B[X, 1] = signal * score, discount * trace * score
    B[X, X] = 1.0 if isinstance(fault, MissingDiscount) else discount
    return B


def recursion(estimator, mdp, policy, horizon):
    """Mean and covariance of the estimate, and the size of what they are differences of."""
    fault, x = (estimator, estimator.estimator) if hasattr(estimator, "estimator") else (None, estimator)
    S, A = mdp.n_states, mdp.n_actions
    P, pi, start, scale = dense_transition(mdp), policy.probabilities, mdp.start, 1.0
    beta = pi if x.behaviour is None else x.behaviour.probabilities
    geometric, power = horizon == "geometric", fault.power if isinstance(fault, WrongRatio) else 1
    if getattr(x, "along", "path") == "visitation":
        d = evaluate(mdp, policy).occupancy
        needs(d.any())
        start, scale, horizon, geometric = d / d.sum(), d.sum(), 1, False
    steps = horizon if isinstance(horizon, int) else LONG
    survival = mdp.discount if geometric else 1.0
    needs(not mdp.terminal.all())
    points = []
    for s, a, k in np.argwhere((P > 0) & (beta > 0)[:, :, None] & ~mdp.terminal[:, None, None]):
        score = np.zeros((S, A))
        score[s] = (np.arange(A) == a) - pi[s]
        ratio = (pi[s, a] / beta[s, a]) ** power
        B = ratio * step_matrix(x, fault, mdp, geometric, s, a, k, score.ravel())
        if not joint(x):
            B[0, 0] = 1.0
        points += [(s, k, B, survival * beta[s, a] * P[s, a, k]), (s, S, B, (1 - survival) * beta[s, a] * P[s, a, k])]
    state, following, B, p = (np.array(column) for column in zip(*points, strict=True))
    size = B.shape[1]
    # Row S is the end, and so are terminal states.
    y, C = np.tile(np.eye(1, size), (S + 1, 1)), np.zeros((S + 1, size, size))
    live = np.append(~mdp.terminal, False)
    last = getattr(x, "bootstrap", None)
    if isinstance(fault, TruncatedWithoutBootstrap):
        last = -np.asarray(x.value) / x.trace if isinstance(x, GAE) else None
    if last is not None and isinstance(horizon, int):
        y[live, 1] = np.asarray(last)[live[:-1]]
    change = 1.0
    for _ in range(steps):
        ahead, before, mean = np.einsum("nij,nj->ni", B, y[following]), C, y
        y, C = (np.where(live.reshape(-1, *[1] * (z.ndim - 1)), 0.0, z) for z in (y, C))
        np.add.at(y, state, p[:, None] * ahead)
        off = ahead - y[state]
        np.add.at(
            C, state, p[:, None, None] * (off[:, :, None] * off[:, None, :] + B @ before[following] @ B.swapaxes(1, 2))
        )
        change = max(np.abs(new - old).max() / (1 + np.abs(new).max()) for new, old in ((C, before), (y, mean)))
        if change < 1e-17 and not isinstance(horizon, int):
            break
    needs(isinstance(horizon, int) or change < 1e-15)
    mean = start @ y[:-1]
    off = y[:-1] - mean
    covariance = np.einsum("s,sij->ij", start, C[:-1]) + np.einsum("s,si,sj->ij", start, off, off)
    X = np.zeros((S * A, size))
    X[:, size - S * A :] = np.eye(S * A)
    if isinstance(x, TotalReturn):
        X[:, size - S * A :], X[:, size - 2 * S * A : size - S * A] = -np.eye(S * A), np.eye(S * A)
    X = scale * X
    if x.weights == "self-normalised" and x.behaviour is not None:
        # What one trajectory moves the ratio of means by.
        ratio = X @ mean / mean[0]
        X = (X - np.outer(ratio, np.eye(1, size))) / mean[0]
    else:
        ratio = X @ mean
    # Moments are differences of products as large as these.
    parts = 1 + np.abs(X) @ (np.abs(covariance) + np.abs(np.outer(mean, mean))) @ np.abs(X).T
    return ratio, X @ covariance @ X.T, parts.max()


def asked(x, horizon):
    """The horizon to ask for: single steps have none."""
    return None if getattr(x, "along", "path") == "visitation" else horizon


def evaluation(x, mdp, policy, horizon):
    """That of the horizon."""
    return evaluate(mdp, policy, horizon=horizon if isinstance(asked(x, horizon), int) else None)


def assert_moments(x, mdp, policy, horizon):
    """Within 1e-10 of the dense recursion, relative to E X X^T."""
    try:
        moments = estimator_moments(evaluation(x, mdp, policy, horizon), x, horizon=asked(x, horizon))
    except InfiniteVariance:
        needs(False)
    mean, covariance, scale = recursion(x, mdp, policy, horizon)
    S, A = policy.probabilities.shape
    assert np.abs(moments.mean.ravel() - mean).max() <= 1e-10 * np.sqrt(scale)
    assert np.abs(moments.covariance().reshape(S * A, -1) - covariance).max() <= 1e-10 * scale
    states = np.arange(S)
    blocks = covariance.reshape(S, A, S, A)[states, :, states]
    assert np.abs(moments.blocks - blocks).max() <= 1e-10 * scale
    assert abs(moments.trace - np.trace(covariance)) <= 1e-10 * scale * S * A


@given(st.data())
@settings(max_examples=12)
@pytest.mark.parametrize("weights", [None, "per-decision", "trajectory", "self-normalised"])
@pytest.mark.parametrize("name", ESTIMATORS + FAULTS)
def test_moments_are_those_of_the_dense_recursion(name, weights, data):
    terminal = data.draw(st.sampled_from([True, True, None]))
    discount = data.draw(st.sampled_from([0.0, 0.5, 0.9, 1.0]))
    mdp = data.draw(mdps(max_states=3, max_actions=2, discount=discount, terminal=terminal, sparse=None))
    policy = data.draw(softmax_policies(mdp, extreme=False))
    horizons = [1, 2, 4, 30] + ([] if name.startswith("truncated") else ["geometric", None])
    horizon = data.draw(st.sampled_from(horizons))
    off = {}
    if weights is not None:
        other = data.draw(softmax_policies(mdp, extreme=False))
        # Nearer to the policy where products of ratios have no end.
        share = 1.0 if horizon in (1, 2, 4) else 0.1
        logits = (np.where(mdp.available, x.logits, 0.0) for x in (policy, other))
        near = SoftmaxPolicy(sum(x * y for x, y in zip((1 - share, share), logits, strict=True)))
        off = {"behaviour": near.masked(mdp.available), "weights": weights}
    elif "ratio" in name:
        return
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    kind = data.draw(st.sampled_from(["none", "constant", "state"] + ["optimal"] * (name in ESTIMATORS)))
    b = {"constant": 0.3, "state": rng.normal(size=mdp.n_states)}.get(kind)
    x = made(name, mdp, rng, b, **off)
    if kind == "optimal":
        try:
            x = replace(x, baseline=optimal_baseline(evaluation(x, mdp, policy, horizon), x, horizon=asked(x, horizon)))
        except InfiniteVariance:
            needs(False)
    assert_moments(x, mdp, policy, horizon)


@pytest.mark.parametrize("horizon", [5, "geometric", None])
@pytest.mark.parametrize("weights", [None, "per-decision", "trajectory", "self-normalised"])
@pytest.mark.parametrize("name", ESTIMATORS + FAULTS)
def test_where_every_state_leads_to_every_other(name, weights, horizon):
    if ("ratio" in name and weights is None) or (name.startswith("truncated") and horizon != 5):
        return
    if name == "inverse ratio" and horizon is None:
        # Squares of these products are remembered too long.
        return
    rng = np.random.default_rng(0)
    ended = np.array([False, False, False, True])
    R = np.where(ended[:, None, None], 0.0, rng.normal(size=(4, 2, 4)))
    mdp = MDP(rng.dirichlet(np.ones(4), size=(4, 2)), R, 0.8, [0.4, 0.3, 0.2, 0.1], terminal=ended)
    policy = SoftmaxPolicy(rng.normal(size=(4, 2)))
    near = SoftmaxPolicy(policy.logits + 0.2 * rng.normal(size=(4, 2)))
    off = {} if weights is None else {"behaviour": near, "weights": weights}
    assert_moments(made(name, mdp, rng, rng.normal(size=4), **off), mdp, policy, horizon)
