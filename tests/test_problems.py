"""The named problems against their published answers, computed here without the library's evaluation."""

from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest

from fastpg import MDP, InvalidArgument, SoftmaxPolicy, evaluate, problems
from fastpg.validation import FloatArray


def dense(mdp: MDP) -> FloatArray:
    """P (S, A, S)."""
    S, A = mdp.n_states, mdp.n_actions
    return mdp.transition.toarray().reshape(S, A, S) if mdp.is_sparse else mdp.transition


def state_value(mdp: MDP, pi: FloatArray) -> FloatArray:
    """V (S,) by Gaussian elimination on the non-terminal states."""
    live = np.flatnonzero(~mdp.terminal)
    P = np.einsum("sa,sak->sk", pi, dense(mdp))[np.ix_(live, live)]
    value = np.zeros(mdp.n_states)
    value[live] = np.linalg.solve(np.eye(live.size) - mdp.discount * P, (pi * mdp.expected_reward).sum(axis=1)[live])
    return value


def optimum(mdp: MDP) -> tuple[float, FloatArray]:
    """start . V* and the optimal policy (S, A), by policy iteration from the uniform policy.

    Actions change only where that is strictly better, so a policy that ends for certain is followed by one that does.
    """
    pi = np.full((mdp.n_states, mdp.n_actions), 1 / mdp.n_actions)
    while True:
        value = state_value(mdp, pi)
        q = mdp.expected_reward + mdp.discount * dense(mdp) @ value
        better = q.max(axis=1) > (pi * q).sum(axis=1) + 1e-11 * max(1, np.abs(value).max())
        if not better.any():
            return float(mdp.start @ value), pi
        pi = np.where(better[:, None], np.eye(mdp.n_actions)[q.argmax(axis=1)], pi)


def average_reward(mdp: MDP, action: int) -> float:
    """The long-run average reward of one action everywhere, from the stationary law."""
    P = dense(mdp)[:, action]
    system = np.vstack([(np.eye(mdp.n_states) - P).T, np.ones(mdp.n_states)])
    law = np.linalg.lstsq(system, np.eye(mdp.n_states + 1)[-1], rcond=None)[0]
    return float(law @ mdp.expected_reward[:, action])


@pytest.mark.parametrize(
    ("make", "discount", "expected"),
    [
        (problems.frozen_lake, 0.9, 0.068890904889),
        (problems.frozen_lake, 0.99, 0.542025932000),
        (problems.frozen_lake, 1.0, 14 / 17),
        (problems.find("frozen-lake-8x8").make, 0.9, 0.006411114262),
        (problems.find("frozen-lake-8x8").make, 0.99, 0.414640361800),
        (problems.find("frozen-lake-8x8").make, 1.0, 1.0),
        (problems.find("frozen-lake-4x4-deterministic").make, 0.9, 0.9**5),
        (problems.find("frozen-lake-8x8-deterministic").make, 0.9, 0.9**13),
        (problems.cliff_walking, 0.9, -7.458134171671),
        (problems.cliff_walking, 0.99, -12.2478977001),
        (problems.cliff_walking, 1.0, -13.0),
        (problems.find("cliff-walking-slippery").make, 0.99, -46.352672181652),
        (problems.find("river-swim-strehl-2008").make, 0.95, 8027.10704569670),
        (problems.find("river-swim-osband-2013").make, 0.95, 4.669300160672),
        (problems.chain, 0.99, 354.768100556801),
        (problems.two_state, 0.9, 9.0),
        (problems.find("bandit").make, 0.0, 1.0),
    ],
)
def test_optimal_return(make, discount, expected):
    # The constants are printed to 12 decimals, or to 12 digits where they are longer.
    assert optimum(make(discount=discount))[0] == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_uniform_policy_on_frozen_lake():
    mdp = problems.frozen_lake()
    assert evaluate(mdp, SoftmaxPolicy.uniform(mdp)).expected_return == pytest.approx(0.012356137325, abs=1e-12)


