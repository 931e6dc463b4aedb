"""The model: what it refuses and how it says so, what it keeps, and what it calls equal."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from scipy import sparse

from fastpg import MDP, InvalidModel
from fastpg.testing.assertions import assert_within
from fastpg.testing.models import as_dense, as_sparse, dense_reward, dense_transition
from fastpg.testing.strategies import mdps

P = np.array([[[0.5, 0.5], [0.0, 1.0]], [[1.0, 0.0], [0.25, 0.75]]])
R = np.array([[1.0, 2.0], [3.0, 4.0]])
NAN, INF = np.nan, np.inf
SPARSE = sparse.csr_array(P.reshape(4, 2))
END = [False, True]


def changed(array, place, value):
    """A copy with one entry replaced."""
    out = np.array(array, dtype=float)
    out[place] = value
    return out


EITHER = [
    ({"transition": changed(P, (1, 0, 0), 0.8)}, "transition[1, 0] must sum to 1 within 1e-09 but sums to 0.8;"),
    ({"transition": changed(P, (1, 0, 0), 0.8)}, "; 1 of 4 rows fail"),
    ({"transition": 2 * P}, "transition[0, 0] must sum to 1 within 1e-09 but sums to 2.0; 4 of 4 rows fail"),
    ({"transition": P * (1 - 2e-9)}, "transition[0, 0] must sum to 1 within 1e-09 but sums to 0.999999998; 4 of"),
    ({"transition": changed(P, (0, 1, 0), NAN)}, "transition[0, 1, 0] must be finite but is nan; 1 of "),
    ({"transition": changed(P, (0, 1, 1), INF)}, "transition[0, 1, 1] must be finite but is inf; 1 of "),
    ({"transition": changed(P, (1, 1, 0), -0.25)}, "transition[1, 1, 0] must not be negative but is -0.25; 1 of "),
    ({"transition": P.astype(complex)}, "transition must hold real numbers but has dtype complex128"),
    (
        {"transition": np.array([[[1, 0], [0.5, 0.5]], [[0.3, 0.7], [0.9, 0.1]]], np.float32)},
        "transition[1, 1] must sum to 1 within 1e-09 (the entries are of float32, divide them by their sum in float64)",
    ),
    ({"discount": 1.5}, "discount must be a number in [0, 1] but is 1.5"),
    ({"discount": -0.1}, "discount must be a number in [0, 1] but is -0.1"),
    ({"discount": NAN}, "discount must be a number in [0, 1] but is nan"),
    ({"discount": "0.9"}, "discount must be a number in [0, 1] but is '0.9'"),
    ({"discount": True}, "discount must be a number in [0, 1] but is True"),
    ({"discount": None}, "discount must be a number in [0, 1] but is None"),
    ({"discount_complement": -0.1}, "discount_complement must be a number in [0, 1] but is -0.1"),
    ({"discount_complement": "0.1"}, "discount_complement must be a number in [0, 1] but is '0.1'"),
    (
        {"discount_complement": 0.2},
        "discount_complement must be 1 - discount within one ulp of 1 but is 0.2 at discount",
    ),
    ({"discount_complement": 0.1 + 3e-16}, "within one ulp of 1 but is 0.10000000000000031 at discount 0.9"),
    ({"discount": 1, "discount_complement": 3e-16}, "within one ulp of 1 but is 3e-16 at discount 1.0"),
    (
        {"discount": 1 - 2**-53, "discount_complement": 0.0},
        "discount_complement must be positive below discount 1 but is 0 at discount 0.9999999999999999",
    ),
    ({"start": 2}, "start must be a state in 0..1 or a law of shape (2,) but is 2"),
    ({"start": -1}, "start must be a state in 0..1 or a law of shape (2,) but is -1"),
    ({"start": 0.5}, "start must be a state in 0..1 or a law of shape (2,) but has shape ()"),
    ({"start": [1.0, 0.0, 0.0]}, "start must be a state in 0..1 or a law of shape (2,) but has shape (3,)"),
    ({"start": [0.5, 0.4]}, "start must sum to 1 within 1e-09 but sums to 0.9"),
    ({"start": [1.5, -0.5]}, "start[1] must not be negative but is -0.5; 1 of 2 entries fail"),
    ({"start": [NAN, 1.0]}, "start[0] must be finite but is nan; 1 of 2 entries fail"),
    ({"start": ["a", "b"]}, "start must hold real numbers but has dtype <U1"),
    ({"terminal": [False]}, "terminal must have shape (2,) but has shape (1,)"),
    ({"terminal": [0.5, 0.0]}, "terminal must be a mask of booleans but has dtype float64"),
    ({"terminal": ["", "x"]}, "terminal must be a mask of booleans but has dtype <U1"),
    ({"terminal": [True, True], "reward": [0, 0]}, "start must be given where all 2 states are terminal"),
    ({"terminal": END}, "reward[1, 0] must be 0 in a terminal state (a reward for ending belongs to the transition"),
    ({"terminal": END, "reward": [1, 5]}, "that ends) but is 5.0; 1 of 2 entries fail"),
    ({"terminal": END, "reward": np.ones((2, 2, 2))}, "reward[1, 0, 0] must be 0 in a terminal state"),
    ({"available": [[True, True]]}, "available must have shape (2, 2) but has shape (1, 2)"),
    ({"available": [[1, 1], [0, 2]]}, "available must be a mask of booleans but has dtype int64"),
    (
        {"available": [[1, 1], [0, 0]]},
        "available[1] must leave each non-terminal state an action but is 0; 1 of 2 entries fail",
    ),
    ({"reward": changed(R, (1, 1), INF)}, "reward[1, 1] must be finite but is inf; 1 of 4 entries fail"),
    ({"reward": [1.0, NAN]}, "reward[1] must be finite but is nan; 1 of 2 entries fail"),
    ({"reward": np.full((2, 2, 2), NAN)}, "reward[0, 0, 0] must be finite but is nan"),
    ({"reward": np.ones(3)}, "reward must have shape (2,), (2, 2)"),
    ({"reward": np.ones((2, 3))}, "but has shape (2, 3)"),
    ({"reward": [[1.0, "x"], [0.0, 0.0]]}, "reward must hold real numbers but has dtype <U32"),
    ({"reward": [[1.0], [0.0, 0.0]]}, "reward must be a rectangular array of numbers"),
]
DENSE = [
    ({"transition": P[0]}, "transition must have shape (S, A, S) with S, A >= 1 but has shape (2, 2)"),
    ({"transition": np.ones((2, 2, 3)) / 3}, "with S, A >= 1 but has shape (2, 2, 3)"),
    ({"transition": np.ones((0, 2, 0))}, "with S, A >= 1 but has shape (0, 2, 0)"),
    ({"transition": np.ones((2, 0, 2))}, "with S, A >= 1 but has shape (2, 0, 2)"),
    ({"transition": [[[1.0], [0.5, 0.5]]]}, "transition must be a rectangular array of numbers"),
    ({"transition": np.full((2, 2, 2), 1.7e308)}, "transition[0, 0] must sum to 1 within 1e-09 but sums to inf"),
]
STORED = [
    ({"transition": sparse.csr_array(np.ones((3, 2)) / 2)}, "sparse transition must have shape (S*A, S) with S, A"),
    ({"transition": sparse.csr_array((4, 2))}, "transition[0, 0] must sum to 1 within 1e-09 but sums to 0.0; 4 of 4"),
    ({"transition": sparse.csr_array((0, 2))}, "with S, A >= 1 but has shape (0, 2)"),
    ({"reward": sparse.csr_array(np.ones((2, 2)))}, "sparse reward must have the shape (4, 2) of transition but has"),
    ({"reward": SPARSE * NAN}, "reward[0, 0, 0] must be finite but is nan; 6 of 6 entries fail"),
    ({"reward": SPARSE, "terminal": END}, "reward[1, 0, 0] must be 0 in a terminal state"),
    ({"reward": np.ones(3)}, "or be sparse (4, 2) but has shape (3,)"),
]


def build(changes, storage):
    """The example model with some arguments replaced."""
    arguments = {"transition": P, "reward": R, "discount": 0.9} | changes
    if storage == "sparse" and not sparse.issparse(arguments["transition"]):
        arguments["transition"] = sparse.csr_array(np.reshape(arguments["transition"], (4, 2)))
    return MDP(**arguments)


@pytest.mark.parametrize(
    ("storage", "changes", "fragment"),
    [("dense", *case) for case in EITHER + DENSE] + [("sparse", *case) for case in EITHER + STORED],
)
def test_bad_input_is_refused_with_place_value_rule_and_count(storage, changes, fragment):
    with pytest.raises(InvalidModel) as caught:
        build(changes, storage)
    assert fragment in str(caught.value)
    assert isinstance(caught.value, ValueError)


def misplaced(part, place, value, layout="csr"):
    """The example's laws, sparse, with one number of their structure replaced."""
    out = SPARSE.asformat(layout).copy()
    getattr(out, part)[place] = value
    return out


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (misplaced("indices", 4, 2), ".indices[4] must be in 0..1 but is 2; 1 of 6 entries fail"),
        (misplaced("indices", 0, -1), ".indices[0] must be in 0..1 but is -1; 1 of 6 entries fail"),
        (misplaced("indices", 1, 88, "csc"), ".indices[1] must be in 0..3 but is 88; 1 of 6 entries fail"),
        (misplaced("row", 3, 4, "coo"), ".row[3] must be in 0..3 but is 4; 1 of 6 entries fail"),
        (misplaced("col", 3, -7, "coo"), ".col[3] must be in 0..1 but is -7; 1 of 6 entries fail"),
        (misplaced("indptr", 2, 1), ".indptr[2] must rise from 0 to at most the 6 stored entries but is 1; 1 of 5"),
        (misplaced("indptr", 0, 1), ".indptr[0] must rise from 0 to at most the 6 stored entries but is 1; 1 of 5"),
        (misplaced("indptr", 4, 7), ".indptr[4] must rise from 0 to at most the 6 stored entries but is 7; 1 of 5"),
        (misplaced("indptr", 1, 9, "csc"), ".indptr[1] must rise from 0 to at most the 6 stored entries but is 9;"),
    ],
)
@pytest.mark.parametrize("name", ["transition", "reward"])
def test_entries_stored_outside_are_refused(name, matrix, message):
    """Also where no mass or reward would be lost: in terminal states, of a stored 0, of impossible transitions."""
    for data in (matrix.data, np.zeros(matrix.nnz if matrix.format == "coo" else matrix.data.size)):
        matrix.data = data
        for terminal in (None, [True, True]):
            with pytest.raises(InvalidModel) as caught:
                MDP(**{"transition": SPARSE, "reward": [0, 0], name: matrix}, discount=0.9, start=0, terminal=terminal)
            assert str(caught.value).startswith(name + message)


