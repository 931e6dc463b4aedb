"""Batches against single calls, rational arithmetic, complex steps and the laws of broadcasting."""


import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes

import fastpg
from fastpg import MDP, SoftmaxPolicy, batch
from fastpg.testing import oracles
from fastpg.testing.assertions import assert_within, rounding

EPS = np.finfo(float).eps
DISCOUNTS = [0.0, 0.3, 0.9, 0.99, 1 - 1e-3]
# Here the single call uses elimination without subtraction as well.
NEAR_ONE = [1 - 1e-5, 1 - 1e-9, 1.0]


def laws(rng, *shape):
    """Random laws, many of whose entries are 0."""
    weight = rng.exponential(size=shape) * (rng.random(shape) < 0.6)
    weight[..., rng.integers(shape[-1])] += 0.01
    return weight / weight.sum(axis=-1, keepdims=True)


@st.composite
def arguments(draw, discounts=DISCOUNTS, ends=False):
    """Arguments of a batch whose leading axes broadcast: zeros, -inf, terminal states, one state or action included.

    With `ends` state 0 is terminal and every row leads one state down with a chance of at least 1/4.
    """
    S, A = draw(st.integers(1, 6), label="S"), draw(st.integers(1, 4), label="A")
    shapes = draw(mutually_broadcastable_shapes(num_shapes=6, max_dims=3, max_side=3), label="shapes").input_shapes
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), label="seed"))
    P = laws(rng, *shapes[0], S, A, S)
    terminal = rng.random((*shapes[5], S)) < draw(st.sampled_from([0.0, 0.3]), label="terminal")
    if ends:
        terminal[..., 0] = True
        down = np.maximum(np.arange(S) - 1, 0)
        P = 0.75 * P + 0.25 * np.eye(S)[down][:, None, :]
    ended = np.broadcast_to(terminal, np.broadcast_shapes(shapes[1] + (S,), terminal.shape)).any(
        axis=tuple(range(max(len(shapes[1]), len(shapes[5]))))
    )
    r = rng.standard_normal((*shapes[1], S, A)) * 10.0 ** draw(st.integers(-3, 3), label="scale")
    r[..., ended, :] = 0.0
    discount = rng.choice(discounts, size=shapes[2])
    theta = rng.normal(size=(*shapes[4], S, A), scale=draw(st.sampled_from([0.0, 1.0, 10.0]), label="spread"))
    theta[rng.random(theta.shape) < draw(st.sampled_from([0.0, 0.3]), label="masked")] = -np.inf
    theta[..., rng.integers(A)] = 0.5
    return (P, r, discount, laws(rng, *shapes[3], S), theta), terminal


def problems(args, terminal):
    """The place of each problem of a batch, its MDP and its policy."""
    cores = (3, 2, 0, 1, 2, 1)
    arrays = [np.asarray(x) for x in (*args, terminal)]
    shape = np.broadcast_shapes(*(x.shape[: x.ndim - core] for x, core in zip(arrays, cores, strict=True)))
    full = [np.broadcast_to(x, shape + x.shape[x.ndim - core :]) for x, core in zip(arrays, cores, strict=True)]
    for place in np.ndindex(shape):
        P, r, gamma, mu, theta, ended = (x[place] for x in full)
        yield place, MDP(P, r, float(gamma), mu, terminal=ended), SoftmaxPolicy(theta)


def assert_equals_single_calls(args, terminal):
    ev = batch.evaluate(*args, terminal=terminal)
    gradient = batch.policy_gradient(*args, terminal=terminal)
    natural = batch.natural_gradient(*args, terminal=terminal)
    blocks = batch.fisher(*args, terminal=terminal)
    for place, mdp, policy in problems(args, terminal):
        one = fastpg.evaluate(mdp, policy)
        first, second = (rounding(mdp, policy, resolvents=m) for m in (1, 2))
        unit = rounding(mdp, policy, resolvents=1, scale=1.0)
        scale = mdp.discount_complement or 1.0
        assert_within(ev.value[place], one.value, first)
        assert_within(ev.action_value[place], one.action_value, first)
        assert_within(ev.advantage[place], one.advantage, first)
        assert_within(ev.expected_return[place], one.expected_return, first)
        assert_within(ev.occupancy[place], one.occupancy, unit)
        assert_within(ev.visitation[place], one.visitation, unit)
        assert_within(ev.probabilities[place], one.policy.probabilities, 0)
        assert_within(gradient[place], fastpg.policy_gradient(one), second)
        F = fastpg.fisher_information(one)
        assert_within(blocks[place], F.blocks, unit)
        # Where the weight is rounding itself, one of the two may be 0.
        clear = (F.weight == 0) | (F.weight > 1e-250)
        assert_within(natural[place][clear], fastpg.natural_gradient(one)[clear], 2 * first / scale)


@given(arguments())
def test_a_batch_is_its_single_calls(case):
    assert_equals_single_calls(*case)


@given(arguments(NEAR_ONE, ends=True))
def test_a_batch_is_its_single_calls_near_discount_1_and_at_1(case):
    assert_equals_single_calls(*case)


@given(arguments(DISCOUNTS + NEAR_ONE[:-1]), st.integers(0, 10**6))
def test_values_and_gradients_are_those_of_rational_arithmetic(case, pick):
    """Entrywise for rewards >= 0; the gradient within the rounding of the terms it is the difference of."""
    (P, r, discount, mu, theta), terminal = case
    args = (P, np.abs(r), discount, mu, theta)
    ev = batch.evaluate(*args, terminal=terminal)
    gradient = batch.policy_gradient(*args, terminal=terminal)
    found = list(problems(args, terminal))
    place, mdp, policy = found[pick % len(found)]
    exact = oracles.rational_evaluation(mdp, policy)
    ulps = 16 * (mdp.n_states + mdp.n_actions) * EPS
    for name in ("value", "action_value", "occupancy", "expected_return"):
        truth = np.array(getattr(exact, name), dtype=float)
        assert_within(getattr(ev, name)[place], truth, ulps * np.abs(truth))
    truth = exact.logit_gradient.astype(float)
    terms = (exact.occupancy[:, None] * oracles.exact(policy.probabilities) * exact.action_value).astype(float)
    sizes = terms + (exact.occupancy * exact.value).astype(float)[:, None] * policy.probabilities
    assert_within(gradient[place], truth, ulps * sizes)
