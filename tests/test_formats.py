"""Models read from gymnasium's tables."""

import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import sparse

from fastpg import InvalidArgument, InvalidModel, SoftmaxPolicy, evaluate, problems
from fastpg.formats import from_gymnasium
from fastpg.formats import gymnasium as module
from fastpg.resolve import policy_named, subject


def env(P, start=(1.0, 0.0, 0.0), **attributes):
    """An environment of which only the table is real."""
    return SimpleNamespace(P=P, initial_state_distrib=np.array(start), **attributes)


STAY = {0: [(1.0, 2, 0.0, False)]}


@pytest.mark.parametrize(
    ("env_id", "options", "expected"),
    [
        ("FrozenLake-v1", {}, problems.frozen_lake()),
        ("FrozenLake-v1", {"is_slippery": False}, problems.frozen_lake(slippery=False)),
        ("FrozenLake-v1", {"map_name": "8x8"}, problems.frozen_lake("8x8")),
        ("FrozenLake-v1", {"map_name": "8x8", "is_slippery": False}, problems.frozen_lake("8x8", slippery=False)),
        ("FrozenLake-v1", {"desc": ["SFHS", "HHFF", "FGHH"]}, problems.frozen_lake(["SFHS", "HHFF", "FGHH"])),
        ("CliffWalking-v1", {}, problems.cliff_walking()),
        ("CliffWalking-v1", {"is_slippery": True}, problems.cliff_walking(slippery=True)),
    ],
)
def test_gridworlds_are_those_of_gymnasium(env_id, options, expected):
    gymnasium = pytest.importorskip("gymnasium")
    assert from_gymnasium(gymnasium.make(env_id, **options)) == expected


def test_an_id_will_do():
    pytest.importorskip("gymnasium")
    mdp = from_gymnasium("FrozenLake-v1", discount=0.99)
    assert mdp == problems.frozen_lake()
    assert evaluate(mdp, SoftmaxPolicy.uniform(mdp)).expected_return == pytest.approx(0.012356137325, abs=1e-12)
    assert from_gymnasium("CliffWalking-v1", 1.0) == problems.cliff_walking(discount=1.0)


@pytest.fixture
def taxi():
    """Taxi by whichever id this gymnasium has."""
    gymnasium = pytest.importorskip("gymnasium")
    return gymnasium.make(max(name for name in gymnasium.registry if name.startswith("Taxi-v")))


def test_taxi(taxi):
    mdp = from_gymnasium(taxi, masked=False)
    assert (mdp.n_states, mdp.n_actions, mdp.is_sparse, mdp.all_available) == (500, 6, False, True)
    # Delivered at R, G, Y and B.
    np.testing.assert_array_equal(np.flatnonzero(mdp.terminal), [0, 85, 410, 475])
    np.testing.assert_array_equal(mdp.start, taxi.unwrapped.initial_state_distrib)
    assert np.count_nonzero(mdp.start) == 300
    # In state 16 the taxi stands at R with the passenger, who wants to go there; 5 drops off.
    assert mdp.transition[16, 5, 0] == 1
    assert mdp.reward[16, 5, 0] == 20
    assert set(np.unique(mdp.expected_reward)) == {-10.0, -1.0, 0.0, 20.0}


def test_taxi_keeps_its_masks(taxi):
    mdp = from_gymnasium(taxi)
    mask = np.array([taxi.unwrapped.action_mask(s) != 0 for s in range(500)])
    assert not mask.all()
    np.testing.assert_array_equal(mdp.available, mask)
    assert mdp == from_gymnasium(taxi, masked=True) == subject(f"gymnasium:{taxi.spec.id}").mdp
    going = ~mdp.terminal
    for policy in (SoftmaxPolicy.uniform(mdp), policy_named("uniform", mdp, 0)):
        np.testing.assert_array_equal(policy.probabilities[going], (mask / mask.sum(axis=1, keepdims=True))[going])


