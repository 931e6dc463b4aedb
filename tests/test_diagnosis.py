"""The cross-check names what is wrong with a sample, and what is right with a biased estimator."""

import sys

import numpy as np
import pytest

from fastpg import (
    GAE,
    MDP,
    InfiniteVariance,
    InvalidArgument,
    RewardToGo,
    SoftmaxPolicy,
    crosscheck,
    detectable_bias,
    estimate_gradient,
    evaluate,
    problems,
)
from fastpg.formats import from_gymnasium
from fastpg.sampling.faults import (
    ActionBaseline,
    MissingDiscount,
    RewardBeforeAction,
    TruncatedWithoutBootstrap,
    WrongRatio,
)

ALPHA = 1e-6
LAKE = problems.frozen_lake("4x4", discount=0.95)
POLICY = SoftmaxPolicy(evaluate(LAKE, SoftmaxPolicy.uniform(LAKE)).advantage * 50)


def flatter(policy, mdp):
    """A behaviour that takes every action of the policy, more evenly."""
    return SoftmaxPolicy(policy.logits * 0.8).masked(mdp.available)


def taxi():
    """Taxi with a policy that delivers passengers now and then."""
    pytest.importorskip("gymnasium")
    mdp = from_gymnasium("Taxi-v4", discount=0.95)
    drive = evaluate(mdp, SoftmaxPolicy.random(mdp, rng=0)).advantage
    return mdp, SoftmaxPolicy(np.clip(0.3 * drive, -5, 5)).masked(mdp.available)


FAULTS = [MissingDiscount, RewardBeforeAction, ActionBaseline, TruncatedWithoutBootstrap, WrongRatio]


def faulty_check(fault, mdp, policy, behaviour, **options):
    """The check of a sound estimator's gradient against a sample that has the fault."""
    value, T = evaluate(mdp, policy).value, options["horizon"]
    sound = RewardToGo(behaviour=behaviour) if fault is WrongRatio else RewardToGo(bootstrap=value)
    q = evaluate(mdp, policy, horizon=T).action_value[T]
    estimator = fault(sound, q) if fault is ActionBaseline else fault(sound)
    against = "infinite" if fault is TruncatedWithoutBootstrap else "gradient"
    return crosscheck(mdp, policy, estimator, false_alarm=ALPHA, against=against, **options)


@pytest.mark.parametrize("problem", ["lake", "taxi"])
@pytest.mark.parametrize("fault", FAULTS)
def test_each_known_fault_is_rejected_and_named(problem, fault):
    mdp, policy = (LAKE, POLICY) if problem == "lake" else taxi()
    horizon = 10 if problem == "lake" else 20
    check = faulty_check(fault, mdp, policy, flatter(policy, mdp), n=2_000_000, horizon=horizon, rng=1)
    assert check.verdict == "disagrees"
    assert check.fault == fault.what
    assert f"disagrees, but agrees with {fault.what}: p = " in str(check)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_known_fault_is_named_where_the_covariance_is_sampled(fault):
    pytest.importorskip("gymnasium")
    mdp = from_gymnasium("Taxi-v4")
    behaviour = SoftmaxPolicy(0.05 * SoftmaxPolicy.random(mdp, rng=1).logits).masked(mdp.available)
    check = faulty_check(fault, mdp, SoftmaxPolicy.uniform(mdp), behaviour, n=200_000, horizon=100, rng=3)
    assert check.covariance_in_units is None
    assert check.verdict == "disagrees"
    assert check.fault == fault.what
    assert str(check).startswith(f"disagrees, but agrees with {fault.what}: p = ")


def test_no_fault_is_named_that_sampled_errors_exclude(monkeypatch):
    # Nearly five standard errors from the fault's mean, where MOST_Z lets pass up to eight.
    def altered(mdp, *args, **options):
        return estimate_gradient(MDP(mdp.transition, 1.05 * mdp.reward, mdp.discount, mdp.start), *args, **options)

    mdp = problems.random_mdp(5, 3, rng=0)
    monkeypatch.setattr(sys.modules["fastpg.crosscheck"], "AFFORDABLE", 0)
    monkeypatch.setattr(sys.modules["fastpg.crosscheck"], "estimate_gradient", altered)
    check = crosscheck(mdp, SoftmaxPolicy.uniform(mdp), MissingDiscount(RewardToGo()), n=400_000, horizon=8, rng=0)
    assert check.covariance_in_units is None
    assert str(check).startswith("disagrees, and no known fault explains it: p = ")