def test_restart_and_discounted_refuse_what_the_constructor_refuses():
    mdp = MDP(P, R, 0.9)
    with pytest.raises(InvalidModel, match=r"start must sum to 1"):
        mdp.restart([0.5, 0.6])
    with pytest.raises(InvalidModel, match=r"discount must be a number in \[0, 1\] but is 2"):
        mdp.discounted(2)


def test_the_complement_of_the_discount_is_kept_until_the_discount_changes():
    assert MDP(P, R, 0.75).discount_complement == 0.25
    assert MDP(P, R, 1).discount_complement == 0
    close = MDP(P, R, 1, discount_complement=1e-300)
    assert (close.discount, close.discount_complement) == (1.0, 1e-300)
    assert MDP(P, R, 0.9, discount_complement=0.1).discount_complement == 0.1
    twins = [close.restart(1).restart([0.5, 0.5]), as_dense(as_sparse(close)), pickle.loads(pickle.dumps(close))]
    assert twins == [close] * 3
    assert close != MDP(P, R, 1)
    assert close.discounted(1.0) == MDP(P, R, 1)
    assert close.discounted(0.5).discount_complement == 0.5
    assert MDP(P, R, 0.75, discount_complement=0.25) == MDP(P, R, 0.75)


@pytest.mark.parametrize("storage", ["dense", "sparse"])
def test_unread_rows_may_hold_anything(storage):
    junk = P.copy()
    junk[0, 1] = NAN
    junk[1] = [[INF, -5.0], [0.0, 0.0]]
    mdp = build({"transition": junk, "reward": [1, 0], "terminal": END, "available": [[1, 0], [0, 0]]}, storage)
    assert_within(dense_transition(mdp), [[[0.5, 0.5], [0, 0]], [[0, 0], [0, 0]]], 0)
    assert_within(mdp.expected_reward, [[1, 0], [0, 0]], 0)


