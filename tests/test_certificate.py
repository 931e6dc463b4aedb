"""Bounds on errors, held against rational arithmetic: none may be exceeded, and none may be useless."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from scipy import sparse

from fastpg import MDP, SoftmaxPolicy, evaluate, problems, solvers
from fastpg.certificate.equations import Equations, rounded_up
from fastpg.certificate.majorant import Entrywise, Normwise, majorant, normwise
from fastpg.errors import SolveError
from fastpg.exact import evaluate_exactly
from fastpg.testing import strategies
from fastpg.testing.models import as_sparse

SOLVERS = (None, None, solvers.LU(), solvers.GTH())
BOUNDED = ("value", "action_value", "advantage")
DISCOUNTS = (0.0, 0.1, 0.5, 0.9, 0.99, 1 - 1e-4, 1 - 1e-6, 1 - 1e-9, 1 - 1e-12, 1 - 2.0**-53, 1.0)


def uncontained(floats, bounds, exact):
    """Entries whose distance from the rational truth is more than their bound."""
    found = []
    for place, x in np.ndenumerate(np.asarray(exact, dtype=object)):
        float_x, bound = float(np.asarray(floats)[place]), float(np.asarray(bounds)[place])
        assert math.isnan(bound) == (x is None)
        if x is not None and bound < np.inf and abs(Fraction(float_x) - x) > Fraction(bound):
            found.append((place, float_x, bound, x))
    return found


def wrong_signs(ev, exact):
    """Entries of the gradient whose sign is certain, and not that of the rational truth."""
    signs = np.array([(x > 0) - (x < 0) for x in exact.logit_gradient.ravel()]).reshape(ev.logit_gradient.shape)
    return np.argwhere(ev.error.certain_signs & (np.sign(ev.logit_gradient) != signs)).tolist()


def all_uncontained(ev):
    """The entries of every bounded quantity that leave their bound, and the signs that are certain and wrong."""
    exact, error = evaluate_exactly(ev.mdp, ev.policy), ev.error
    found = {name: uncontained(getattr(ev, name), getattr(error, name), getattr(exact, name)) for name in BOUNDED}
    found["gradient"] = uncontained(ev.logit_gradient, error.gradient, exact.logit_gradient)
    found["return"] = uncontained(ev.expected_return, error.expected_return, exact.expected_return)
    off = sum((abs(Fraction(float(x)) - y) for x, y in zip(ev.occupancy, exact.occupancy, strict=True)), Fraction(0))
    found["occupancy"] = [off] if error.occupancy < np.inf and off > Fraction(error.occupancy) else []
    found["signs"] = wrong_signs(ev, exact)
    return {name: entries for name, entries in found.items() if entries}


def generated(seed):
    """A model, a policy and a solver: sizes, sparsity, tiny probabilities, wild rewards, every discount."""
    rng = np.random.default_rng(seed)
    S, A = int(rng.integers(1, 9)), int(rng.integers(1, 5))
    weight = rng.random((S, A, S))
    kind = rng.integers(5)
    if kind == 1:
        weight *= rng.random((S, A, S)) < 0.4
    elif kind == 2:
        weight = 10.0 ** rng.uniform(-300, 0, (S, A, S))
    elif kind == 3:
        weight *= (rng.random((S, A, S)) < 0.5) * 10.0 ** rng.choice([0, -9, -18, -30], (S, A, S))
    elif kind == 4:
        weight = np.zeros((S, A, S))
    weight[np.arange(S)[:, None], np.arange(A), rng.integers(0, S, (S, A))] += 1
    discount, complement, ended = float(rng.choice(DISCOUNTS)), None, np.zeros(S, bool)
    if rng.random() < 0.15:
        discount, complement = 1.0, 10.0 ** rng.uniform(-300, -17)
    if rng.random() < 0.5 or (discount == 1 and complement is None):
        end = rng.integers(0, S)
        ended[end] = True
        weight[:, :, end] += rng.choice([1e-12, 0.01, 0.5]) if discount == 1 else 0.0
    reward = rng.normal(size=[(S,), (S, A), (S, A, S)][rng.integers(3)])
    form = rng.integers(6)
    if form == 1:
        reward = np.abs(reward)
    elif form == 2:
        reward = np.round(reward)
    elif form > 2:
        reward *= (1.0, 1e250, 1e-300, 10.0 ** rng.uniform(-300, 200, reward.shape))[form - 2]
    reward[ended] = 0.0
    start = int(rng.integers(0, S)) if ended.all() or rng.random() < 0.5 else None
    transition = weight / weight.sum(axis=2, keepdims=True)
    mdp = MDP(transition, reward, discount, start, terminal=ended, discount_complement=complement)
    policy = SoftmaxPolicy(rng.normal(size=(S, A)) * rng.choice([0, 1, 10, 300, 1e300]))
    return (as_sparse(mdp) if rng.random() < 0.3 else mdp), policy, SOLVERS[rng.integers(4)]


def small(*, discount=0.9, reward=1.0, tiny=0.1, start=None, states=3, actions=2, **options):
    """A chain of a few states whose first action goes on with probability 1 - tiny and whose last state loops."""
    transition = np.zeros((states, actions, states))
    ahead = np.minimum(np.arange(states) + 1, states - 1)
    for a in range(actions):
        transition[np.arange(states), a, ahead] += 1 - tiny * (a + 1)
        transition[np.arange(states), a, 0] += tiny * (a + 1)
    pays = np.broadcast_to(reward, (states, actions)).astype(float)
    ended = np.asarray(options.get("terminal", np.zeros(states)), dtype=bool)
    return MDP(transition, np.where(ended[:, None], 0.0, pays), discount, start, **options)


END = [False, False, True]
FLAT = [[0.0, 0.0]] * 3
EXTREMES = {
    "logits of +-1.7e308": (small(), [[1.7e308, -1.7e308], [-1.7e308, 1.7e308], [0, 1.7e308]]),
    "a masked action": (small(), [[-np.inf, 0.0], [0.0, -np.inf], [0.0, 0.0]]),
    "an unavailable action": (small(available=[[1, 0], [1, 1], [0, 1]]), FLAT),
    "one action": (small(actions=1), [[0.0]] * 3),
    "one state": (small(states=1), [[0.0, 1.0]]),
    "one state that ended": (small(states=1, terminal=[True], start=0), [[0.0, 1.0]]),
    "discount 0": (small(discount=0.0), FLAT),
    "discount 1 - 2^-53": (small(discount=1 - 2.0**-53), FLAT),
    "discount 1, an end": (small(discount=1.0, terminal=END), FLAT),
    "rewards of 1e300": (small(reward=1e300), FLAT),
    "rewards of 1e-300": (small(reward=1e-300), FLAT),
    "rewards of 1e300, 1 and 1e-300": (small(reward=[[1e300, 1e-300], [1.0, -1e300], [1e-300, 0.0]]), FLAT),
    "rewards of 1e306": (small(reward=1e306), FLAT),
    "rewards of 1e302, a discount near 1": (small(reward=[[1e302, 0], [0, 0], [0, 0]], discount=0.99999), FLAT),
    "rewards at both ends of float64": (small(reward=[[1.7e308, -1e308]] * 3, discount=0.0), FLAT),
    "rewards that float64 holds with a digit": (small(reward=[[1e-323, 0.0]] * 3), FLAT),
    "probabilities of 1e-300": (small(tiny=1e-300), FLAT),
    "probabilities of 1e-300, an end, discount 1": (small(tiny=1e-300, terminal=END, discount=1.0), FLAT),
    "a start in the last state": (small(start=2), FLAT),
    "a start that has ended": (small(start=2, terminal=END, discount=1.0), FLAT),
    "states that are not reached": (small(start=2, tiny=0.0), FLAT),
}


@pytest.mark.parametrize("storage", [lambda mdp: mdp, as_sparse], ids=["dense", "sparse"])
@pytest.mark.parametrize("name", EXTREMES)
def test_extreme_inputs_give_the_right_answer_within_its_bound(name, storage):
    mdp, logits = EXTREMES[name]
    with np.errstate(over="ignore"):  # differences of logits
        ev = evaluate(storage(mdp), SoftmaxPolicy(logits))
    assert all_uncontained(ev) == {}
    for floats in (ev.value, ev.action_value, ev.advantage, ev.occupancy, ev.visitation, ev.logit_gradient):
        assert np.isfinite(floats).all()
    assert ev.visitation.sum() == pytest.approx(1, rel=1e-12)
    largest = np.abs(ev.value).max()
    assert ev.error.value.max() <= max(1e-12 * largest, 1e-320)


@pytest.mark.parametrize(
    ("mdp", "words"),
    [
        (small(reward=1e308), r"overflows float64 at discount 0.9 with rewards up to 1e\+308"),
        (small(discount=1.0), "must end for certain"),
        (small(discount=1.0, tiny=0.0, terminal=END, start=0, available=[[1, 1], [0, 1], [1, 1]]), None),
    ],
)
def test_what_has_no_answer_is_an_error_that_names_the_cause(mdp, words):
    policy = SoftmaxPolicy(FLAT).masked(mdp.available)
    if words is None:
        assert evaluate(mdp, policy).value[0] == 2.0
    else:
        with pytest.raises(SolveError, match=words):
            evaluate(mdp, policy)


@pytest.mark.parametrize("discount", [0.99, 1.0])
def test_a_line_of_100_000_states(discount):
    S = 100_000
    ahead = sparse.csr_array((np.ones(S), (np.arange(S), np.minimum(np.arange(S) + 1, S - 1))), shape=(S, S))
    mdp = MDP(ahead, np.where(np.arange(S) < S - 1, 1.0, 0.0), discount, 0, terminal=np.arange(S) == S - 1)
    ev = evaluate(mdp, SoftmaxPolicy.uniform(mdp))
    left = np.arange(S - 1, -1, -1.0)
    truth = left if discount == 1 else -np.expm1(left * np.log(discount)) / (1 - discount)
    assert (np.abs(ev.value - truth) <= ev.error.value + 4e-15 * truth).all()
    assert ev.error.value.max() <= 1e-12 * truth.max()
    assert ev.expected_return == pytest.approx(truth[0], rel=1e-12)


@pytest.mark.heavy
def test_no_bound_is_exceeded(seeds):
    judged = 0
    for seed in seeds(1000, 10_000):
        mdp, policy, solver = generated(seed)
        try:
            ev = evaluate(mdp, policy, solver=solver)
            wrong = all_uncontained(ev)
        except SolveError:  # overflow, LU at a discount that rounds to 1, digits lost
            continue
        judged += 1
        assert wrong == {}, f"seed {seed}: {mdp!r}, {policy!r}"
    assert judged > 0.9 * len(seeds(1000, 10_000))


@given(strategies.mdp_and_policy())
def test_no_bound_is_exceeded_on_drawn_models(case):
    assert all_uncontained(evaluate(*case)) == {}


@pytest.mark.parametrize("complement", [1e-1, 1e-3, 1e-5, 1e-7, 1e-9, 1e-12, 1e-15, 1e-20, 1e-100, 1e-300])
@pytest.mark.parametrize("S", [1, 5, 40])
def test_bounds_are_narrow(complement, S):
    """Default settings; what LU loses at 1 - discount = 1e-3 is the largest width."""
    drawn = problems.random_mdp(S, 3, rng=S)
    given = complement if complement < 1e-15 else None
    mdp = MDP(drawn.transition, drawn.reward, 1 - complement, discount_complement=given)
    ev = evaluate(mdp, SoftmaxPolicy.random(mdp, rng=1))
    size = np.abs(ev.logit_gradient).max()
    assert ev.error.value.max() <= 1e-12 * np.abs(ev.value).max()
    assert ev.error.expected_return <= 1e-12 * abs(ev.expected_return)
    assert ev.error.occupancy <= 1e-12 * ev.occupancy.sum()
    assert ev.error.gradient.max() <= 1e-12 * size
    if S > 1:
        assert ev.error.certain_signs.mean() > 0.98


@pytest.mark.parametrize("chance", [1e-9, 1e-17, 1e-30, 1e-100])
@pytest.mark.parametrize("signed", [False, True])
def test_bounds_are_narrow_where_the_end_is_rare(chance, signed):
    """At discount 1 the process ends from one state, once in 1 / chance steps."""
    rng = np.random.default_rng(0)
    S = 20
    P = np.zeros((S + 1, 2, S + 1))
    P[:S, :, :S] = rng.dirichlet(np.ones(S), size=(S, 2))
    P[0, :, S] = chance
    P /= P.sum(axis=2, keepdims=True) + (P.sum(axis=2, keepdims=True) == 0)
    reward = rng.standard_normal((S + 1, 2)) if signed else rng.random((S + 1, 2))
    reward[S] = 0
    mdp = MDP(P, reward, 1.0, 0, terminal=np.arange(S + 1) == S)
    ev = evaluate(mdp, SoftmaxPolicy.random(mdp, rng=1))
    assert all_uncontained(ev) == {}
    # Rewards of either sign cancel in V a hundredfold.
    assert ev.error.value.max() <= (1e-12 if signed else 1e-14) * np.abs(ev.value).max()
    assert ev.error.advantage.max() <= 1e-14 * np.abs(ev.advantage).max()
    assert ev.error.occupancy <= 1e-14 * ev.occupancy.sum()
    assert ev.error.gradient.max() <= 1e-14 * np.abs(ev.logit_gradient).max()
    assert ev.error.certain_signs.all()


def test_bounds_are_of_the_size_of_the_errors():
    """The largest error of each quantity is more than half its bound: refinement leaves rounding alone."""
    mdp = problems.random_mdp(20, 3, rng=0, discount=0.999)
    ev = evaluate(mdp, SoftmaxPolicy.random(mdp, rng=1))
    exact = evaluate_exactly(mdp, ev.policy)
    assert isinstance(ev.error._majorant, Entrywise)
    for name, floats, truth in (
        ("value", ev.value, exact.value),
        ("action_value", ev.action_value, exact.action_value),
        ("advantage", ev.advantage, exact.advantage),
        ("gradient", ev.logit_gradient, exact.logit_gradient),
    ):
        off = np.array([float(abs(Fraction(float(x)) - y)) for x, y in zip(floats.ravel(), truth.ravel(), strict=True)])
        bound = getattr(ev.error, name).ravel()
        assert (off <= bound).all()
        assert off.max() > 0.5 * bound[off.argmax()], name


@pytest.mark.parametrize("H", [8, 64, 200])
def test_signs_of_a_vanishing_gradient_are_certain(H):
    mdp = problems.vanishing_gradient_chain(H)
    logits = np.zeros((H + 2, mdp.n_actions))
    logits[:, 0] = np.log(0.2 / (0.8 / (mdp.n_actions - 1)))
    ev = evaluate(mdp, SoftmaxPolicy(logits))
    truth = evaluate_exactly(mdp, ev.policy)
    exact = truth.logit_gradient
    zero = np.array([x == 0 for x in exact.ravel()]).reshape(exact.shape)
    assert wrong_signs(ev, truth) == []
    assert ev.error.certain_signs[~zero].all()
    np.testing.assert_array_equal(np.sign(ev.logit_gradient[~zero]), [1 if x > 0 else -1 for x in exact[~zero]])
    norm = math.sqrt(sum((x * 10**120) ** 2 for x in exact.ravel()))
    off = math.sqrt(
        sum(((Fraction(float(g)) - x) * 10**120) ** 2 for g, x in zip(ev.logit_gradient.flat, exact.flat, strict=True))
    )
    assert off <= 1e-12 * norm


def nearly_decomposable(link, complement):
    """Two halves of three states that meet with probability `link`."""
    rng = np.random.default_rng(3)
    half = rng.dirichlet(np.ones(3), size=(2, 3, 2))
    transition = np.zeros((6, 2, 6))
    transition[:3, :, :3], transition[3:, :, 3:] = half
    transition *= 1 - link
    transition[0, :, 5] += link
    transition[1:, :, 0][2:] += link
    transition[1:3, :, 4] += link
    return MDP(transition, rng.random((6, 2)), 1 - complement)


@pytest.mark.parametrize("complement", [1e-2, 1e-5, 1e-9, 1e-12])
def test_a_gradient_that_rounding_would_spoil_comes_from_refined_values(complement):
    """V is nearly constant in each half, and differences of values within a half decide."""
    mdp = nearly_decomposable(1e-9, complement)
    ev = evaluate(mdp, SoftmaxPolicy.uniform(mdp))
    exact = evaluate_exactly(mdp, ev.policy).logit_gradient
    off = np.array([float(Fraction(float(g)) - x) for g, x in zip(ev.logit_gradient.flat, exact.flat, strict=True)])
    assert np.abs(off).max() <= 1e-10 * np.abs(ev.logit_gradient).max()


def equations_of(ev):
    """The equations that an evaluation's bounds come from."""
    return Equations(ev.mdp, ev.policy, ev.mdp.terminal | ev.chain.undefined, 1.0, 1.0)