def test_a_biased_estimator_agrees_with_its_own_mean():
    estimator = GAE(0.0, np.zeros(16))
    check = crosscheck(LAKE, POLICY, estimator, n=400_000, horizon=20, rng=0)
    assert check.verdict == "disagrees"
    assert check.fault == "the exact mean of GAE, which is biased"
    assert crosscheck(LAKE, POLICY, estimator, n=400_000, horizon=20, rng=0, against="mean").agrees


def test_an_unknown_fault_is_not_given_a_name():
    class Halved:
        def terms(self, mdp, table):
            terms = RewardToGo().terms(mdp, table)
            return terms._replace(credit=terms.credit / 2, signal=terms.signal / 2)

    check = crosscheck(LAKE, POLICY, MissingDiscount(Halved()), n=400_000, horizon=20, rng=0, against="gradient")
    assert check.verdict == "disagrees"
    assert check.fault == MissingDiscount.what  # of the halved estimator
    altered = crosscheck(LAKE, POLICY, Halved(), n=400_000, horizon=20, rng=0)
    assert altered.fault == "the exact mean of Halved, which is biased"


class Unlabelled:
    """The terms of a fault under a name that tells nothing."""

    def __init__(self, fault, behaviour=None):
        self.fault, self.behaviour = fault, behaviour

    def terms(self, mdp, table):
        return self.fault.terms(mdp, table)


@pytest.mark.parametrize("fault", [MissingDiscount, RewardBeforeAction, WrongRatio])
def test_a_fault_is_named_without_its_label(fault):
    mdp = problems.random_mdp(5, 3, rng=0)
    policy = SoftmaxPolicy.uniform(mdp)
    behaviour = SoftmaxPolicy.random(mdp, rng=1) if fault is WrongRatio else None
    estimator = Unlabelled(fault(RewardToGo(behaviour=behaviour)), behaviour)
    check = crosscheck(mdp, policy, estimator, n=400_000, horizon=8, rng=0)
    assert check.fault == fault.what


def test_faults_of_faults_are_all_named():
    mdp = problems.random_mdp(5, 3, rng=0)
    policy = SoftmaxPolicy.uniform(mdp)
    both = MissingDiscount(RewardBeforeAction(RewardToGo()))
    check = crosscheck(mdp, policy, both, n=400_000, horizon=8, rng=0)
    assert check.fault == "the gradient without discount^t and rewards counted before their action"
    # Without the labels neither fault alone explains the sample, and the name of one of them would be wrong.
    bare = crosscheck(mdp, policy, Unlabelled(both), n=400_000, horizon=8, rng=0)
    assert bare.fault == "the exact mean of Unlabelled, which is biased"


def test_against_its_own_mean_an_estimator_is_not_excused_by_it(monkeypatch):
    mdp = problems.random_mdp(5, 3, rng=0)
    policy = SoftmaxPolicy.uniform(mdp)

    def altered(mdp, *args, **options):
        return estimate_gradient(MDP(mdp.transition, 1.1 * mdp.reward, mdp.discount, mdp.start), *args, **options)

    monkeypatch.setattr(sys.modules["fastpg.crosscheck"], "estimate_gradient", altered)
    check = crosscheck(mdp, policy, RewardToGo(), n=400_000, horizon=8, rng=0, against="mean")
    assert check.fault is None
    assert str(check).startswith("disagrees, and no known fault explains it: p = ")


def test_a_check_stops_when_it_is_decided():
    n = 4_000_000
    wrong = crosscheck(LAKE, POLICY, MissingDiscount(RewardToGo()), n=n, horizon=20, rng=0, until_decided=1e-3)
    assert wrong.verdict == "disagrees"
    assert wrong.estimate.n < n
    right = crosscheck(LAKE, POLICY, RewardToGo(), n=n, horizon=20, rng=0, until_decided=0.4)
    assert right.agrees
    assert right.estimate.n < n
    assert right.detectable_bias <= 0.4 * np.linalg.norm(right.exact)
    assert right.false_alarm == 1e-4 / 4