def test_frozen_lake_takes_rows_of_letters():
    assert problems.frozen_lake(problems.FROZEN_LAKE_4X4) == problems.frozen_lake("4x4")
    assert problems.frozen_lake(list(problems.FROZEN_LAKE_8X8), discount=0.5) == problems.frozen_lake(
        "8x8", discount=0.5
    )
    twice = problems.frozen_lake(["SHS", "FFG"])
    np.testing.assert_array_equal(twice.start, [0.5, 0, 0.5, 0, 0, 0])
    np.testing.assert_array_equal(twice.terminal, [False, True, False, False, False, True])


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("5x5", "layout must be '4x4', '8x8' or a sequence of rows but is '5x5'"),
        (["SF", "G"], r"layout must have rows of one length in the letters S, F, H and G but is \['SF', 'G'\]"),
        (["SX"], r"layout must have rows of one length in the letters S, F, H and G but is \['SX'\]"),
        ([], r"layout must have rows of one length in the letters S, F, H and G but is \[\]"),
        (["FG"], r"layout must have a start S but is \['FG'\]"),
    ],
)
def test_frozen_lake_refuses(layout, message):
    with pytest.raises(InvalidArgument, match=f"^{message}$"):
        problems.frozen_lake(layout)


def test_cliff_walking_falls_back_to_the_start():
    mdp = problems.cliff_walking()
    assert mdp.transition[36, 1, 36] == 1
    assert mdp.reward[36, 1, 36] == -100
    assert mdp.reward[35, 2, 47] == -1
    assert mdp.reward[24, 2, 36] == -1
    # Slipping up to 24, off the cliff to 36 and against the border in 36: the latter two share one mean reward.
    slippery = problems.cliff_walking(slippery=True)
    np.testing.assert_allclose(slippery.transition[36, 1, [24, 36]], [1 / 3, 2 / 3], rtol=1e-15)
    assert slippery.reward[36, 1, 36] == pytest.approx(-50.5, rel=1e-15)


def test_chain_moving_forward():
    mdp = problems.chain()
    g, forward = 0.99, np.tile([1.0, 0.0], (5, 1))
    np.testing.assert_array_equal(optimum(mdp)[1], forward)
    assert average_reward(mdp, 0) == pytest.approx(0.2 * 2 + 0.8**5 * 10, rel=1e-12)
    # V(s) = c + .8 g V(s+1) with c = .2 (2 + g V(0)), and V(4) = c + .8 (10 + g V(4)).
    q = 0.8 * g
    to_end = q**4 * 8 / (1 - q)
    weight = 1 / (1 - q)  # of c, summed over the visits before the first return
    assert state_value(mdp, forward)[0] == pytest.approx((0.4 * weight + to_end) / (1 - 0.2 * g * weight), rel=1e-12)


def test_chain_without_slipping_and_with_nothing_else():
    assert optimum(problems.chain(3, slip=0.0, discount=0.5))[0] == pytest.approx(5.0)  # 0 + 0 + 10 / (4 (1 - 1/2))
    assert problems.chain(5, slip=1.0).transition[0, 0, 0] == 1


@pytest.mark.parametrize(("version", "gain"), [("strehl-2008", 72900 / 109), ("osband-2013", 7203 / 16805)])
def test_river_swim_against_its_birth_death_law(version, gain):
    mdp = problems.river_swim(version)
    assert average_reward(mdp, 1) == pytest.approx(gain, rel=1e-12)
    np.testing.assert_array_equal(optimum(mdp)[1], np.tile([0.0, 1.0], (6, 1)))


def test_river_swim_is_two_problems():
    old, new = problems.river_swim("strehl-2008"), problems.river_swim("osband-2013")
    np.testing.assert_array_equal(old.transition[:, 0], new.transition[:, 0])
    np.testing.assert_array_equal(old.expected_reward[[0, 5], [0, 1]], [5, 3000])
    np.testing.assert_array_equal(new.expected_reward[[0, 5], [0, 1]], [0.005, 1])
    np.testing.assert_array_equal(old.start, [0, 0.5, 0.5, 0, 0, 0])
    np.testing.assert_array_equal(new.start, [1, 0, 0, 0, 0, 0])
    with pytest.raises(InvalidArgument, match=r"version must be 'strehl-2008' or 'osband-2013' but is '2008'"):
        problems.river_swim("2008")


