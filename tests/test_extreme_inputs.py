"""What follows from an evaluation, on the extreme inputs: a right answer, or an error that names the cause."""

import re
from fractions import Fraction

import numpy as np
import pytest
from scipy import sparse
from test_certificate import EXTREMES

from fastpg import (
    GAE,
    MDP,
    DirectPolicy,
    InfiniteVariance,
    PlugIn,
    RewardToGo,
    SoftmaxPolicy,
    SolveError,
    TotalReturn,
    estimate_gradient,
    estimator_moments,
    evaluate,
    finite_horizon,
    fisher_information,
    natural_gradient,
    normalised_step,
    policy_gradient,
    return_variance,
    rollout,
    sample_evaluation,
    sample_returns,
    uniform,
)
from fastpg.exact import evaluate_exactly
from fastpg.testing.models import as_dense, as_sparse

cases = pytest.mark.parametrize("name", EXTREMES)
storages = pytest.mark.parametrize("storage", [lambda mdp: mdp, as_sparse], ids=["dense", "sparse"])
SMALLEST = Fraction(5e-324)
# Squares of these rewards are no floats.
HUGE = {name for name in EXTREMES if "1e30" in name or "both ends" in name}


def evaluated(name, storage, **options):
    mdp, logits = EXTREMES[name]
    with np.errstate(over="ignore"):  # differences of logits
        return evaluate(storage(mdp), SoftmaxPolicy(logits), **options)


def furthest(floats, exact):
    """The largest distance from the rational truth, and the largest entry of that."""
    pairs = list(zip(np.asarray(floats).flat, exact.flat, strict=True))
    return max(abs(Fraction(float(x)) - y) for x, y in pairs), max(abs(y) for _, y in pairs)


def or_overflow(name, compute):
    """What `compute` returns; None where squares of huge rewards are an error that says so."""
    if name not in HUGE:
        return compute()
    try:
        return compute()
    except SolveError as error:
        if not re.search("overflows float64 at discount .*; scale the rewards down", str(error)):
            raise
        return None


@storages
@cases
def test_natural_gradients_and_fisher_information(name, storage):
    ev = evaluated(name, storage)
    exact = evaluate_exactly(ev.mdp, ev.policy)
    F = fisher_information(ev)
    off, size = furthest(F.blocks, exact.fisher_blocks)
    assert off <= 1e-14 * size
    off, size = furthest(natural_gradient(ev), exact.natural_gradient)
    steps = 1 / (ev.mdp.discount_complement or 1.0)
    assert off <= Fraction(4 * float(ev.error.advantage.max()) * steps) + Fraction(1e-14) * size
    gradient, step = policy_gradient(ev), normalised_step(ev, 0.01)
    assert np.isfinite(gradient).all()
    assert np.isfinite(F @ gradient).all()
    assert np.vdot(step, F @ step) == pytest.approx(0.01 if step.any() else 0.0, rel=1e-9)


@storages
@cases
@pytest.mark.parametrize("horizon", [6, None])
def test_moments_and_variances(name, storage, horizon):
    ev = evaluated(name, storage)
    exact = evaluate_exactly(ev.mdp, ev.policy, horizon=horizon)
    value, q = ev.value, ev.action_value
    for estimator in (RewardToGo(), RewardToGo(value), PlugIn(q, value), GAE(0.9, value), TotalReturn()):
        if horizon is None and isinstance(estimator, TotalReturn):
            continue
        if name == "discount 1 - 2^-53" and horizon is None and isinstance(estimator, RewardToGo):
            with pytest.raises(InfiniteVariance, match="too close to 1 to tell"):
                estimator_moments(ev, estimator, horizon=horizon)
            continue
        moments = estimator_moments(ev, estimator, horizon=horizon)
        for spread in ("variance", "trace", "blocks"):
            found = or_overflow(name, lambda moments=moments, spread=spread: getattr(moments, spread))
            if found is not None:
                assert np.isfinite(found).all()
                assert np.min(found) >= 0 or spread == "blocks"
        if isinstance(estimator, RewardToGo) or horizon is None:
            off, size = furthest(moments.mean, exact.logit_gradient)
            assert off <= Fraction(1e-9) * size + Fraction(1e-12) * Fraction(float(np.abs(q).max())) + 8 * SMALLEST
    for at in (ev, evaluated(name, storage, horizon=6)):
        found = or_overflow(name, lambda at=at: return_variance(at))
        if found is not None:
            assert np.isfinite(found).all()
            assert (found >= 0).all()


