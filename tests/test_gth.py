"""Elimination without subtraction: entrywise accuracy against rational arithmetic, whatever the discount."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from fastpg import (
    MDP,
    InvalidArgument,
    RewardToGo,
    SoftmaxPolicy,
    SolveError,
    estimate_gradient,
    evaluate,
    fisher_information,
    natural_gradient,
    problems,
    uniform,
)
from fastpg.chain import induced_chain, next_value
from fastpg.solvers import GTH, LU, Bordered, SparseLU, choose
from fastpg.solvers import gth as module
from fastpg.testing.assertions import assert_within
from fastpg.testing.models import as_dense, as_sparse, dense_reward
from fastpg.testing.oracles import exact, exact_discount, rational_evaluation, rational_solve
from fastpg.testing.strategies import mdp_and_policy

EPS = np.finfo(float).eps
# Below this floats, and what they are multiplied by, have an absolute precision only.
FLOOR = 1e-290
COMPLEMENTS = (1e-1, 1e-3, 1e-9, 1e-16, 1e-30, 1e-100, 1e-300)


def uncontrolled(P, complement, **options):
    """A model with one action."""
    P = np.asarray(P, dtype=float)
    reward = np.zeros(len(P))
    return MDP(P[:, None, :], reward, 1 - complement, discount_complement=complement, **options)


def exact_system(mdp):
    """I - discount P of a model with one action, its rows divided by their exact sums."""
    P = exact(mdp.transition[:, 0])
    total = P.sum(axis=1)
    total[total == 0] = Fraction(1)
    return exact(np.eye(mdp.n_states)) - exact_discount(mdp) * P / total[:, None]


def worst(actual, expected):
    """The largest relative error of an entry, in ulp; an entry that should be 0 must be."""
    errors = [abs(Fraction(x) - y) / y if y else Fraction(x) for x, y in zip(actual.tolist(), expected, strict=True)]
    return float(max(errors)) / EPS


def random(rng, S):
    """Every transition happens."""
    return rng.dirichlet(np.ones(S), size=S)


def skewed(rng, S):
    """Probabilities over many orders of magnitude."""
    weight = 10.0 ** rng.uniform(-30, 0, (S, S))
    return weight / weight.sum(axis=1, keepdims=True)


def few_successors(rng, S):
    """Two successors a state, the next one among them."""
    P = np.zeros((S, S))
    P[np.arange(S), (np.arange(S) + 1) % S] = 0.25
    P[np.arange(S), rng.integers(0, S, S)] += 0.75
    return P


def nearly_decomposable(rng, S):
    """Two halves that are left once in 1e9 steps."""
    half = S // 2
    P = np.full((S, S), 1e-9 / (S - half))
    P[:half, :half] = random(rng, half)
    P[half:, half:] = random(rng, S - half)
    return P / P.sum(axis=1, keepdims=True)


def bidiagonal(rng, S):
    """Stay or move on; the last state stays."""
    stay = rng.uniform(0.1, 0.999, S)
    stay[-1] = 1.0
    return np.diag(stay) + np.diag(1 - stay[:-1], 1)


def ring(rng, S):
    """To either neighbour, mostly one way."""
    return 0.9 * np.roll(np.eye(S), 1, axis=1) + 0.1 * np.roll(np.eye(S), -1, axis=1) + 0 * rng.random()


CHAINS = [random, skewed, few_successors, nearly_decomposable, bidiagonal, ring]


def errors(mdp, rng):
    """The worst relative error, in ulp, of solutions for right sides that are not negative."""
    factors, system = GTH().factorise(induced_chain(mdp, uniform(mdp))), exact_system(mdp)
    rights = [np.ones(mdp.n_states), rng.random(mdp.n_states), np.eye(mdp.n_states)[1], np.eye(mdp.n_states)[-1]]
    for b in rights:
        yield worst(factors.solve(b), rational_solve(system, exact(b)))
        yield worst(factors.solve_transposed(b), rational_solve(system.T, exact(b)))


@pytest.mark.parametrize("make", CHAINS)
@pytest.mark.parametrize("complement", COMPLEMENTS)
def test_each_entry_is_accurate_whatever_the_discount(make, complement, seeds, monkeypatch):
    for seed in seeds(1, 20):
        rng = np.random.default_rng(seed)
        S = 7
        mdp = uncontrolled(make(rng, S), complement)
        for tile in (64, 3, 1):
            monkeypatch.setattr(module, "TILE", tile)
            assert max(errors(mdp, rng)) <= 4 * S


@pytest.mark.parametrize("make", [random, skewed, few_successors, nearly_decomposable, bidiagonal])
def test_each_entry_is_accurate_at_discount_1(make, seeds, monkeypatch):
    for seed in seeds(3, 20):
        rng = np.random.default_rng(seed)
        S = 8
        ended = np.arange(S) % 5 == 2
        P = make(rng, S)
        P[5] = 0.7 * P[5] + 0.3 * ended / ended.sum()
        P[-1] = (1 - 1e-20) * P[-1] + 1e-20 * ended
        mdp = uncontrolled(P / P.sum(axis=1, keepdims=True), 0.0, terminal=ended)
        for tile in (64, 3):
            monkeypatch.setattr(module, "TILE", tile)
            assert max(errors(mdp, rng)) <= 4 * S


@pytest.mark.parametrize("complement", [1e-1, 1e-9, 1e-300])
def test_chains_of_several_tiles_against_a_closed_form(complement):
    """P = a I + (1 - a) 1 p^T has (I - g P)^{-1} = (I + g (1 - a) / (1 - g) 1 p^T) / (1 - g a)."""
    rng = np.random.default_rng(0)
    S, a = 200, 0.25
    p = rng.dirichlet(np.ones(S))
    mdp = uncontrolled(a * np.eye(S) + (1 - a) * p, complement)
    factors = GTH().factorise(induced_chain(mdp, uniform(mdp)))
    law = exact(p) / sum(exact(p))
    g, a, c = exact_discount(mdp), Fraction(a), 1 - exact_discount(mdp)
    assert factors.tiles.shape[0] > 1
    for b in (np.ones(S), rng.random(S), np.eye(S)[77]):
        right = exact(b)
        forward = (right + g * (1 - a) / c * (law @ right)) / (1 - g * a)
        backward = (right + g * (1 - a) / c * right.sum() * law) / (1 - g * a)
        assert worst(factors.solve(b), forward) <= 4 * S
        assert worst(factors.solve_transposed(b), backward) <= 4 * S


def test_rows_count_as_divided_by_their_sums():
    """A walk that stays or moves on with even odds, in rows that sum to a little more than 1."""
    S, c = 200, 0.5
    P = (0.5 * np.eye(S) + 0.5 * np.eye(S, k=1)) * (1 + 150 * EPS)
    P[-1, -1] *= 2
    mdp = uncontrolled(P, c)
    assert mdp.transition[0, 0, 0] > 0.5
    half = exact_discount(mdp) / 2
    pivot = 1 - half
    d = [(half / pivot) ** k / pivot for k in range(S - 1)]
    d.append(d[-1] * half / (1 - 2 * half))
    factors = GTH().factorise(induced_chain(mdp, uniform(mdp)))
    assert worst(factors.solve_transposed(np.eye(S)[0]), d) <= 4 * S


def rounding_of(policy):
    """The relative error of an entry of D = (I - discount P_pi)^{-1}, times two.

    An entry of P_pi carries at most S + A + 2 ulp, of normalising P and of averaging. By the matrix-tree theorem an
    entry of D is a ratio of sums of products of at most S transition and ending probabilities, so it errs 2 S times
    as much.
    """
    S, A = policy.probabilities.shape
    return 4 * S * (S + A + 4) * EPS


def estimates(mdp, policy):
    """What GTH knows of the value where the sign of rewards is dropped: sizes of what may have cancelled."""
    paid = MDP(mdp.transition, abs(mdp.reward), mdp.discount, mdp.start, terminal=mdp.terminal,
               available=mdp.available, discount_complement=mdp.discount_complement)  # fmt: skip
    chain = induced_chain(paid, policy)
    return GTH().factorise(chain).solve_up_to_a_constant(chain.reward)


@given(mdp_and_policy(sparse=None))
def test_evaluation_against_rational_arithmetic(case):
    """No condition number in these bounds."""
    mdp, policy = case
    ev, oracle, bound = evaluate(mdp, policy, solver=GTH()), rational_evaluation(mdp, policy), rounding_of(policy)
    whole, relative = estimates(mdp, policy)
    assert_within(ev.value, oracle.value.astype(float), bound * whole.size + FLOOR)
    occupancy = oracle.occupancy.astype(float)
    assert_within(ev.occupancy, occupancy, bound * occupancy + FLOOR)
    reward = np.abs(dense_reward(mdp)).max()
    taken = policy.probabilities > 0
    sizes = [np.where(taken, next_value(mdp, x.size), 0.0).max(axis=1) for x in (whole, relative)]
    size = np.minimum(*sizes)[:, None] + reward
    advantage = np.where(mdp.available | mdp.terminal[:, None], oracle.advantage.astype(float), 0.0)
    assert_within(np.where(taken, ev.advantage, 0.0), np.where(taken, advantage, 0.0), 2 * bound * size + FLOOR)
    gradient = occupancy[:, None] * policy.probabilities * size
    assert_within(ev.logit_gradient, oracle.logit_gradient.astype(float), 4 * bound * gradient + FLOOR)


@given(mdp_and_policy(sparse=None))
def test_two_ways_to_the_same_differences(case):
    mdp, policy = case
    whole, relative = estimates(mdp, policy)
    shift = whole.value - relative.value
    bound = rounding_of(policy) * (whole.size + relative.size) + FLOOR
    assert_within(shift, np.full(shift.shape, shift[0]), bound + bound[0])
    assert (relative.value == 0).any()


@pytest.mark.parametrize("storage", [as_dense, as_sparse])
@pytest.mark.parametrize("complement", COMPLEMENTS)
def test_the_gradient_keeps_its_digits_near_discount_1(complement, storage, seeds):
    for seed in seeds(1, 20):
        rng = np.random.default_rng(seed)
        P, R = rng.dirichlet(np.ones(6), size=(6, 3)), rng.standard_normal((6, 3))
        mdp = storage(MDP(P, R, 1 - complement, discount_complement=complement))
        policy = SoftmaxPolicy.random(mdp, rng=seed)
        ev, oracle = evaluate(mdp, policy, solver=GTH()), rational_evaluation(mdp, policy)
        for name in ("advantage", "logit_gradient"):
            expected = getattr(oracle, name).astype(float)
            assert_within(getattr(ev, name), expected, 1e-14 * np.abs(expected).max())
        step = oracle.advantage - oracle.advantage.sum(axis=1, keepdims=True) / 3
        expected = (step / Fraction(complement)).astype(float)
        assert_within(natural_gradient(ev), expected, 1e-14 * np.abs(expected).max())


@given(
    mdp_and_policy(discount=0.5, sparse=None),
    st.lists(st.floats(-10, 10), min_size=5, max_size=5),
    st.booleans(),
)
def test_the_parts_say_how_much_cancels(case, numbers, transposed):
    mdp, policy = case
    b = np.array(numbers[: mdp.n_states])
    factors = GTH().factorise(induced_chain(mdp, policy))
    solve = factors.solve_transposed if transposed else factors.solve
    positive, negative = factors.solve_parts(b, transposed=transposed)
    assert (positive >= 0).all()
    assert (negative >= 0).all()
    assert_within(positive - negative, solve(b), 0)
    assert_within(positive, solve(np.maximum(b, 0)), 0)
    assert_within(negative, solve(np.maximum(-b, 0)), 0)
    both = factors.solve_parts(np.stack([b, -b], axis=1), transposed=transposed)
    assert_within(both.positive[:, 0], both.negative[:, 1], 0)
    assert_within(both.positive[:, 0], positive, 4 * mdp.n_states * EPS * positive)


def test_a_chance_of_ending_that_LU_loses():  # noqa: N802
    mdp = MDP([[[1.0, 1e-20]], [[0.0, 0.0]]], [1.0, 0.0], 1, start=0, terminal=[False, True])
    for model in (mdp, as_sparse(mdp)):
        ev = evaluate(model, uniform(mdp), solver=GTH())
        assert_within(ev.value, [1e20, 0], 1e5)
        assert_within(ev.occupancy, [1e20, 0], 1e5)
        assert_within(ev.visitation, [0, 1], EPS)


def test_a_stay_that_float64_cannot_hold_is_refused():
    P = [[1.0, 1e-200, 0.0], [1.0, 0.0, 1e-200], [0.0, 0.0, 0.0]]
    mdp = uncontrolled(P, 0.0, terminal=[False, False, True])
    with pytest.raises(SolveError, match=r"singular to float64 at discount 1\.0 with 3 states"):
        evaluate(mdp, uniform(mdp), solver=GTH())


@pytest.mark.parametrize("solver", [GTH(), Bordered(), LU()])
def test_large_sparse_chains_are_refused(solver):
    mdp = MDP(sparse.eye_array(5001, format="csr"), np.ones(5001), 0.9)
    name = type(solver).__name__
    rule = f"{name} is a dense solver and takes sparse chains of up to 5000 states but this one has 5001; use Spa"
    with pytest.raises(InvalidArgument, match=rule):
        evaluate(mdp, uniform(mdp), solver=solver)


# Discounted, although 1 - 1e-300 is 1 in floats: two states that swap, the first of which pays 1.
SWAP = MDP([[[0.0, 1.0]], [[1.0, 0.0]]], [1.0, 0.0], 1.0, 0, discount_complement=1e-300)


@pytest.mark.parametrize("mdp", [SWAP, as_sparse(SWAP)], ids=["dense", "sparse"])
def test_a_discount_that_rounds_to_1_needs_no_end(mdp):
    assert isinstance(choose(induced_chain(mdp, uniform(mdp))), GTH)
    ev = evaluate(mdp, uniform(mdp))
    assert_within(ev.value, [5e299, 5e299], 8 * EPS * 5e299)
    assert_within(ev.visitation, [0.5, 0.5], 8 * EPS)
    assert_within(ev.state_action_visitation.sum(), 1.0, 8 * EPS)
    assert_within(fisher_information(ev).weight, [0.5, 0.5], 8 * EPS)
    for solver in (LU(), SparseLU()):
        with pytest.raises(
            SolveError, match=r"loses a discount_complement of 1e-300 in float64, where .*; use solvers"
        ):
            evaluate(mdp, uniform(mdp), solver=solver)
    with pytest.raises(SolveError, match="state 0 belongs to a recurrent class of 2 states"):
        evaluate(mdp.discounted(1.0), uniform(mdp))
    with pytest.raises(InvalidArgument, match=r"needs a discount below 1 in float64 but .* complement 1e-300"):
        estimate_gradient(mdp, uniform(mdp), RewardToGo(), n=10, horizon="geometric", rng=0)
    assert estimate_gradient(mdp, uniform(mdp), RewardToGo(), n=10, horizon=4, rng=0).n == 10


def test_the_natural_gradient_is_scaled_by_the_complement():
    """One state, two actions: A = (1/2, -1/2), so that F^+ dJ = A / complement."""
    for complement in (1e-1, 1e-9, 2.0**-52):
        mdp = MDP([[[1.0], [1.0]]], [[0.5, -0.5]], 1 - complement, discount_complement=complement)
        step = natural_gradient(evaluate(mdp, uniform(mdp), solver=GTH()))
        assert_within(step, [[0.5 / complement, -0.5 / complement]], 4 * EPS / complement)


def test_the_given_complement_is_what_counts():
    """1 - 0.9 is 0.1 less 2e-17 in floats; V = 1 / complement."""
    for complement in (0.1, 1e-5, 1e-12):
        mdp = uncontrolled([[1.0]], complement)
        mdp = MDP(mdp.transition, [1.0], mdp.discount, discount_complement=complement)
        assert_within(evaluate(mdp, uniform(mdp), solver=GTH()).value, [1 / complement], EPS / complement)


@pytest.mark.parametrize("chance", [1e-3, 1e-9, 1e-15, 1e-100])
def test_the_gradient_keeps_its_digits_where_the_end_is_far(chance):
    """Values of 1 / chance that differ by 1; an action that is never taken leads to a trap, which has no value."""
    rng = np.random.default_rng(0)
    P, R = np.zeros((6, 3, 6)), rng.standard_normal((6, 3))
    P[:4, :2, :4] = rng.dirichlet(np.ones(4), size=(4, 2))
    P[0, 0] = (1 - chance) * P[0, 0] + chance * np.eye(6)[4]
    P[:4, 2, :4] = rng.dirichlet(np.ones(4), size=4)
    R[4] = 0.0
    policy = SoftmaxPolicy([[0.3, 0.0, -np.inf], *2 * [[0.0, 0.5, 0.1]], *3 * [[0.0, 0.0, 0.0]]])
    P[5, :, 5] = 1.0
    ended = np.arange(6) == 4
    start = np.array([1, 1, 1, 1, 0, 0]) / 4
    trapped = P.copy()
    trapped[0, 2] = np.eye(6)[5]
    ev = evaluate(MDP(trapped, R, 1, start, terminal=ended), policy, solver=GTH())
    assert np.isnan(ev.advantage[0, 2])
    P[5, :] = np.eye(6)[4]  # rational arithmetic has no undefined values
    oracle = rational_evaluation(MDP(P, R, 1, start, terminal=ended), policy)
    expected = oracle.logit_gradient.astype(float)
    assert_within(ev.logit_gradient, expected, 1e-14 * np.abs(expected).max())


def test_without_the_last_state_a_transposed_solve_leaves_it_out():
    """Of 200 states, so that there are several tiles; the smaller system by NumPy."""
    mdp = problems.random_mdp(200, 2, rng=0, discount=0.9)
    chain = induced_chain(mdp, SoftmaxPolicy.random(mdp, rng=1))
    factors, b = GTH().factorise(chain), np.random.default_rng(2).standard_normal(200)
    keep = factors.order[:-1]
    system = np.eye(200) - chain.discount * chain.transition
    x = factors.solve_transposed_without_last(b)
    assert x[factors.order[-1]] == 0
    np.testing.assert_allclose(x[keep], np.linalg.solve(system[np.ix_(keep, keep)].T, b[keep]), rtol=0, atol=1e-12)