def test_rewards_of_impossible_transitions_out_of_terminal_states_are_ignored():
    free = P.copy()
    free[1] = 0
    mdp = MDP(free, np.ones((2, 2, 2)), 0.9, terminal=END)
    assert_within(dense_reward(mdp)[1], np.zeros((2, 2)), 0)


@pytest.mark.parametrize("storage", ["dense", "sparse"])
def test_rows_within_the_tolerance_are_normalised(storage):
    mdp = build({"transition": P * (1 + 5e-10)}, storage)
    assert_within(dense_transition(mdp), P, np.finfo(float).eps)


def test_start_is_uniform_over_the_states_that_go_on():
    assert_within(MDP(P, [1, 0], 0.9, terminal=END).start, [1, 0], 0)
    assert_within(MDP(P, R, 0.9).start, [0.5, 0.5], 0)
    assert_within(MDP(P, R, 0.9, np.int64(1)).start, [0, 1], 0)


@given(mdps(sparse=None))
def test_a_model_made_from_its_own_arrays_is_the_same(mdp):
    twin = MDP(mdp.transition, mdp.reward, mdp.discount, mdp.start, terminal=mdp.terminal, available=mdp.available)
    assert twin == mdp
    assert hash(twin) == hash(mdp)


@given(mdps(sparse=None))
def test_rows_are_laws_or_zero(mdp):
    total = dense_transition(mdp).sum(axis=2)
    read = mdp.available & ~mdp.terminal[:, None]
    assert_within(total, read.astype(float), mdp.n_states * np.finfo(float).eps)
    assert abs(mdp.start.sum() - 1) <= mdp.n_states * np.finfo(float).eps