def test_an_infinite_variance_cannot_be_judged():
    mdp = problems.two_state()
    policy = SoftmaxPolicy.uniform(mdp)
    beta = SoftmaxPolicy(np.array([6.0, 0.0]) * np.ones((mdp.n_states, 1)))
    with pytest.raises(InfiniteVariance, match="RewardToGo has no finite variance over horizon geometric"):
        crosscheck(mdp, policy, RewardToGo(behaviour=beta), n=1000, horizon="geometric", rng=0)


def test_bad_arguments_are_told():
    with pytest.raises(InvalidArgument, match="against must be"):
        crosscheck(LAKE, POLICY, RewardToGo(), n=10, horizon=2, rng=0, against="truth")
    for share in (0, True, "10%", np.complex128(1), np.inf, np.nan):
        with pytest.raises(InvalidArgument, match="until_decided must be a positive share"):
            crosscheck(LAKE, POLICY, RewardToGo(), n=10, horizon=2, rng=0, until_decided=share)


def test_what_is_sampled_has_an_end():
    for run in (crosscheck, estimate_gradient):
        with pytest.raises(InvalidArgument, match="'geometric' but is None"):
            run(LAKE, POLICY, RewardToGo(), n=10, horizon=None, rng=0)


def test_a_fault_with_its_own_table_is_named():
    q = evaluate(LAKE, POLICY).action_value
    check = crosscheck(LAKE, POLICY, ActionBaseline(RewardToGo(), q / 2), n=1_000_000, horizon=20, rng=3)
    assert check.fault == ActionBaseline.what


def test_a_horizon_that_is_too_short_is_named():
    check = crosscheck(LAKE, POLICY, RewardToGo(), n=1_000_000, horizon=6, rng=3, against="infinite")
    assert check.fault == TruncatedWithoutBootstrap.what


def test_what_can_be_detected_is_known_before_the_run():
    given = {"n": 4_000_000, "horizon": 20}
    before = detectable_bias(LAKE, POLICY, RewardToGo(), **given)
    check = crosscheck(LAKE, POLICY, RewardToGo(), rng=0, **given)
    # The sample may judge fewer entries, each by no more contributions than the model expects.
    assert before == pytest.approx(check.detectable_bias, rel=0.1)
    assert detectable_bias(LAKE, POLICY, RewardToGo(), n=16_000_000, horizon=20) == pytest.approx(before / 2, rel=0.1)
    assert detectable_bias(LAKE, POLICY, RewardToGo(), n=10, horizon=20) == np.inf


def test_what_can_be_detected_of_many_entries_is_that_of_the_check():
    mdp = problems.random_mdp(90, 4, rng=0)
    policy, options = SoftmaxPolicy.uniform(mdp), {"horizon": "geometric"}
    check = crosscheck(mdp, policy, RewardToGo(), n=1_000_000, rng=0, **options)
    assert check.rank == 270
    before = detectable_bias(mdp, policy, RewardToGo(), n=1_000_000, **options)
    assert before == pytest.approx(check.detectable_bias, rel=0.1)
    later = detectable_bias(mdp, policy, RewardToGo(), n=100_000_000, **options)
    assert later == pytest.approx(before / 10, rel=0.1)
    # Fewer trajectories have entries share pools, where the largest |z| alone guarantees anything.
    check = crosscheck(mdp, policy, RewardToGo(), n=200_000, rng=0, **options)
    assert "pooled directions" in str(check)
    shared = detectable_bias(mdp, policy, RewardToGo(), n=200_000, **options)
    assert shared < np.inf
    assert shared == pytest.approx(check.detectable_bias, rel=0.1)


def test_an_estimate_that_keeps_no_blocks_of_single_entries_is_judged(monkeypatch):
    mdp = problems.random_mdp(260, 4, rng=0)
    policy, options = SoftmaxPolicy.uniform(mdp), {"n": 1_000_000, "horizon": 8, "rng": 1}
    monkeypatch.setattr(sys.modules["fastpg.sampling.estimate"], "POOLS", 400)
    right = estimate_gradient(mdp, policy, RewardToGo(), **options)
    wrong = estimate_gradient(mdp, policy, MissingDiscount(RewardToGo()), **options)
    monkeypatch.setattr(sys.modules["fastpg.crosscheck"], "AFFORDABLE", 0)
    check = crosscheck(mdp, policy, RewardToGo(), horizon=8, sample=right)
    assert check.agrees
    assert "by the largest |z| alone" in str(check)
    assert crosscheck(mdp, policy, RewardToGo(), horizon=8, sample=wrong).fault == MissingDiscount.what