@given(strategies.mdp_and_policy(max_states=5))
def test_majorants_bound_the_inverse(case):
    """D b and D^T b from rational arithmetic, of b = start and b = 1."""
    ev = evaluate(*case)
    at, S = equations_of(ev), ev.mdp.n_states
    exact = evaluate_exactly(*case)
    kinds = majorant(at, ev.chain, ev.factors), normwise(at, ev.chain, ev.factors)
    assert isinstance(kinds[1], Normwise)
    goes_on = ~(ev.mdp.terminal | ev.chain.undefined)
    for kind in kinds:
        entries, total = kind.arrivals(ev.mdp.start)
        moved = kind.arrivals(ev.mdp.start, 1.0)[0][goes_on]
        d = exact.occupancy[goes_on]
        assert (d <= np.array([Fraction(x) for x in moved], dtype=object)).all()
        assert (d <= np.array([Fraction(x) for x in entries[goes_on]], dtype=object)).all()
        assert sum(d) <= Fraction(total)
        steps = kind.values(np.where(goes_on, 1.0, 0.0)).entries
        assert sum(exact.occupancy) <= sum(
            Fraction(m) * Fraction(x) for m, x in zip(ev.mdp.start, steps, strict=True)
        ) * (1 + S * Fraction(1, 10**9))


