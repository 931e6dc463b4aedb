"""Fisher information and natural steps, against scores, KL derivatives and NumPy's pseudoinverse."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fastpg import (
    MDP,
    DirectPolicy,
    InvalidArgument,
    LogLinearPolicy,
    SoftmaxPolicy,
    SolveError,
    evaluate,
    fisher_information,
    natural_gradient,
    normalised_step,
    policy_gradient,
)
from fastpg.testing import oracles
from fastpg.testing.assertions import assert_within, conditioning, rounding
from fastpg.testing.oracles import enumerate_trajectories
from fastpg.testing.strategies import (
    direct_policies,
    discounts,
    log_linear_policies,
    mdp_and_policy,
    mdps,
    softmax_policies,
)

EPS = np.finfo(float).eps


def weight_of(ev):
    """The weight of each state: visitation below discount 1, occupancy at 1, nothing where the process has ended."""
    return np.where(ev.mdp.terminal, 0.0, ev.occupancy if ev.mdp.discount == 1 else ev.visitation)


def block_diagonal(blocks):
    """The (S*A, S*A) matrix of (S, A, A) blocks."""
    S, A, _ = blocks.shape
    out = np.zeros((S, A, S, A))
    out[np.arange(S), :, np.arange(S), :] = blocks
    return out.reshape(S * A, S * A)


@given(mdp_and_policy(sparse=None))
def test_blocks_are_mean_outer_products_of_scores(case):
    mdp, policy = case
    ev, pi = evaluate(mdp, policy), policy.probabilities
    score = np.eye(mdp.n_actions) - pi[:, None, :]
    expected = weight_of(ev)[:, None, None] * np.einsum("sa,sai,saj->sij", pi, score, score)
    blocks = fisher_information(ev).blocks
    assert_within(blocks, expected, 16 * mdp.n_actions * EPS * weight_of(ev)[:, None, None])
    assert_within(blocks, blocks.transpose(0, 2, 1), 0)


def test_at_discount_1_it_is_the_information_of_the_whole_path():
    """E[(sum_t score)(sum_t score)^T] over paths that all end within two steps."""
    P = np.zeros((3, 2, 3))
    P[0, 0, 1], P[0, 1, 2], P[1, :, 2] = 1, 1, 1
    mdp = MDP(P, [1.0, 2.0, 0.0], 1, start=0, terminal=[0, 0, 1])
    policy = SoftmaxPolicy([[0.3, 0.0], [-1.0, 0.5], [0, 0]])
    expected = np.zeros((6, 6))
    for path in enumerate_trajectories(mdp, policy, 2):
        score = np.zeros((3, 2))
        for s, a in zip(path.states, path.actions, strict=False):
            score[s] -= policy.probabilities[s]
            score[s, a] += 1
        expected += path.probability * np.outer(score, score)
    assert_within(fisher_information(evaluate(mdp, policy)).to_dense(), expected, 16 * EPS)


@given(mdp_and_policy(sparse=None, extreme=False))
def test_product_dense_matrix_and_linear_operator_agree(case):
    mdp, policy = case
    F = fisher_information(evaluate(mdp, policy))
    p = policy.parameters.size
    v = np.linspace(-1.0, 2.0, num=p)
    dense = F.to_dense()
    # Direct parameters divide by probabilities, features multiply and add up.
    size = np.abs(dense).sum() + F.weight.sum() * mdp.n_states * mdp.n_actions
    bound = 64 * EPS * size
    assert F.shape == dense.shape == (p, p)
    assert_within(dense, dense.T, bound)
    assert_within(F @ v, dense @ v, bound)
    shaped = F @ v.reshape(policy.parameters.shape)
    assert shaped.shape == policy.parameters.shape
    assert_within(shaped.ravel(), F @ v, 0)
    operator = F.linear_operator()
    assert_within(operator @ v, F @ v, 0)
    assert_within(operator.T @ v, F @ v, 0)
    blocks = block_diagonal(F.blocks)
    if isinstance(policy, SoftmaxPolicy):
        assert_within(dense, blocks, bound)
    elif isinstance(policy, LogLinearPolicy):
        phi = policy.features.reshape(-1, p)
        assert_within(dense, phi.T @ blocks @ phi, bound)
    else:
        inverse = np.divide(
            1, policy.probabilities, out=np.zeros(policy.probabilities.shape), where=policy.probabilities > 0
        )
        assert_within(dense, inverse.ravel()[:, None] * blocks * inverse.ravel(), bound)


@given(st.data())
def test_product_with_the_advantage_is_the_gradient(data):
    """F A / (1 - discount) = dJ; at discount 1, F A = dJ."""
    mdp = data.draw(mdps(sparse=None))
    policy = data.draw(softmax_policies(mdp))
    ev = evaluate(mdp, policy)
    scale = 1 if mdp.discount == 1 else 1 - mdp.discount
    assert_within(
        (fisher_information(ev) @ ev.advantage) / scale, ev.logit_gradient, 2 * rounding(mdp, policy, resolvents=2)
    )


@given(st.data())
def test_pinv_solve_is_the_pseudoinverse(data):
    """Also for masked actions, unvisited states and a g outside the range of F."""
    mdp = data.draw(mdps(sparse=None))
    policy = data.draw(softmax_policies(mdp, extreme=False))
    F = fisher_information(evaluate(mdp, policy))
    g = data.draw(st.lists(st.floats(-5, 5), min_size=policy.logits.size, max_size=policy.logits.size))
    g = np.reshape(g, policy.logits.shape)
    assume(F.weight[F.weight > 0].min(initial=1) > 1e-280)
    x = F.pinv_solve(g)
    assert not x.flags.writeable
    assert_within(F.pinv_solve(g.ravel()), x.ravel(), 0)
    smallest = np.where(policy.probabilities > 0, policy.probabilities, 1).min(axis=1)
    for s in range(mdp.n_states):
        w = F.weight[s]
        if w == 0:
            assert not x[s].any()
        else:
            # One state at a time: the weights of states may differ by more than any cut-off on singular values.
            unit_block = F.blocks[s] / w
            expected = np.linalg.pinv(unit_block, rcond=1e-10, hermitian=True) @ g[s] / w
            assert_within(x[s], expected, 64 * EPS * mdp.n_actions * np.abs(g).max() / (w * smallest[s] ** 2))


def test_a_pseudoinverse_beyond_float64_is_an_error():
    mdp = MDP([[[0.0, 1.0]] * 2, [[0.0, 1.0]] * 2], [1.0, 0.0], 1e-308, start=0)
    F = fisher_information(evaluate(mdp, SoftmaxPolicy.uniform(mdp)))
    with pytest.raises(SolveError, match=r"F\^\+ g overflows float64 in state 1, whose weight in F is 1e-308"):
        F.pinv_solve([[0.0, 0.0], [0.0, 9.0]])


def test_pinv_solve_of_a_whole_matrix():
    """Masked actions, an unvisited state and a g outside the range, against one NumPy pseudoinverse."""
    P = np.zeros((3, 3, 3))
    P[..., 0], P[0, 1] = 1.0, [0.5, 0.5, 0.0]
    mdp = MDP(P, [1.0, 2.0, 5.0], 0.9, start=0, available=[[1, 1, 1], [1, 0, 1], [1, 1, 1]])
    policy = SoftmaxPolicy([[0.1, 1.0, -np.inf], [0.0, 0.0, 2.0], [1.0, 2.0, 3.0]]).masked(mdp.available)
    F = fisher_information(evaluate(mdp, policy))
    g = np.arange(9.0) ** 2
    assert_within(F.pinv_solve(g), np.linalg.pinv(F.to_dense(), rcond=1e-12) @ g, 1e-12)


@pytest.mark.parametrize("kind", ["log-linear", "dependent features", "direct"])
def test_pinv_solve_of_other_parametrisations(kind):
    rng = np.random.default_rng(3)
    mdp = MDP(rng.dirichlet(np.ones(4), size=(4, 3)), rng.standard_normal((4, 3)), 0.9)
    features = rng.standard_normal((4, 3, 5))
    features[..., 4] = features[..., 0] + features[..., 1] if kind == "dependent features" else features[..., 4]
    policy = DirectPolicy.random(mdp, rng=3) if kind == "direct" else LogLinearPolicy(features, np.ones(5) / 5)
    ev = evaluate(mdp, policy)
    F = fisher_information(ev)
    pinv = np.linalg.pinv(F.to_dense(), rcond=1e-10)
    values = np.linalg.svd(F.to_dense(), compute_uv=False)
    worst = values[0] / values[values > 1e-10 * values[0]].min() ** 2
    g = rng.standard_normal(policy.parameters.shape)
    assert_within(F.pinv_solve(g).ravel(), pinv @ g.ravel(), 8 * g.size**2 * EPS * worst * np.abs(g).max())
    if kind != "direct":
        bound = 8 * g.size**2 * EPS * worst * conditioning(mdp, policy) ** 2
        assert_within(natural_gradient(ev), pinv @ policy_gradient(ev), bound)


@pytest.mark.parametrize("S", [2, 3])
def test_pinv_solve_where_the_fisher_information_is_singular(S):
    """Two actions: F = B^T D B with B (S, 3) the differences of features and D = diag(weight pi_0 pi_1).

    F^+ = B^+ D^{-1} B^{+T} where B has independent rows. With S = 3 the third feature is one of the state alone, and
    F is 2 x 2 in the first two.
    """
    for seed in range(100):
        rng = np.random.default_rng(seed)
        mdp = MDP(rng.dirichlet(np.ones(S), size=(S, 2)), rng.standard_normal((S, 2)), 0.9)
        features = rng.standard_normal((S, 2, 3))
        basis = np.eye(3)
        if S == 3:
            features[..., 2] = rng.standard_normal((S, 1))
            basis = basis[:, :2]
        ev = evaluate(mdp, LogLinearPolicy(features, rng.standard_normal(3)))
        F = fisher_information(ev)
        B = (features[:, 0] - features[:, 1]) @ basis
        D = F.weight * ev.policy.probabilities.prod(axis=1)
        if S == 2:
            right = B.T @ np.linalg.inv(B @ B.T)
            pinv = right @ np.diag(1 / D) @ right.T
        else:
            pinv = basis @ np.linalg.inv(B.T @ np.diag(D) @ B) @ basis.T
        g = rng.standard_normal(3)
        # The condition number of the positive part of F bounds what the rounding of either side can do.
        size = np.linalg.norm(pinv)
        bound = 1e3 * EPS * size * np.linalg.norm(F.to_dense()) * size * np.linalg.norm(g)
        assert_within(F.pinv_solve(g), pinv @ g, bound)
        assert_within(np.linalg.pinv(F.to_dense(), rcond=1e-11) @ g, pinv @ g, bound)


def test_features_of_the_state_alone_have_no_information():
    mdp = MDP(np.full((2, 3, 2), 0.5), [1.0, 0.0], 0.9)
    features = np.repeat(np.random.default_rng(0).standard_normal((2, 1, 4)), 3, axis=1)
    F = fisher_information(evaluate(mdp, LogLinearPolicy(features, [0.1, 0.2, -0.3, 0.7])))
    np.testing.assert_array_equal(F.pinv_solve([1.0, 2.0, 3.0, 4.0]), np.zeros(4))


@given(st.data())
def test_natural_gradient_of_the_softmax_is_the_pseudoinverse_times_the_gradient(data):
    mdp = data.draw(mdps(sparse=None))
    policy = data.draw(softmax_policies(mdp, extreme=False))
    ev = evaluate(mdp, policy)
    F = fisher_information(ev)
    step = natural_gradient(ev)
    scale = 1 if mdp.discount == 1 else 1 - mdp.discount
    assert_within(F @ step, policy_gradient(ev), 8 * rounding(mdp, policy, resolvents=2) / scale)
    assert_within(step.sum(axis=1), np.zeros(mdp.n_states), 8 * rounding(mdp, policy, resolvents=1) / scale)
    assert not step[F.weight == 0].any()
    assert not step[policy.probabilities == 0].any()
    smallest = np.where(policy.probabilities > 0, policy.probabilities, 1).min()
    # The gradient's own rounding is divided by the smallest eigenvalue of the block, so rare states are left out.
    seen = F.weight > 1e-9
    bound = 8 * rounding(mdp, policy, resolvents=2) / (scale * F.weight[seen, None] * smallest**2)
    assert_within(F.pinv_solve(policy_gradient(ev))[seen], step[seen], bound)


@given(st.data())
def test_natural_gradient_of_direct_policies_is_the_steepest_ascent_along_the_simplex(data):
    """The x of sum 0 that maximises g.x - x^T diag(weight/pi) x / 2: the rest g - weight x / pi is constant."""
    mdp = data.draw(mdps(sparse=None, discount=discounts()))
    policy = data.draw(direct_policies(mdp))
    ev = evaluate(mdp, policy)
    pi, w, step = policy.probabilities, weight_of(ev), natural_gradient(ev)
    bound = 8 * rounding(mdp, policy, resolvents=2)
    assert_within(step.sum(axis=1), np.zeros(mdp.n_states), bound)
    assert not step[(pi == 0) | (w[:, None] == 0)].any()
    ratio = np.divide(step, pi, out=np.zeros(step.shape), where=pi > 0)
    rest = policy_gradient(ev) - w[:, None] * ratio
    mean = (pi * rest).sum(axis=1, keepdims=True)
    assert_within(np.where(pi > 0, rest - mean, 0), np.zeros(pi.shape), bound)


@given(st.data())
def test_fisher_information_of_direct_policies(data):
    """diag(w / pi) - w 1 1^T on the support, and v^T F x = v^T dJ along the simplex for the natural gradient x."""
    mdp = data.draw(mdps(sparse=None, discount=0.9))
    weights = np.random.default_rng(data.draw(st.integers(0, 9))).uniform(0.5, 1.5, (mdp.n_states, mdp.n_actions))
    weights[~(mdp.available | mdp.terminal[:, None])] = 0
    policy = DirectPolicy(weights / weights.sum(axis=1, keepdims=True))
    ev = evaluate(mdp, policy)
    F, x = fisher_information(ev), natural_gradient(ev)
    on = policy.probabilities > 0
    blocks = np.stack(
        [
            w * (np.diag(np.divide(1, pi, out=np.zeros(pi.shape), where=s)) - np.outer(s, s))
            for w, pi, s in zip(F.weight, policy.probabilities, on, strict=True)
        ]
    )
    assert_within(F.to_dense(), block_diagonal(blocks), 1e3 * EPS * F.weight.max())
    v = np.where(on, np.linspace(-1, 2, on.size).reshape(on.shape), 0)
    v = np.where(on, v - v.sum(axis=1, keepdims=True) / on.sum(axis=1, keepdims=True), 0)
    bound = 8 * on.size * rounding(mdp, policy, resolvents=2) / (1 - mdp.discount)
    assert_within((v * (F @ x)).sum(), (v * policy_gradient(ev)).sum(), bound)


def mean_kl(weight, policy, other):
    """sum_s weight(s) KL(pi || other), for a real or complex table `other`."""
    pi = policy.probabilities
    safe = np.where(pi > 0, other, 1)
    return (weight[:, None] * pi * (np.log(np.where(pi > 0, pi, 1)) - np.log(safe))).sum()


@pytest.mark.parametrize("kind", [softmax_policies, log_linear_policies])
@given(data=st.data())
def test_is_the_hessian_of_the_mean_kl(kind, data):
    """Complex steps for the gradient, central differences of those for the Hessian."""
    mdp = data.draw(mdps(max_states=3, max_actions=3, discount=0.9))
    policy = data.draw(softmax_policies(mdp, extreme=False) if kind is softmax_policies else kind(mdp))
    F = fisher_information(evaluate(mdp, policy))
    at, h = policy.parameters, 1e-4

    def kl_gradient(parameters):
        return oracles.complex_step(
            lambda p: mean_kl(F.weight, policy, oracles.probabilities_at(policy, p)), parameters
        ).ravel()

    finite = np.isfinite(at).ravel()
    moves = h * np.eye(at.size)[finite].reshape(-1, *at.shape)
    hessian = np.array([(kl_gradient(at + move) - kl_gradient(at - move)) / (2 * h) for move in moves])
    # The fourth derivative of a log-sum-exp is at most 1 in units of the features, of which there are few.
    size = 1.0 if kind is softmax_policies else policy.features.shape[2] ** 2
    assert_within(hessian, F.to_dense()[finite], size * (h**2 + 1e3 * EPS / h))


@given(st.data(), st.floats(1e-6, 10))
def test_normalised_step_has_the_asked_size(data, size):
    mdp = data.draw(mdps(sparse=None))
    policy = data.draw(st.one_of(softmax_policies(mdp), direct_policies(mdp)))
    ev = evaluate(mdp, policy)
    F, step = fisher_information(ev), normalised_step(ev, size)
    power = float((policy_gradient(ev) * natural_gradient(ev)).sum())
    unit = np.abs(mdp.expected_reward).max() ** 2
    if power > 1e-6 * unit:
        # The power is a sum of S A products of a gradient (two resolvents) and a step (one, and 1 / (1 - discount)).
        scale = 1 if mdp.discount == 1 else 1 - mdp.discount
        terms = 2 * mdp.n_states * mdp.n_actions
        bound = size * terms * rounding(mdp, policy, resolvents=3, scale=unit) / (scale * power)
        assert_within(float((step * (F @ step)).sum()), size, bound)
        assert (policy_gradient(ev) * step).sum() > 0
        direction = natural_gradient(ev)
        assert_within(step / np.abs(step).max(), direction / np.abs(direction).max(), 8 * EPS)


def test_normalised_step_of_a_log_linear_policy():
    rng = np.random.default_rng(5)
    mdp = MDP(rng.dirichlet(np.ones(4), size=(4, 3)), rng.standard_normal((4, 3)), 0.9)
    ev = evaluate(mdp, LogLinearPolicy(rng.standard_normal((4, 3, 3)), [0.1, 0.2, 0.3]))
    step = normalised_step(ev, 0.01)
    assert_within(step @ (fisher_information(ev) @ step), 0.01, 1e-14)


def test_normalised_step_is_zero_where_the_gradient_is_and_refuses_bad_sizes():
    mdp = MDP(np.full((2, 2, 2), 0.5), [1.0, 1.0], 0.9)
    ev = evaluate(mdp, SoftmaxPolicy.uniform(mdp))
    assert not normalised_step(ev, 1.0).any()
    assert not normalised_step(ev, 0.0).any()
    for size in (-1.0, np.nan, np.inf, "1"):
        with pytest.raises(InvalidArgument, match=r"size must be a number in \[0, 1.79769e\+308\] but is"):
            normalised_step(ev, size)


def test_bad_vectors_and_finite_horizons_are_refused():
    mdp = MDP(np.full((2, 2, 2), 0.5), [1.0, 0.0], 0.9)
    F = fisher_information(evaluate(mdp, SoftmaxPolicy.uniform(mdp)))
    for use in (F.__matmul__, F.pinv_solve):
        with pytest.raises(InvalidArgument, match=r"shape \(2, 2\) of the parameters but has shape \(3,\)"):
            use(np.ones(3))
    for function in (fisher_information, natural_gradient):
        with pytest.raises(InvalidArgument, match="evaluate without horizon"):
            function(evaluate(mdp, SoftmaxPolicy.uniform(mdp), horizon=3))
    assert repr(F) == "FisherInformation(4 parameters, SoftmaxPolicy(2 states, 2 actions))"


def test_uniform_mean_not_the_policy_mean():
    """One state, two actions, pi = (1/4, 3/4), A = (3/4, -1/4): F^+ dJ = (A - mean A) / (1 - discount) = (1, -1)."""
    mdp = MDP([[[1.0], [1.0]]], [[1.0, 0.0]], 0.5)
    ev = evaluate(mdp, SoftmaxPolicy([[0.0, np.log(3.0)]]))
    assert_within(ev.advantage, [[0.75, -0.25]], 4 * EPS)
    assert_within(natural_gradient(ev), [[1.0, -1.0]], 8 * EPS)


def test_vectors_that_are_no_numbers_are_one_sentence():
    mdp = MDP(np.full((2, 2, 2), 0.5), [1.0, 0.0], 0.9)
    F = fisher_information(evaluate(mdp, SoftmaxPolicy.uniform(mdp)))
    for use in (F.__matmul__, F.pinv_solve):
        with pytest.raises(InvalidArgument, match="must hold real numbers but has dtype <U1"):
            use("a")
        with pytest.raises(InvalidArgument, match="must be a rectangular array of numbers"):
            use([[1.0], [1.0, 2.0]])
    with pytest.raises(InvalidArgument, match=r"gradient\[0, 0\] must be finite but is nan; 4 of 4 entries fail"):
        F.pinv_solve(np.full((2, 2), np.nan))
    for function in (fisher_information, natural_gradient, policy_gradient, lambda mdp: normalised_step(mdp, 1.0)):
        with pytest.raises(InvalidArgument, match="evaluation must be an evaluation, as evaluate returns, but is MDP"):
            function(mdp)