@pytest.mark.parametrize("masked", [True, False])
def test_taxi_against_walking_through_its_table(taxi, masked):
    """V of the uniform policy by iterating the table itself, with its flags, from the states the start leads to."""
    g, P = 0.9, taxi.unwrapped.P
    value = np.zeros(500)
    probability, following, reward, terminated = (
        np.array([[P[s][a][0][i] for a in range(6)] for s in range(500)]) for i in range(4)
    )
    assert (probability == 1).all()
    taken = np.array([taxi.unwrapped.action_mask(s) != 0 if masked else np.ones(6, bool) for s in range(500)])
    for _ in range(400):  # .9^400 < 1e-18
        value = (reward + g * np.where(terminated, 0.0, value[following])).mean(axis=1, where=taken)
    mdp = from_gymnasium(taxi, discount=g, masked=masked)
    result = evaluate(mdp, SoftmaxPolicy.uniform(mdp))
    reached = result.occupancy > 0
    assert reached.sum() == 400
    np.testing.assert_allclose(result.value[reached], value[reached], rtol=1e-11)


def test_taxi_in_the_rain_and_with_masks():
    gymnasium = pytest.importorskip("gymnasium")
    env_id = max(name for name in gymnasium.registry if name.startswith("Taxi-v"))
    rain = gymnasium.make(env_id, is_rainy=True)
    assert from_gymnasium(rain).terminal.sum() == 4
    masked = from_gymnasium(rain)
    for s in (0, 123, 499):
        np.testing.assert_array_equal(masked.available[s], rain.unwrapped.action_mask(s) != 0)
    fickle = gymnasium.make(env_id, fickle_passenger=True)
    with pytest.raises(
        InvalidArgument, match="must do what its table P says, but with fickle_passenger TaxiEnv does not"
    ):
        from_gymnasium(fickle)


def test_large_tables_are_stored_sparsely(taxi, monkeypatch):
    plain = from_gymnasium(taxi)
    monkeypatch.setattr(module, "DENSE_LIMIT", 500 * 6 * 500 - 1)
    stored = from_gymnasium(taxi)
    assert sparse.issparse(stored.transition)
    np.testing.assert_array_equal(stored.transition.toarray(), plain.transition.reshape(3000, 500))
    np.testing.assert_array_equal(stored.reward.toarray(), plain.reward.reshape(3000, 500))
    np.testing.assert_array_equal(stored.terminal, plain.terminal)