def test_norms_alone_bound_as_well():
    """What large models get: the same residuals, and one vector in place of an elimination."""
    for seed in range(200):
        mdp, policy, _ = generated(seed)
        try:
            ev = evaluate(mdp, policy)
        except SolveError:
            continue
        ev.error.__dict__["_majorant"] = normwise(ev.error._equations, ev.chain, ev.factors)
        try:
            assert all_uncontained(ev) == {}, seed
        except SolveError:
            continue


def test_a_large_sparse_model_has_bounds():
    """A line of 5,000 states, past what elimination is used for."""
    S = 5000
    forward = sparse.csr_array((np.ones(S), (np.arange(S), np.minimum(np.arange(S) + 1, S - 1))), shape=(S, S))
    mdp = MDP(forward, np.eye(1, S, S - 2)[0], 0.999, 0, terminal=np.arange(S) == S - 1)
    ev = evaluate(mdp, SoftmaxPolicy.uniform(mdp))
    truth = np.array([0.999 ** (S - 2 - s) for s in range(S - 1)])
    assert isinstance(ev.error._majorant, Normwise)
    assert (np.abs(ev.value[:-1] - truth) <= ev.error.value[:-1] + 1e-12 * truth).all()
    assert ev.error.value.max() <= 1e-13
    assert ev.error.occupancy <= 1e-10