@pytest.mark.parametrize("slip", [0.0, 0.3])
@pytest.mark.parametrize("discount", [0.0, 0.9, 0.999])
def test_two_state_closed_form(slip, discount):
    mdp = problems.two_state(slip=slip, discount=discount)
    pi = np.array([[0.3, 0.7], [0.9, 0.1]])
    x, y = slip + (1 - 2 * slip) * pi[:, 1]
    N = (1 - discount) * (1 - discount * (1 - x - y))
    np.testing.assert_allclose(
        evaluate(mdp, SoftmaxPolicy(np.log(pi))).value, [discount * x / N, (1 - discount * (1 - x)) / N], rtol=1e-11
    )


def bandit_ascent(probabilities: npt.ArrayLike, steps: int) -> FloatArray:
    """pi (A,) after gradient ascent with step 2/5 on the bandit of Mei et al. (2020)."""
    mdp, theta = problems.bandit([1.0, 0.9, 0.1]), np.tile(np.log(probabilities), (2, 1))
    for _ in range(steps):
        theta = theta + 0.4 * evaluate(mdp, SoftmaxPolicy(theta)).logit_gradient
    return SoftmaxPolicy(theta).probabilities[0]


def test_bandit_of_mei_2020():
    assert 1 - bandit_ascent([0.05, 0.01, 0.94], 100) @ [1.0, 0.9, 0.1] == pytest.approx(0.0223833215, abs=5e-11)
    before = bandit_ascent([0.01, 0.05, 0.94], 7524)
    assert before[0] < 0.5 < bandit_ascent(before, 1)[0]


@pytest.mark.parametrize("discount", [0.0, 0.5, 1.0])
def test_bandit_closed_form_at_any_discount(discount):
    means, pi = np.array([2.0, -1.0]), np.array([0.25, 0.75])
    result = evaluate(problems.bandit(means, discount=discount), SoftmaxPolicy(np.log([pi, pi])))
    assert result.expected_return == pytest.approx(pi @ means, rel=1e-15)
    np.testing.assert_allclose(result.logit_gradient[0], pi * (means - pi @ means), rtol=1e-14)


@pytest.mark.parametrize("means", [[], [[1.0]], 3.0])
def test_bandit_refuses_what_is_not_a_list_of_means(means):
    with pytest.raises(InvalidArgument, match=r"means must have shape \(A,\) with A >= 1 but has shape \("):
        problems.bandit(means)


def rational_gap(H: int) -> list[Fraction]:
    """d(h) (Q(h, 0) - Q(h, other)) for h = 1..H on the built chain, probability 1/5, in rational arithmetic."""
    P = problems.vanishing_gradient_chain(H).transition
    p, g, n = Fraction(1, 5), Fraction(H, H + 1), H + 2
    law = [[p * int(P[s, 0, k]) + (1 - p) * int(P[s, 1, k]) for k in range(n)] for s in range(n)]

    def solved(rows: list[list[Fraction]], right: list[Fraction]) -> list[Fraction]:
        rows, x = [list(row) for row in rows], list(right)
        for i in range(n):
            for j in range(i + 1, n):
                if rows[j][i]:
                    factor = rows[j][i] / rows[i][i]
                    rows[j] = [u - factor * v if v else u for u, v in zip(rows[j], rows[i], strict=True)]
                    x[j] -= factor * x[i]
        for i in reversed(range(n)):
            x[i] = (x[i] - sum(rows[i][j] * x[j] for j in range(i + 1, n) if rows[i][j])) / rows[i][i]
        return x

    system = [[int(i == j) - g * law[i][j] for j in range(n)] for i in range(n)]
    value = solved(system, [Fraction(int(s == H + 1)) for s in range(n)])
    occupancy = solved(
        [list(column) for column in zip(*system, strict=True)], [Fraction(int(s == 0)) for s in range(n)]
    )
    return [occupancy[h] * g * (value[h + 1] - value[h - 1]) for h in range(1, H + 1)]