def test_a_state_entered_only_by_ending_becomes_terminal():
    # 1 has ways to go on, which the table lists and nothing takes.
    mdp = from_gymnasium(
        env({0: {0: [(0.5, 0, 1.0, False), (0.5, 1, 3.0, True)]}, 1: {0: [(1.0, 0, 9.0, False)]}, 2: STAY})
    )
    np.testing.assert_array_equal(mdp.terminal, [False, True, False])
    np.testing.assert_array_equal(mdp.transition[:, 0], [[0.5, 0.5, 0], [0, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(mdp.reward[0, 0], [1, 3, 0])


def test_what_the_start_cannot_lead_to_does_not_count():
    # Only 2, which nothing leads to, enters 1 without ending.
    table = {0: {0: [(1.0, 1, 3.0, True)]}, 1: {0: [(1.0, 0, 9.0, False)]}, 2: {0: [(1.0, 1, 0.0, False)]}}
    np.testing.assert_array_equal(from_gymnasium(env(table)).terminal, [False, True, False])
    assert from_gymnasium(env(table, start=(0.5, 0.0, 0.5))).n_states == 4


def test_a_state_entered_both_ways_gets_an_end_of_its_own():
    table = {
        0: {0: [(0.25, 1, 2.0, True), (0.75, 1, 4.0, False)], 1: [(1.0, 2, 1.0, True)]},
        1: {0: [(1.0, 1, 1.0, True)], 1: [(1.0, 0, 5.0, False)]},
        2: {0: [], 1: []},
    }
    mdp = from_gymnasium(env(table), discount=0.5)
    assert (mdp.n_states, mdp.n_actions) == (4, 2)
    np.testing.assert_array_equal(mdp.terminal, [False, False, True, True])
    np.testing.assert_array_equal(mdp.start, [1, 0, 0, 0])
    np.testing.assert_array_equal(mdp.transition[0], [[0, 0.75, 0, 0.25], [0, 0, 1, 0]])
    np.testing.assert_array_equal(mdp.reward[0], [[0, 4, 0, 2], [0, 0, 1, 0]])
    np.testing.assert_array_equal(mdp.transition[1], [[0, 0, 0, 1], [1, 0, 0, 0]])
    # First actions only: V(1) = 1, V(0) = .25 * 2 + .75 * (4 + V(1)/2).
    first = SoftmaxPolicy(np.tile([0.0, -np.inf], (4, 1)))
    assert evaluate(mdp, first).expected_return == 0.25 * 2 + 0.75 * 4.5


def test_a_first_state_that_ends_gets_an_end_of_its_own():
    mdp = from_gymnasium(env({0: {0: [(1.0, 0, 1.0, True)]}, 1: STAY, 2: STAY}))
    np.testing.assert_array_equal(mdp.terminal, [False, False, False, True])
    assert mdp.transition[0, 0, 3] == 1


def test_what_a_terminal_state_lists_needs_no_end_of_its_own():
    mdp = from_gymnasium(env({0: {0: [(1.0, 1, 1.0, True)]}, 1: {0: [(1.0, 0, 0.0, True)]}, 2: STAY}))
    np.testing.assert_array_equal(mdp.terminal, [False, True, False])


def test_merged_outcomes_keep_their_mean_reward():
    table = {0: {0: [(0.25, 2, 8.0, False), (0.5, 0, 0.1, False), (0.25, 2, 4.0, False)]}, 1: STAY, 2: STAY}
    mdp = from_gymnasium(env(table))
    np.testing.assert_array_equal(mdp.transition[0, 0], [0.5, 0, 0.5])
    np.testing.assert_array_equal(mdp.reward[0, 0], [0.1, 0, 6.0])
    # Equal rewards are not rounded by merging.
    thirds = from_gymnasium(env({0: {0: [(1 / 3, 2, 0.1, False)] * 3}, 1: STAY, 2: STAY}))
    assert thirds.reward[0, 0, 2] == 0.1


def test_impossible_outcomes_do_not_count():
    mdp = from_gymnasium(env({0: {0: [(1.0, 2, 0.0, False), (0.0, 1, 7.0, True)]}, 1: STAY, 2: STAY}))
    assert not mdp.terminal.any()
    assert not mdp.reward.any()


def test_masks_are_kept_where_there_are_some():
    table = {0: {0: [(1.0, 0, -1.0, False)], 1: [(1.0, 1, 1.0, True)]}, 1: {0: [], 1: []}}
    masked = env(table, start=(1.0, 0.0), action_mask=lambda _: np.array([0, 1], np.int8))
    assert from_gymnasium(masked, masked=False).all_available
    np.testing.assert_array_equal(from_gymnasium(masked).available, [[False, True]] * 2)
    assert from_gymnasium(env(table, start=(1.0, 0.0))).all_available


FORM = r"a list of \(probability, next state, reward, terminated\)"


@pytest.mark.parametrize(
    ("P", "message"),
    [
        ({}, rf"P must map states 0..S-1 and actions 0..A-1 to {FORM} but is dict"),
        (7, rf"P must map states 0..S-1 and actions 0..A-1 to {FORM} but is int"),
        ({0: {0: [(1.0, 0, 0.0)]}}, rf"P\[0\]\[0\] must be {FORM} but is \[\(1.0, 0, 0.0\)\]"),
        ({0: {0: [(1.0, 0.5, 0.0, False)]}}, rf"P\[0\]\[0\] must be {FORM} but is \[\(1.0, 0.5, 0.0, False\)\]"),
        ({0: {0: [(1.0, 0, 0.0, False)]}, 2: {}}, rf"P\[1\]\[0\] must be {FORM} but is missing"),
        ({0: {0: [(1.0, 1, 0.0, False)]}}, r"P\[0\]\[0\] must lead to states in 0..0 but leads to 1"),
        (
            {0: {0: [(-1.0, 0, 0.0, False)]}},
            r"P\[0\]\[0\] must hold probabilities and finite rewards but holds -1.0 and 0.0",
        ),
        (
            {0: {0: [(1.0, 0, np.nan, False)]}},
            r"P\[0\]\[0\] must hold probabilities and finite rewards but holds 1.0 and nan",
        ),
        (
            {0: {0: [(0.5, 0, 0.0, False)]}},
            r"transition\[0, 0\] must sum to 1 within 1e-09 but sums to 0.5; 1 of 1 rows fail",
        ),
        (
            {0: {0: [(1.0, 0, 0.0, False)]}, 1: {0: [(1.0, 0, 0.0, False)], 1: []}},
            r"P\[1\] must have as many actions as P\[0\], 1, but has 2",
        ),
    ],
)
def test_a_table_of_another_form_is_refused(P, message):
    S = len(P) if isinstance(P, dict) else 1
    with pytest.raises(InvalidModel, match=f"^{message}$"):
        from_gymnasium(env(P, start=np.eye(1, max(S, 1))[0]))


def test_a_start_of_another_shape_is_refused():
    table = {0: {0: [(1.0, 0, 0.0, False)]}}
    with pytest.raises(
        InvalidModel, match=r"^initial_state_distrib must have shape \(1,\) to fit P but has shape \(2,\)$"
    ):
        from_gymnasium(env(table, start=(0.5, 0.5)))
    with pytest.raises(
        InvalidArgument, match=r"^env must have a law of the first state, env.unwrapped.initial_state_distrib"
    ):
        from_gymnasium(SimpleNamespace(P=table))


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("CartPole-v1", r"env must have a table of transitions, env.unwrapped.P, as .* but CartPoleEnv has none"),
        ("Blackjack-v1", r"env must have a table of transitions, env.unwrapped.P, as .* but BlackjackEnv has none"),
        ("NoSuchLake-v1", r"gymnasium cannot make 'NoSuchLake-v1': Environment `NoSuchLake` doesn't exist.*"),
        ("no_such_package:Lake-v1", r"gymnasium cannot make 'no_such_package:Lake-v1': No module named .*"),
    ],
)
def test_other_environments_are_refused(env_id, message):
    pytest.importorskip("gymnasium")
    with pytest.raises(InvalidArgument, match=f"^{message}$"):
        from_gymnasium(env_id)


@pytest.mark.parametrize(("env_id", "heir"), [("Taxi-v3", "Taxi-v"), ("CliffWalking-v0", "CliffWalking-v1")])
def test_an_id_out_of_date_is_one_sentence(env_id, heir):
    gymnasium = pytest.importorskip("gymnasium")
    if env_id in gymnasium.registry:
        pytest.skip("not out of date in this gymnasium")
    with warnings.catch_warnings(record=True) as heard, pytest.raises(InvalidArgument, match=f"use `{heir}"):
        from_gymnasium(env_id)
    assert not heard


def test_what_gymnasium_says_of_an_id_that_works_is_passed_on():
    pytest.importorskip("gymnasium")
    with pytest.warns(UserWarning, match="latest versioned environment"):
        from_gymnasium("FrozenLake")


def test_without_gymnasium_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(InvalidArgument) as caught:
        from_gymnasium("Taxi-v4")
    assert str(caught.value) == "making 'Taxi-v4' needs the package gymnasium, which pip install 'fastpg[cli]' brings"
    assert from_gymnasium(env({0: {0: [(1.0, 0, 0.0, False)]}}, start=(1.0,))).n_states == 1