@given(mdps(sparse=None))
def test_expected_reward_is_the_mean_of_the_reward_in_every_form_and_storage(mdp):
    mean = np.einsum("sak,sak->sa", dense_transition(mdp), dense_reward(mdp))
    bound = 4 * mdp.n_states * np.finfo(float).eps * np.abs(dense_reward(mdp)).max()
    for model in (mdp, as_dense(mdp), as_sparse(mdp)):
        assert_within(model.expected_reward, mean, bound)


@pytest.mark.parametrize("storage", ["dense", "sparse"])
def test_the_forms_of_reward_agree(storage):
    ways = [
        [5.0, -1.0],
        [[5.0, 5.0], [-1.0, -1.0]],
        np.broadcast_to(np.reshape([5.0, -1.0], (2, 1, 1)), (2, 2, 2)),
        sparse.csr_array(np.repeat([5.0, -1.0], 4).reshape(4, 2)),
    ]
    for reward in ways:
        assert_within(build({"reward": reward}, storage).expected_reward, [[5, 5], [-1, -1]], 0)


def test_sparse_rewards_are_read_by_place_and_missing_ones_are_zero():
    reward = sparse.csr_array(([7.0, 100.0], ([3, 1], [0, 0])), shape=(4, 2))
    mdp = MDP(SPARSE, reward, 0.9)
    assert_within(mdp.expected_reward, [[0, 0], [0, 0.25 * 7]], 0)
    assert_within(MDP(SPARSE, sparse.csr_array((4, 2)), 0.9).expected_reward, np.zeros((2, 2)), 0)


