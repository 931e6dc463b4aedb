"""Policies: parameters to probabilities, the chain rule in both directions, masks, and what is refused."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastpg
from fastpg import (
    MDP,
    DirectPolicy,
    InvalidArgument,
    InvalidPolicy,
    LogLinearPolicy,
    SoftmaxPolicy,
    evaluate,
    policy_gradient,
)
from fastpg.testing import oracles
from fastpg.testing.assertions import assert_within
from fastpg.testing.strategies import mdp_and_policy, mdps, policies, softmax_policies

NAN, INF = np.nan, np.inf
EPS = np.finfo(float).eps
FEATURES = np.arange(12.0).reshape(2, 3, 2) / 12
MASKED = MDP(np.full((3, 2, 3), 1 / 3), [1.0, 0.0, 0.0], 0.9, terminal=[0, 0, 1], available=[[1, 1], [0, 1], [0, 0]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SoftmaxPolicy([0.0, 1.0]), "logits must have shape (S, A) with S, A >= 1 but has shape (2,)"),
        (lambda: SoftmaxPolicy(np.zeros((0, 2))), "but has shape (0, 2)"),
        (lambda: SoftmaxPolicy([[0.0, NAN]]), "logits[0, 1] must be finite or -inf but is nan; 1 of 2 entries fail"),
        (lambda: SoftmaxPolicy([[0.0], [INF]]), "logits[1, 0] must be finite or -inf but is inf; 1 of 2 entries fail"),
        (
            lambda: SoftmaxPolicy([[0.0, 0.0], [-INF, -INF]]),
            "logits[1] must leave an action above -inf in each state, the largest there but is -inf; 1 of 2",
        ),
        (lambda: SoftmaxPolicy([["a"]]), "logits must hold real numbers but has dtype <U1"),
        (lambda: SoftmaxPolicy([[0.0], [0.0, 1.0]]), "logits must be a rectangular array of numbers"),
        (lambda: LogLinearPolicy(FEATURES[0], [0, 0]), "features must have shape (S, A, k) with S, A, k >= 1"),
        (lambda: LogLinearPolicy(FEATURES, [0]), "weights must have shape (2,) to fit features but has shape (1,)"),
        (lambda: LogLinearPolicy(FEATURES, [0, INF]), "weights[1] must be finite but is inf; 1 of 2 entries fail"),
        (lambda: LogLinearPolicy(FEATURES * NAN, [0, 0]), "features[0, 0, 0] must be finite but is nan; 12 of 12"),
        (
            lambda: LogLinearPolicy(FEATURES * 1e200, [1e200, 0]),
            "features @ weights[0, 1] must be finite but is inf; 5 of 6 entries fail",
        ),
        (lambda: LogLinearPolicy(FEATURES, [0, 0], available=[[1, 1, 1]]), "available must have shape (2, 3)"),
        (
            lambda: DirectPolicy([[0.5, 0.4]]),
            "probabilities[0] must sum to 1 within 1e-09 but sums to 0.9; 1 of 1 rows",
        ),
        (lambda: DirectPolicy([[1.5, -0.5]]), "probabilities[0, 1] must not be negative but is -0.5; 1 of 2"),
        (lambda: DirectPolicy([[1.0, NAN]]), "probabilities[0, 1] must be finite but is nan"),
        (lambda: SoftmaxPolicy(np.zeros((2, 2))).masked([[1, 1]]), "available must have shape (2, 2) but has"),
        (lambda: SoftmaxPolicy(np.zeros((2, 2))).pullback([1.0]), "gradient_in_logits must have shape (2, 2) but has"),
        (lambda: SoftmaxPolicy(np.zeros((2, 2))).pushforward([1.0]), "direction must have shape (2, 2) but has"),
        (lambda: LogLinearPolicy(FEATURES, [0, 0]).pushforward([1.0]), "direction must have shape (2,) but has"),
    ],
)
def test_bad_input_is_refused_with_place_value_rule_and_count(make, message):
    with pytest.raises(InvalidPolicy) as caught:
        make()
    assert message in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (SoftmaxPolicy(np.zeros((2, 2))), "policy must have shape (3, 2) to fit the MDP but has shape (2, 2)"),
        (np.zeros((3, 2)), "policy must be a fastpg policy such as SoftmaxPolicy but is ndarray"),
        (
            DirectPolicy(np.full((3, 2), 0.5)),
            "probabilities[1, 0] must be 0 where the action is unavailable but is 0.5; 1 of 6 entries fail",
        ),
        (SoftmaxPolicy([[0, 0], [0, -INF], [0, 0]]), "logits[1] must leave an action above -inf in each state"),
    ],
)
def test_a_policy_that_does_not_fit_the_model_is_refused(policy, message):
    with pytest.raises(InvalidPolicy) as caught:
        evaluate(MASKED, policy)
    assert message in str(caught.value)


@given(st.data())
def test_softmax_of_any_finite_logits_is_a_law(data):
    policy = data.draw(softmax_policies(data.draw(mdps())))
    pi = policy.probabilities
    assert_within(pi.sum(axis=1), np.ones(len(pi)), pi.shape[1] * EPS)
    assert (pi >= 0).all()
    assert (pi[policy.logits == -INF] == 0).all()
    assert_within(pi, oracles.softmax(policy.logits), 8 * EPS)


def test_softmax_of_logits_at_the_ends_of_float64():
    big = 1.7e308
    pi = SoftmaxPolicy([[big, -big], [-big, -big], [big, big], [-INF, -big], [5e-324, 0.0]]).probabilities
    assert_within(pi, [[1, 0], [0.5, 0.5], [0.5, 0.5], [0, 1], [0.5, 0.5]], 0)


def test_softmax_keeps_small_probabilities_to_full_relative_accuracy():
    pi = SoftmaxPolicy([[0.0, -700.0]]).probabilities
    assert abs(pi[0, 1] / np.exp(-700.0) - 1) <= 4 * EPS


@given(st.data(), st.floats(-1e6, 1e6))
def test_softmax_ignores_a_constant_in_each_state(data, shift):
    policy = data.draw(softmax_policies(data.draw(mdps()), extreme=False))
    # The shifted logits are rounded to the spacing of floats near the shift.
    moved = SoftmaxPolicy(policy.logits + shift).probabilities
    assert_within(moved, policy.probabilities, 4 * EPS * (abs(shift) + 4))


def test_log_linear_is_softmax_of_features_times_weights():
    weights = [0.3, -2.0]
    policy = LogLinearPolicy(FEATURES, weights)
    assert_within(policy.probabilities, SoftmaxPolicy(FEATURES @ weights).probabilities, EPS)
    assert_within(policy.weights, weights, 0)
    masked = LogLinearPolicy(FEATURES, weights, available=[[1, 1, 0], [0, 0, 0]])
    assert masked.probabilities[0, 2] == 0
    assert_within(masked.probabilities[1], policy.probabilities[1], 0)


@given(st.data())
def test_random_and_uniform_policies_fit_their_model(data):
    mdp = data.draw(mdps(sparse=None))
    seed = data.draw(st.integers(0, 2**63))
    for kind in (SoftmaxPolicy, DirectPolicy):
        policy = kind.random(mdp, rng=seed)
        assert policy == kind.random(mdp, rng=seed)
        assert policy == kind.random(mdp, rng=np.random.default_rng(seed))
        acts = mdp.available | ~mdp.available.any(axis=1, keepdims=True)
        assert ((policy.probabilities > 0) == acts).all()
        assert_within(kind.uniform(mdp).probabilities, acts / acts.sum(axis=1, keepdims=True), 2 * EPS)
    assert fastpg.uniform(mdp) == SoftmaxPolicy.uniform(mdp)
    assert fastpg.random(mdp, rng=seed) == SoftmaxPolicy.random(mdp, rng=seed)


def test_random_policies_need_a_seed_or_a_generator():
    generator = np.random.default_rng(1)
    assert fastpg.random(MASKED, rng=generator) != fastpg.random(MASKED, rng=generator)
    for bad in (-1, 1.5, True, None, "1"):
        with pytest.raises(InvalidArgument, match="rng must be a non-negative int seed or a numpy"):
            fastpg.random(MASKED, rng=bad)


@given(mdp_and_policy())
def test_evaluation_masks_what_the_model_does_not_make_available(case):
    mdp, policy = case
    if isinstance(policy, DirectPolicy):
        policy = SoftmaxPolicy(np.where(policy.probabilities > 0, 1.0, 0.0))
    pi = evaluate(mdp, policy).policy.probabilities
    assert (pi[~mdp.available & ~mdp.terminal[:, None]] == 0).all()
    assert evaluate(mdp, policy).policy == evaluate(mdp, evaluate(mdp, policy).policy).policy


def test_masks_of_policies():
    policy = SoftmaxPolicy([[1.0, 2.0], [3.0, 4.0]])
    assert policy.masked([[1, 1], [1, 1]]) is policy
    assert_within(policy.masked([[0, 1], [1, 1]]).logits, [[-INF, 2], [3, 4]], 0)
    assert_within(policy.masked([[0, 0], [1, 1]]).logits, [[1, 2], [3, 4]], 0)
    linear = LogLinearPolicy(FEATURES, [1.0, 0.0])
    assert linear.masked(np.ones((2, 3))) is linear
    twice = linear.masked([[1, 1, 0], [1, 1, 1]]).masked([[0, 1, 1], [1, 1, 1]])
    assert_within(twice.probabilities[0], [0, 1, 0], 0)
    direct = DirectPolicy([[1.0, 0.0]])
    assert direct.masked([[1, 0]]) is direct


@given(mdp_and_policy(extreme=False, discount=0.9))
def test_pullback_is_the_derivative_of_the_parameters_map(case):
    policy = case.policy
    shape = policy.probabilities.shape
    cost = np.linspace(-1.0, 2.0, num=policy.probabilities.size).reshape(shape)
    pi = policy.probabilities
    in_logits = pi * (cost - (pi * cost).sum(axis=1, keepdims=True))
    expected = oracles.complex_step(lambda p: (oracles.probabilities_at(policy, p) * cost).sum(), policy.parameters)
    actual = policy.pullback(in_logits)
    if isinstance(policy, DirectPolicy):  # up to a constant in each state
        mean = (pi * cost).sum(axis=1, keepdims=True)
        actual, expected = np.where(pi > 0, actual + mean, 0.0), np.where(pi > 0, expected, 0.0)
    assert_within(actual, expected, 64 * EPS * policy.probabilities.size * 2)


@given(mdp_and_policy(extreme=False, discount=0.9))
def test_pushforward_is_the_transpose_of_pullback(case):
    policy = case.policy
    g = np.linspace(-1.0, 2.0, num=policy.probabilities.size).reshape(policy.probabilities.shape)
    v = np.linspace(3.0, -1.0, num=policy.parameters.size).reshape(policy.parameters.shape)
    there, back = policy.pushforward(v), policy.pullback(g)
    size = np.abs(g * there).sum() + np.abs(back * v).sum()
    assert abs((g * there).sum() - (back * v).sum()) <= 8 * EPS * (1 + policy.probabilities.size) * size


@given(st.data())
def test_policies_are_read_only_equal_and_hashable_also_after_copy_and_pickle(data):
    policy = data.draw(policies(data.draw(mdps())))
    for twin in (policy, copy.copy(policy), copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        assert twin == policy
        assert hash(twin) == hash(policy)
        assert not any(x.flags.writeable for x in vars(twin).values() if isinstance(x, np.ndarray))


def test_policies_are_equal_when_kind_and_numbers_are():
    softmax, direct = SoftmaxPolicy([[0.0, 0.0]]), DirectPolicy([[0.5, 0.5]])
    assert softmax != direct
    assert softmax != SoftmaxPolicy([[1.0, 1.0]])
    assert softmax != "a policy"
    assert DirectPolicy([[-0.0, 1.0]]) == DirectPolicy([[0.0, 1.0]])
    assert hash(DirectPolicy([[-0.0, 1.0]])) == hash(DirectPolicy([[0.0, 1.0]]))
    assert DirectPolicy(direct.probabilities) == direct


def test_repr():
    assert repr(SoftmaxPolicy(np.zeros((2, 3)))) == "SoftmaxPolicy(2 states, 3 actions)"
    assert repr(LogLinearPolicy(FEATURES[:1, :1], [0, 0])) == "LogLinearPolicy(1 state, 1 action)"


def test_a_new_parametrisation_is_one_small_class():
    class Tempered(SoftmaxPolicy):
        """Logits divided by a temperature of 2."""

        def __init__(self, parameters):
            super().__init__(np.asarray(parameters) / 2)

        def pullback(self, gradient_in_logits):
            return super().pullback(gradient_in_logits) / 2

    mdp = MDP(np.full((2, 2, 2), 0.5), [[1.0, 0.0], [0.0, 3.0]], 0.9)
    theta = np.array([[1.0, -1.0], [0.5, 2.0]])
    gradient = policy_gradient(evaluate(mdp, Tempered(theta)))
    assert_within(gradient, policy_gradient(evaluate(mdp, SoftmaxPolicy(theta / 2))) / 2, 0)


def test_directions_that_are_no_numbers_are_one_sentence():
    policy = SoftmaxPolicy([[0.0, 1.0]])
    with pytest.raises(InvalidPolicy, match="gradient_in_logits must hold real numbers but has dtype <U1"):
        policy.pullback("a")
    with pytest.raises(InvalidPolicy, match="direction must be a rectangular array"):
        policy.pushforward([[1.0], [1.0, 2.0]])


@pytest.mark.parametrize(
    "policy",
    [SoftmaxPolicy([[0.0, 1.0]]), DirectPolicy([[0.5, 0.5]]), LogLinearPolicy(FEATURES[:1, :1], [0.0, 0.0])],
    ids=repr,
)
def test_policies_are_frozen(policy):
    for twin in (policy, copy.copy(policy), copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        for name in ("probabilities", "parameters", "weights", "probabilties"):
            with pytest.raises(AttributeError, match=f"Policy is read-only, its '{name}' cannot be set"):
                setattr(twin, name, np.array([[1.0, 0.0]]))
        with pytest.raises(AttributeError, match="'parameters' cannot be deleted"):
            del twin.parameters
        assert twin == policy


def test_a_subclass_may_set_what_it_likes_in_its_constructor():
    class Named(SoftmaxPolicy):
        def __init__(self, logits, name):
            super().__init__(logits)
            self.name = name

    policy = Named([[0.0, 1.0]], "left or right")
    with pytest.raises(AttributeError, match="'name' cannot be set"):
        policy.name = "other"
    assert copy.copy(policy).name == policy.name == "left or right"


def test_probabilities_that_underflow_are_flagged():
    """exp(-746) is below the smallest float, exp(-744) is not, and a masked action is 0 on purpose."""
    logits = np.array([[0.0, -744.0, -746.0, -np.inf]])
    softmax = SoftmaxPolicy(logits)
    np.testing.assert_array_equal(softmax.underflowed, [[False, False, True, False]])
    np.testing.assert_array_equal(DirectPolicy(softmax.probabilities).underflowed, np.zeros((1, 4), bool))
    linear = LogLinearPolicy(np.array([[[0.0], [-1.0], [-1.0]]]), [800.0], available=[[True, True, False]])
    np.testing.assert_array_equal(linear.underflowed, [[False, True, False]])