def test_values_that_do_not_exist_have_no_bound():
    mdp = MDP([[[0.0, 1.0, 0.0]], [[0.0, 0.0, 0.0]], [[0.0, 0.0, 1.0]]], [1.0, 0.0, 1.0], 1.0, 0, terminal=[0, 1, 0])
    error = evaluate(mdp, SoftmaxPolicy.uniform(mdp)).error
    np.testing.assert_array_equal(np.isnan(error.value), [False, False, True])
    assert np.isnan(error.action_value[2, 0])
    assert np.isnan(error.advantage[2, 0])
    assert error.gradient[2, 0] < 1e-100


@pytest.mark.parametrize("solver", [solvers.Bordered(), solvers.LU()])
def test_a_sign_is_certain_only_of_a_float_that_has_it(solver):
    """State 0 is never visited, and what rounding leaves there is no 0."""
    transition = [[[0, 0.25, 0.75], [1, 0, 0]], [[0, 0, 1], [0, 1, 0]], [[0, 0.5, 0.5], [0, 0, 1]]]
    mdp = MDP(transition, [[2.0, 1.0], [-2.0, 0.0], [0.0, 0.0]], 0.9, 2)
    ev = evaluate(mdp, SoftmaxPolicy.uniform(mdp), solver=solver)
    assert (ev.error.certain_signs[0] == (ev.logit_gradient[0] == 0)).all()
    assert all_uncontained(ev) == {}


