"""Batches against single calls, rational arithmetic, complex steps and the laws of broadcasting."""

import tracemalloc
from contextlib import contextmanager
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes

import fastpg
from fastpg import MDP, SoftmaxPolicy, batch, problems
from fastpg.kernels import batch as kernels
from fastpg.kernels import lanes, rows
from fastpg.kernels.exponential import exponential
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


def single_problems(args, terminal):
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
    for place, mdp, policy in single_problems(args, terminal):
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
        assert_within(ev.probabilities[place], one.policy.probabilities, 4 * EPS * one.policy.probabilities + 1e-323)
        assert_within(gradient[place], fastpg.policy_gradient(one), second)
        F = fastpg.fisher_information(one)
        assert_within(blocks[place], F.blocks, unit)
        # Where the weight is rounding itself, one of the two may be 0.
        clear = (F.weight == 0) | (F.weight > 1e-250)
        assert_within(natural[place][clear], fastpg.natural_gradient(one)[clear], 2 * first / scale)


# From how many states on problems are solved by rows; fewer are solved in lanes.
WAYS = pytest.mark.parametrize("long", [1, 1000], ids=["rows", "lanes"])


@contextmanager
def long_from(states):
    """Problems of so many states and more are solved by rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "LONG", states)
        yield


@WAYS
@given(arguments())
def test_a_batch_is_its_single_calls(long, case):
    with long_from(long):
        assert_equals_single_calls(*case)


@WAYS
@given(arguments(NEAR_ONE, ends=True))
def test_a_batch_is_its_single_calls_near_discount_1_and_at_1(long, case):
    with long_from(long):
        assert_equals_single_calls(*case)


@WAYS
@given(arguments(DISCOUNTS + NEAR_ONE[:-1]), st.integers(0, 10**6))
def test_values_and_gradients_are_those_of_rational_arithmetic(long, case, pick):
    """Entrywise for rewards >= 0; the gradient within the rounding of the terms it is the difference of."""
    (P, r, discount, mu, theta), terminal = case
    args = (P, np.abs(r), discount, mu, theta)
    with long_from(long):
        ev = batch.evaluate(*args, terminal=terminal)
        gradient = batch.policy_gradient(*args, terminal=terminal)
    found = list(single_problems(args, terminal))
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


@pytest.mark.parametrize("S", [batch.LONG - 1, batch.LONG, 48, 49, 101])
def test_rows_of_any_length(S):
    """More than one panel, and every remainder of sums in parts."""
    rng = np.random.default_rng(S)
    terminal = rng.random((3, S)) < 0.1
    r = np.where(terminal[..., None], 0.0, rng.normal(size=(3, S, 2)))
    args = (laws(rng, 3, S, 2, S), r, [0.5, 0.99, 1 - 1e-6], laws(rng, S), rng.normal(size=(3, S, 2)))
    assert_equals_single_calls(args, terminal)


@WAYS
@pytest.mark.parametrize("complement", [1e-3, 1e-6, 1e-9, 1e-12])
def test_gradients_keep_their_digits_near_discount_1(monkeypatch, long, complement):
    """The differences of values that are all near 1 / (1 - discount), relative to the largest entry."""
    monkeypatch.setattr(batch, "LONG", long)
    rng = np.random.default_rng(0)
    args = (laws(rng, 5, 6, 3, 6), rng.random((5, 6, 3)), 1 - complement, np.full(6, 1 / 6), rng.normal(size=(5, 6, 3)))
    gradient = batch.policy_gradient(*args)
    for place, mdp, policy in single_problems(args, np.zeros(6, bool)):
        truth = oracles.rational_evaluation(mdp, policy).logit_gradient.astype(float)
        assert_within(gradient[place], truth, 100 * EPS * np.abs(truth).max())


@WAYS
def test_a_vanishing_gradient_keeps_its_digits(monkeypatch, long):
    """The chain of Agarwal et al. (2021, Proposition 4.1), whose values span 50 orders of magnitude, entry by entry."""
    monkeypatch.setattr(batch, "LONG", long)
    mdp = problems.vanishing_gradient_chain(64)
    policy = SoftmaxPolicy([[-1.0, 0.0, 0.0, 0.0]] * 66)
    args = (mdp.transition, mdp.expected_reward, mdp.discount, mdp.start, policy.logits)
    truth = oracles.rational_evaluation(mdp, policy).logit_gradient.astype(float)
    assert_within(batch.policy_gradient(*args), truth, 1e-13 * np.abs(truth))


@WAYS
def test_gradients_are_derivatives_of_the_return(monkeypatch, long):
    """Complex steps through an own softmax and an own solve."""
    monkeypatch.setattr(batch, "LONG", long)
    rng = np.random.default_rng(1)
    P, r, theta = laws(rng, 4, 5, 3, 5), rng.normal(size=(5, 3)), rng.normal(size=(3, 1, 5, 3))
    theta[0, 0, 2, 1] = -np.inf
    args = (P, r, [0.0, 0.5, 0.9, 0.95], laws(rng, 5), theta)
    gradient = batch.policy_gradient(*args)
    for place, mdp, policy in single_problems(args, np.zeros(5, bool)):
        expected = oracles.complex_step_gradient(mdp, policy)
        assert_within(gradient[place], expected, rounding(mdp, policy, resolvents=2))


def example(n=300, S=4, A=3, seed=0):
    """Arguments of n problems that share nothing, one third of them with a terminal state."""
    rng = np.random.default_rng(seed)
    terminal = np.zeros((n, S), bool)
    terminal[::3, 1] = True
    r = np.where(terminal[..., None], 0.0, rng.normal(size=(n, S, A)))
    theta = rng.normal(size=(n, S, A))
    theta[::5, 0, 1] = -np.inf
    return [laws(rng, n, S, A, S) * (1 + 1e-10), r, rng.random(n), laws(rng, n, S), theta], terminal


def everything(args, terminal, **options):
    """All results of a batch, one after another."""
    found = [*batch.evaluate(*args, terminal=terminal, **options)]
    return found + [f(*args, terminal=terminal, **options) for f in FUNCTIONS[1:]]


FUNCTIONS = [batch.evaluate, batch.policy_gradient, batch.natural_gradient, batch.fisher]


@WAYS
def test_a_problem_does_not_depend_on_its_neighbours_or_threads(monkeypatch, long):
    monkeypatch.setattr(batch, "LONG", long)
    args, terminal = example()
    whole = everything(args, terminal, threads=1)
    monkeypatch.setattr(batch, "WORTH_A_THREAD", 0)
    for threads in (None, 2, 3):
        for x, y in zip(everything(args, terminal, threads=threads), whole, strict=True):
            np.testing.assert_array_equal(x, y)
    for part in (slice(7, 8), slice(100, 131), slice(None, None, -1)):
        some = everything([x[part] for x in args], terminal[part])
        for x, y in zip(some, whole, strict=True):
            np.testing.assert_array_equal(x, y[part])


def test_how_an_array_is_stored_does_not_matter():
    args, terminal = example()
    whole = everything(args, terminal)
    others = [np.asfortranarray(x) for x in args], [x[::-1].copy()[::-1] for x in args], [x.tolist() for x in args]
    for other in others:
        for x, y in zip(everything(other, terminal), whole, strict=True):
            np.testing.assert_array_equal(x, y)
    for x in args:
        assert x.flags.writeable  # arguments are left as they were
        x.flags.writeable = False
    for x, y in zip(everything(args, terminal.astype(int)), whole, strict=True):
        np.testing.assert_array_equal(x, y)
        assert not x.flags.writeable
    args[1] = args[1].astype(np.float32)
    for x, y in zip(
        everything(args, terminal), everything([args[0], args[1].astype(float), *args[2:]], terminal), strict=True
    ):
        np.testing.assert_array_equal(x, y)


def test_rewards_of_states_are_those_of_each_action():
    args, _ = example()
    args[1] = np.arange(4.0)[:, None]
    np.testing.assert_array_equal(
        batch.policy_gradient(*args), batch.policy_gradient(args[0], np.tile(args[1], 3), *args[2:])
    )


def test_what_is_broadcast_is_not_copied():
    """One model under 500 policies, written in three ways; 500 copies of it would take 64 MB."""
    rng = np.random.default_rng(0)
    n, S, A = 500, 40, 10
    P, theta = laws(rng, S, A, S), rng.normal(size=(n, S, A))
    many = np.broadcast_to(P, (n, S, A, S))
    results = [batch.policy_gradient(P, np.ones((S, 1)), 0.9, np.eye(S)[0], theta, threads=1)]
    for transition in (P, P[None], many):
        tracemalloc.start()
        results.append(batch.policy_gradient(transition, np.ones((S, 1)), 0.9, np.eye(S)[0], theta, threads=1))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < results[-1].nbytes + 2 * batch.SCRATCH
        np.testing.assert_array_equal(results[-1], results[0])


def test_a_batch_without_problems():
    args, terminal = example()
    none = [x[:0] for x in args]
    assert batch.policy_gradient(*none, terminal=terminal[:0]).shape == (0, 4, 3)
    assert batch.fisher(*none).shape == (0, 4, 3, 3)
    assert batch.evaluate(*none[:1], args[1][:1], 0.5, *none[3:]).expected_return.shape == (0,)
    assert batch.natural_gradient(np.ones((0, 2, 1, 1, 1)), [[1.0]], 0.5, [1.0], np.zeros((2, 1, 1))).shape == (
        0,
        2,
        1,
        1,
    )


@WAYS
def test_rows_of_terminal_states_are_not_read(monkeypatch, long):
    monkeypatch.setattr(batch, "LONG", long)
    args, terminal = example()
    before = everything(args, terminal)
    args[0][::3, 1] = np.nan
    for x, y in zip(everything(args, terminal), before, strict=True):
        np.testing.assert_array_equal(x, y)


def test_exponentials_are_right_to_an_ulp():
    """Against decimal arithmetic of 40 digits; where the result is subnormal an ulp is the smallest float."""
    rng = np.random.default_rng(0)
    x = np.concatenate([[0.0, -0.0, -1e-300, -708.4, -745.13], -rng.exponential(1, 2000), -rng.uniform(0, 745, 2000)])
    with localcontext(prec=40):
        truth = [Decimal(value).exp() for value in x.tolist()]
        out = x.copy()
        exponential(np.empty((2, x.size)), out)
        errors = [abs(Decimal(y) - z) for y, z in zip(out.tolist(), truth, strict=True)]
        ulps = [error / Decimal(float(np.spacing(float(z)))) for error, z in zip(errors, truth, strict=True)]
    assert max(ulps) < 1
    odd = np.array([-np.inf, np.nan, -746.0, -1e308, 0.0])
    exponential(np.empty((2, 5)), odd)
    np.testing.assert_array_equal(odd, [0.0, np.nan, 0.0, 0.0, 1.0])


@WAYS
def test_compiled_equals_interpreted(monkeypatch, long):
    monkeypatch.setattr(batch, "LONG", long)
    args, terminal = example(n=20)
    compiled = everything(args, terminal)
    for module in (kernels, lanes, rows):
        for name, kernel in list(vars(module).items()):
            if hasattr(kernel, "py_func"):
                monkeypatch.setattr(module, name, kernel.py_func)
    for x, y in zip(compiled, everything(args, terminal), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=64 * EPS * np.abs(y).max())