def test_sparse_input_is_copied_with_duplicates_summed_and_zeros_dropped():
    row, column = [0, 0, 0, 1, 2, 3, 3], [0, 0, 1, 1, 0, 0, 1]
    given_ = sparse.coo_array(([0.25, 0.25, 0.5, 1.0, 1.0, 0.0, 1.0], (row, column)), shape=(4, 2))
    mdp = MDP(given_, R, 0.9)
    assert mdp.transition.nnz == 5
    assert_within(dense_transition(mdp)[0, 0], [0.5, 0.5], 0)
    given_.data[:] = 0
    assert mdp.transition.nnz == np.count_nonzero(mdp.transition.data)


def test_input_arrays_are_copied_and_stay_writable():
    transition, reward = P.copy(), R.copy()
    mdp = MDP(transition, reward, 0.9)
    transition[:], reward[:] = 0.0, 0.0
    assert_within(mdp.transition, P, 0)
    assert_within(mdp.reward, R, 0)


def arrays_of(mdp):
    """Every array that a model holds."""
    held = [mdp.start, mdp.terminal, mdp.available, mdp.expected_reward]
    for array in (mdp.transition, mdp.reward):
        held += [array.data, array.indices, array.indptr] if sparse.issparse(array) else [array]
    return held


@given(mdps(sparse=None))
def test_arrays_are_read_only_also_after_copy_and_pickle(mdp):
    for twin in (mdp, copy.copy(mdp), copy.deepcopy(mdp), pickle.loads(pickle.dumps(mdp))):
        assert twin == mdp
        assert hash(twin) == hash(mdp)
        assert not any(array.flags.writeable for array in arrays_of(twin))


def test_attributes_cannot_be_set():
    with pytest.raises(AttributeError):
        MDP(P, R, 0.9).discount = 0.5  # type: ignore[misc]


def test_models_are_equal_when_their_contents_are():
    mdp = MDP(P, R, 0.9)
    assert mdp == MDP(P.tolist(), R.astype(int), 0.9)
    assert mdp == mdp.discounted(0.5).discounted(0.9)
    assert mdp != as_sparse(mdp)
    assert mdp != "a model"
    others = [
        mdp.discounted(0.8),
        mdp.restart(0),
        MDP(P[:, ::-1], R, 0.9),
        MDP(P, -R, 0.9),
        MDP(P, R, 0.9, available=[[1, 1], [0, 1]]),
        MDP(P[:, :1], R[:, :1], 0.9),
    ]
    assert all(mdp != other for other in others)
    assert len({mdp, *others}) == 7


def test_equal_models_hash_equally_whatever_the_sign_of_zero():
    one, other = MDP(P, R, 0.9, [1.0, 0.0]), MDP(P, R, 0.9, [1.0, -0.0])
    assert one == other
    assert hash(one) == hash(other)


def test_restart_and_discounted_change_one_thing():
    mdp = MDP(P, R, 0.9)
    assert_within(mdp.restart(1).start, [0, 1], 0)
    assert mdp.restart(1).transition is mdp.transition
    assert mdp.discounted(0.5).discount == 0.5
    assert mdp.discount == 0.9