def test_a_bound_in_units_far_apart_does_not_underflow_between_them():
    assert 2.0**-260 < rounded_up(2.0**-200, 2.0**-960, 2.0**900) < 1.01 * 2.0**-260
    assert rounded_up(2.0**-200, 2.0**-960) == 5e-324


@pytest.mark.parametrize("solver", [None, solvers.Substitution(), solvers.Components()])
@pytest.mark.parametrize("discount", [0.0, 0.9])
def test_a_reward_that_is_never_paid_does_not_widen_the_bounds_of_others(discount, solver):
    mdp = MDP([[[1.0], [1.0]]], [[1e-60, 1e300]], discount, available=[[True, False]])
    ev = evaluate(mdp, SoftmaxPolicy.uniform(mdp), solver=solver)
    assert ev.error.value[0] <= 1e-15 * ev.value[0]
    assert all_uncontained(ev) == {}
    for logits in ([[0.0, -np.inf]], [[0.0, -1e5]]):
        never = MDP([[[1.0], [1.0]]], [[[1e-60], [1e300]]], discount)
        ev = evaluate(never, SoftmaxPolicy(logits), solver=solver)
        assert ev.error.value[0] <= 1e-15 * ev.value[0]
        assert np.isfinite(ev.error.action_value).all()
        assert all_uncontained(ev) == {}


@pytest.mark.parametrize("backwards", [False, True])
def test_small_values_have_bounds_of_their_own_beside_large_ones(backwards):
    """State 0 never meets state 1, nor does state 1 come from it."""
    mdp = MDP([[[1.0, 0.0]], [[float(backwards), 1.0 - backwards]]], [1.0, 1e300], 0.9, 0)
    ev = evaluate(mdp, SoftmaxPolicy.uniform(mdp))
    assert ev.error.value[0] <= 1e-15 * ev.value[0]
    assert ev.error.expected_return <= 1e-15 * ev.expected_return
    assert all_uncontained(ev) == {}