@pytest.mark.parametrize(("H", "norm"), [(24, 3.9386e-12), (32, 1.1853e-16), (40, 3.0827e-21), (64, 3.4146e-35)])
def test_vanishing_gradient_chain(H, norm):
    """Agarwal et al. (2021), Proposition 4.1: the published norm, and the bound."""
    exact = float(sum(gap**2 for gap in rational_gap(H))) ** 0.5
    assert exact == pytest.approx(norm, rel=2e-5)  # printed to five digits
    assert exact < (1 / 3) ** (H / 4)


def test_gradient_on_the_vanishing_gradient_chain():
    mdp, policy = problems.vanishing_gradient_chain(24), problems.vanishing_gradient_policy(24)
    assert mdp.discount == 24 / 25
    result = evaluate(mdp, policy)
    by_probability = result.occupancy * (result.action_value[:, 0] - result.action_value[:, 1])
    # LU is wrong by 1e-4 here: values of 1e-11 are differences of values of order 1.
    assert np.linalg.norm(by_probability) == pytest.approx(3.9386e-12, rel=1e-3)
    assert np.linalg.norm(result.logit_gradient) == pytest.approx(0.32 / 3**0.5 * 3.9386e-12, rel=1e-3)


def test_vanishing_gradient_policy():
    policy = problems.vanishing_gradient_policy(3, 0.1)
    np.testing.assert_allclose(policy.probabilities, np.tile([0.1, 0.3, 0.3, 0.3], (5, 1)), rtol=1e-15)
    np.testing.assert_array_equal(problems.vanishing_gradient_policy(1, 1.0).probabilities[0], [1, 0, 0, 0])
    assert problems.vanishing_gradient_chain(3, discount=0.5).discount == 0.5


def test_short_corridor():
    mdp = problems.short_corridor()
    p = 2 - 2**0.5
    best = evaluate(mdp, problems.short_corridor_policy([np.log(p / (1 - p)), 0.0]))
    np.testing.assert_allclose(best.policy.probabilities, np.tile([1 - p, p], (4, 1)), rtol=1e-14)
    assert best.expected_return == pytest.approx(-11.656854249, abs=1e-9)
    assert best.expected_return == pytest.approx(-(6 + 4 * 2**0.5), rel=1e-13)
    np.testing.assert_allclose(best.policy.gradient(best), 0, atol=1e-13)
    for right in (0.05, 0.3, 0.95):
        there = evaluate(mdp, problems.short_corridor_policy([0.0, np.log((1 - right) / right)]))
        assert there.expected_return == pytest.approx(-2 * (2 - right) / (right * (1 - right)), rel=1e-12)
    assert best.policy.parameters.shape == (2,)


def test_random_mdp():
    mdp = problems.random_mdp(6, 3, rng=1, discount=0.5)
    assert mdp.transition.shape == (6, 3, 6)
    assert (mdp.transition > 0).all()
    assert 0 <= mdp.reward.min() < mdp.reward.max() <= 1
    assert mdp == problems.random_mdp(6, 3, rng=np.random.default_rng(1), discount=0.5)
    assert mdp != problems.random_mdp(6, 3, rng=2, discount=0.5)


def test_random_mdp_draws_laws_uniformly_on_the_simplex():
    """For Dirichlet(1, ..., 1) on 6 states E P^2 = 2/(6*7), with Var P^2 = 24/(6*7*8*9) - (E P^2)^2 = .0057.

    The mean over 72000 entries has a standard error below 3e-4; six are allowed. Dirichlet(2, ..., 2) is 30 off.
    """
    P = problems.random_mdp(6, 2000, rng=0).transition
    assert (P**2).mean() == pytest.approx(1 / 21, abs=1.8e-3)