@pytest.mark.parametrize(
    ("mdp", "text"),
    [
        (MDP(P, R, 0.9), "MDP(2 states, 2 actions, discount 0.9, dense)"),
        (MDP([[[1.0]]], [0.0], 1), "MDP(1 state, 1 action, discount 1, dense)"),
        (
            MDP(P, R, 1, discount_complement=1e-300),
            "MDP(2 states, 2 actions, discount 1 (complement 1e-300), dense)",
        ),
        (MDP(P, R, 0.75, discount_complement=0.25), "MDP(2 states, 2 actions, discount 0.75, dense)"),
        (MDP(SPARSE, R, 0.9), "MDP(2 states, 2 actions, discount 0.9, sparse with 6 transitions)"),
        (
            MDP(P, [1, 0], 0.5, terminal=END, available=[[1, 0], [1, 1]]),
            "MDP(2 states, 2 actions, discount 0.5, dense, 1 terminal, some actions unavailable)",
        ),
    ],
)
def test_repr(mdp, text):
    assert repr(mdp) == text


@given(mdps(sparse=True))
def test_dense_and_sparse_twins_hold_the_same_numbers(mdp):
    twin = as_dense(mdp)
    assert not twin.is_sparse
    assert as_sparse(twin).is_sparse
    for model in (twin, as_sparse(twin)):
        assert_within(dense_transition(model), dense_transition(mdp), 0)
        happens = dense_transition(mdp) > 0
        assert_within(np.where(happens, dense_reward(model), 0), np.where(happens, dense_reward(mdp), 0), 0)


@pytest.mark.parametrize("name", ["terminal", "available"])
def test_ragged_masks_are_one_sentence(name):
    with pytest.raises(InvalidModel, match=rf"{name} must be a rectangular mask of shape \(2"):
        MDP(np.full((2, 2, 2), 0.5), [1.0, 0.0], 0.9, **{name: [[True], [True, False]]})


def test_sparse_arrays_of_another_dimension_are_one_sentence():
    cube = np.full((2, 2, 2), 0.5)
    with pytest.raises(InvalidModel, match=r"sparse transition must have shape \(S\*A, S\) but has shape \(2, 2, 2\)"):
        MDP(sparse.coo_array(cube), [1.0, 0.0], 0.9)
    with pytest.raises(InvalidModel, match=r"sparse reward must have shape \(S\*A, S\) but has shape \(2, 2, 2\)"):
        MDP(sparse.csr_array(cube.reshape(4, 2)), sparse.coo_array(cube), 0.9)


def test_masked_entries_are_refused():
    cube = np.full((2, 2, 2), 0.5)
    hidden = np.ma.masked_array([1.0, 0.0], [True, False])
    with pytest.raises(InvalidModel, match="reward must hold a number everywhere but 1 of its 2 entries are masked"):
        MDP(cube, hidden, 0.9)
    with pytest.raises(InvalidModel, match="terminal must hold a boolean everywhere but"):
        MDP(cube, [0.0, 1.0], 0.9, terminal=hidden)
    assert MDP(np.ma.masked_array(cube, cube > 1), [1.0, 0.0], 0.9) == MDP(cube, [1.0, 0.0], 0.9)


def test_laws_of_float32_are_told_from_others():
    coarse = np.array([0.1, 0.2, 0.7], np.float32)
    for dtype in (np.float32, np.float16):
        law = coarse.astype(dtype)
        with pytest.raises(InvalidModel, match=rf"the entries are of {np.dtype(dtype)}, divide them"):
            MDP(np.tile(law, (3, 2, 1)), [1.0, 0.0, 0.0], 0.9)
        with pytest.raises(InvalidModel, match=rf"the entries are of {np.dtype(dtype)}, divide them"):
            MDP(np.full((3, 1, 3), [1.0, 0.0, 0.0]), [1.0, 0.0, 0.0], 0.9, start=law)
    with pytest.raises(InvalidModel) as caught:
        MDP(np.full((1, 1, 1), 0.5), [1.0], 0.9)
    assert "float" not in str(caught.value)