@storages
@cases
def test_samples(name, storage):
    ev = evaluated(name, storage)
    mdp, policy = ev.mdp, ev.policy
    walked = rollout(mdp, policy, n=50, horizon=20, rng=0)
    assert np.isfinite(walked.rewards).all()
    taken = walked.actions >= 0
    assert (policy.probabilities[walked.states[:, :-1][taken], walked.actions[taken]] > 0).all()
    returns = or_overflow(name, lambda: sample_returns(mdp, policy, n=50, horizon=20, rng=0))
    assert returns is None or np.isfinite(returns).all()
    stops = mdp.discount < 0.9999 or mdp.terminal.any()
    for horizon in (6, "geometric")[: 1 + stops]:
        given = {"n": 500, "horizon": horizon, "rng": 0}
        found = or_overflow(name, lambda given=given: estimate_gradient(mdp, policy, RewardToGo(), **given))
        if found is not None:
            for x in (found.mean, found.standard_error, found.contributions, found.blocks):
                assert np.isfinite(x).all()
    if stops:
        found = or_overflow(name, lambda: sample_evaluation(mdp, policy, n=500, rng=0))
        if found is not None:
            assert np.isfinite(found.visitation).all()
            assert not np.isinf(found.value).any()
            # nan says that no step was taken from a state.
            assert np.isfinite(found.value[(mdp.start > 0) & ~mdp.terminal]).all()


@pytest.mark.parametrize("discount", [0.99, 1.0])
def test_a_line_of_100_000_states(discount):
    """Both actions go on, the first for 1 and the second for nothing: A = +-1/2 wherever there is a step to go."""
    S = 100_000
    last = np.arange(S) == S - 1
    ahead = np.repeat(np.minimum(np.arange(S) + 1, S - 1), 2)
    P = sparse.csr_array((np.ones(2 * S), (np.arange(2 * S), ahead)), shape=(2 * S, S))
    mdp = MDP(P, np.where(last[:, None], 0.0, [[1.0, 0.0]]), discount, 0, terminal=last)
    policy = SoftmaxPolicy.uniform(mdp)
    weight = np.where(last, 0.0, discount ** np.arange(S))
    signs = np.array([1.0, -1.0])
    ev = evaluate(mdp, policy)
    np.testing.assert_allclose(policy_gradient(ev), 0.25 * weight[:, None] * signs, rtol=1e-9, atol=1e-300)
    seen = weight > 1e-300
    np.testing.assert_allclose(natural_gradient(ev)[seen] * (mdp.discount_complement or 1), [[0.5, -0.5]] * seen.sum())
    np.testing.assert_allclose(
        fisher_information(ev).blocks[:, 0, 0], 0.25 * weight * (mdp.discount_complement or 1), rtol=1e-9, atol=1e-300
    )
    walked = rollout(mdp, policy, n=3, horizon=7, rng=0)
    np.testing.assert_array_equal(walked.states, [range(8)] * 3)
    T = 50
    short = evaluate(mdp, policy, horizon=T)
    np.testing.assert_allclose(policy_gradient(short)[:T], 0.25 * weight[:T, None] * signs, rtol=1e-13)
    assert not policy_gradient(short)[T:].any()
    assert short.error.gradient.max() <= 1e-15
    assert short.error.certain_signs[:T].all()


@pytest.mark.parametrize(
    "policy", [SoftmaxPolicy([[0.0, 0.0]]), DirectPolicy([[1.0, 0.0]]), DirectPolicy([[0.5, 0.5]])]
)
@pytest.mark.parametrize("horizon", [None, 3])
@pytest.mark.parametrize("discount", [0.0, 0.5, 1.0])
def test_what_float64_cannot_hold_is_an_error_and_never_inf_or_nan(discount, horizon, policy):
    paid = [[1.7e308, -1.7e308]]
    mdp = MDP([[[1.0], [1.0]]], paid, discount)
    if discount == 1 and horizon is None:
        mdp = MDP([[[0.0, 1.0]] * 2, [[0.0, 0.0]] * 2], [*paid, [0, 0]], 1.0, 0, terminal=[False, True])
        policy = type(policy)(np.repeat(policy.parameters, 2, axis=0))
    for name in ("value", "action_value", "advantage", "logit_gradient", "probability_gradient"):
        try:
            found = getattr(evaluate(mdp, policy, horizon=horizon), name)
        except SolveError as error:
            assert "overflows float64 at discount" in str(error)  # noqa: PT017
        else:
            assert np.isfinite(found).all(), name
    if policy.probabilities[0, 0] == 0.5:  # the mean is 0, each advantage a float although their difference is none
        advantage = evaluate(mdp, policy, horizon=horizon).advantage
        assert (advantage if horizon is None else advantage[1])[0].tolist() == paid[0]
        return
    with pytest.raises(SolveError, match=r"(value|advantage)\[[0-3, ]+\] overflows"):
        _ = evaluate(mdp, policy, horizon=horizon).advantage


def test_overflow_of_an_action_value_with_steps_to_go_is_placed(monkeypatch):
    monkeypatch.setattr(finite_horizon, "SLICE", 1)
    mdp = MDP([[[1.0], [1.0]]], [[1e307, 1.7e308]], 1.0)
    ev = evaluate(mdp, DirectPolicy([[1.0, 0.0]]), horizon=5)
    with pytest.raises(SolveError, match=r"action_value\[2, 0, 1\] overflows"):
        _ = ev.probability_gradient


@pytest.mark.parametrize("storage", [as_dense, as_sparse])
def test_a_value_that_overflows_is_an_error(storage):
    mdp = storage(MDP([[[1.0]]], [1e308], 0.99))
    with pytest.raises(SolveError, match=r"value\[0\] overflows float64 at discount 0\.99 with rewards up to 1e\+308"):
        evaluate(mdp, uniform(mdp))