@pytest.mark.parametrize(("S", "A", "b"), [(1, 1, 1), (7, 3, 1), (7, 3, 4), (7, 3, 7), (50, 2, 10)])
def test_garnet_has_its_successors_dense_or_sparse(S, A, b):
    plain = problems.garnet(S, A, b, rng=3)
    stored = problems.garnet(S, A, b, rng=3, sparse=True)
    assert not plain.is_sparse
    assert stored.is_sparse
    np.testing.assert_array_equal(np.count_nonzero(plain.transition, axis=2), b)
    np.testing.assert_allclose(dense(stored), plain.transition, rtol=1e-14)
    np.testing.assert_array_equal(stored.reward, plain.reward)
    assert plain == problems.garnet(S, A, b, rng=3)


def test_garnet_successors_are_uniform_sets():
    """Each of the 10 pairs of 5 states has probability 1/10: chi-squared with 9 degrees of freedom, alpha 1e-9.

    40000 draws, so that one pair with 15% more than its share, a noncentrality of 0.15^2 * 4000 * 10/9 = 100, exceeds
    the limit of 61 in 99% of the cases.
    """
    mdp = problems.garnet(5, 8000, 2, rng=0)
    pair = (mdp.transition.reshape(-1, 5) > 0) @ (1 << np.arange(5))
    counts = np.unique(pair, return_counts=True)[1]
    assert counts.size == 10
    assert ((counts - 4000) ** 2 / 4000).sum() < 61


def test_generators_refuse():
    with pytest.raises(InvalidArgument, match=r"^n_successors must be at most n_states = 3 but is 4$"):
        problems.garnet(3, 2, 4, rng=0)
    with pytest.raises(InvalidArgument, match=r"^n_states must be a positive integer but is 0$"):
        problems.random_mdp(0, 2, rng=0)
    with pytest.raises(InvalidArgument, match=r"^slip must be a number in \[0, 1\] but is 1.5$"):
        problems.chain(slip=1.5)
    with pytest.raises(InvalidArgument, match=r"^length must be a positive integer but is -1$"):
        problems.vanishing_gradient_chain(-1)


@pytest.mark.parametrize("problem", problems.CATALOGUE.values(), ids=lambda problem: problem.name)
def test_catalogue(problem):
    mdp = problem.make()
    assert mdp == problem.make()
    assert problem.make(discount=0.25).discount == 0.25
    assert problems.find(problem.name) is problem
    assert problem.summary
    assert np.isfinite(evaluate(mdp, SoftmaxPolicy.uniform(mdp)).expected_return)
    if problem.grid is not None:
        assert problem.grid.rows * problem.grid.columns == mdp.n_states
        assert len(problem.grid.moves) == mdp.n_actions


@pytest.mark.parametrize("name", [name for name in problems.CATALOGUE if "lake" in name or "cliff" in name])
def test_arrows_point_where_actions_lead(name):
    """From an inner cell the intended move has at least its third of the chances, and its opposite has none."""
    problem = problems.find(name)
    mdp, grid = problem.make(), problem.grid
    cell = grid.columns + 2  # row 1, column 2: away from all borders, no hole in any layout
    for action, (row, column) in enumerate(grid.moves):
        assert mdp.transition[cell, action, cell + row * grid.columns + column] > 0.33
        assert mdp.transition[cell, action, cell - row * grid.columns - column] == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "frozen-lake-8x9",
            "no problem is named 'frozen-lake-8x9'; did you mean 'frozen-lake-8x8'? 'fastpg problems' lists all",
        ),
        ("bandits", "no problem is named 'bandits'; did you mean 'bandit'? 'fastpg problems' lists all"),
        ("cliffwalk", "no problem is named 'cliffwalk'; did you mean 'cliff-walking'? 'fastpg problems' lists all"),
        ("xyzzy", "no problem is named 'xyzzy'; 'fastpg problems' lists all"),
    ],
)
def test_an_unknown_name_is_met_with_the_nearest(name, message):
    with pytest.raises(InvalidArgument) as caught:
        problems.find(name)
    assert str(caught.value) == message


def test_a_name_that_is_no_name_is_one_sentence():
    with pytest.raises(InvalidArgument, match="name must be that of a problem, such as 'chain', but is None"):
        problems.find(None)
