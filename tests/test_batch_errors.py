"""What batches refuse: one sentence with the problem, the value and the rule."""

import numpy as np
import pytest
from scipy import sparse
from test_batch import FUNCTIONS, example

import fastpg
from fastpg import MDP, InvalidArgument, InvalidModel, InvalidPolicy, SoftmaxPolicy, SolveError, batch


@pytest.fixture(autouse=True, params=[1, 1000], ids=["rows", "lanes"])
def _long(request, monkeypatch):
    """From how many states on problems are solved by rows; fewer are solved in lanes."""
    monkeypatch.setattr(batch, "LONG", request.param)


def spoiled(name, place, value):
    """The example with one entry changed."""
    args, terminal = example()
    args[["transition", "reward", "discount", "start", "logits"].index(name)][place] = value
    return args, terminal


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("name", "place", "value", "error", "message"),
    [
        (
            "transition",
            (200, 1, 2, 3),
            np.nan,
            InvalidModel,
            r"\[200\], transition\[1, 2, 3\] must be finite but is nan",
        ),
        (
            "transition",
            (200, 3, 0),
            0.45,
            InvalidModel,
            r"\[200\], transition\[3, 0\] must sum to 1 within 1e-09 but sums to 1.8;",
        ),
        (
            "transition",
            (200, 3, 0),
            [-0.5, 0.5, 0.5, 0.5],
            InvalidModel,
            r"\[200\], transition\[3, 0, 0\] must not be negative but is -0.5",
        ),
        ("reward", (299, 1, 2), -np.inf, InvalidModel, r"\[299\], reward\[1, 2\] must be finite but is -inf"),
        ("reward", (3, 1, 2), 1.0, InvalidModel, r"\[3\], reward\[1, 2\] must be 0 in a terminal state"),
        ("discount", 1, 1.5, InvalidModel, r"\[1\], discount must be a number in \[0, 1\] but is 1.5"),
        ("discount", 1, np.nan, InvalidModel, r"\[1\], discount must be a number in \[0, 1\] but is nan"),
        ("start", (298, 2), np.nan, InvalidModel, r"\[298\], start\[2\] must be finite but is nan"),
        ("start", 298, 0.5, InvalidModel, r"\[298\], start must sum to 1 within 1e-09 but sums to 2.0"),
        ("start", 298, [-1.0, 2.0, 0.0, 0.0], InvalidModel, r"\[298\], start\[0\] must not be negative but is -1.0"),
        ("logits", (77, 1, 0), np.nan, InvalidPolicy, r"\[77\], logits\[1, 0\] must be finite or -inf but is nan"),
        ("logits", (77, 1, 0), np.inf, InvalidPolicy, r"\[77\], logits\[1, 0\] must be finite or -inf but is inf"),
        ("logits", (77, 1), -np.inf, InvalidPolicy, r"\[77\], logits\[1\] must leave an action above -inf"),
        ("discount", 1, 1.0, SolveError, r"\[1\], at discount 1 the process must end for certain"),
        ("reward", (1, 1, 2), 1.7e308, SolveError, r"\[1\], .* overflows float64"),
    ],
)
def test_each_broken_rule_is_a_sentence_with_its_place(function, name, place, value, error, message):
    args, terminal = spoiled(name, place, value)
    if value == 1.7e308:
        args[2][1], args[4][1] = 0.999, 0.0
    with pytest.raises(error, match="^in problem " + message + ".*; 1 of 300 problems fail$"):
        function(*args, terminal=terminal)


def test_a_gradient_may_overflow_where_values_do_not():
    """The mean of the rewards is 0, the gradient 1e307 / (1 - discount) / 2."""
    args = (np.ones((1, 2, 1)), [[1e307, -1e307]], [0.5, 0.999], [1.0], np.zeros((1, 2)))
    np.testing.assert_array_equal(batch.evaluate(*args).value, np.zeros((2, 1)))
    for function in (batch.policy_gradient, batch.natural_gradient):
        with pytest.raises(SolveError, match=r"in problem \[1\], logit_gradient\[0, 0\] overflows float64"):
            function(*args)


def test_the_place_is_that_of_the_broadcast_problem():
    args, terminal = spoiled("transition", (200, 3, 0), 0.45)
    args[4] = np.zeros((2, 1, 4, 3))
    with pytest.raises(InvalidModel, match=r"^in problem \[0, 200\], transition.*; 2 of 600 problems fail$"):
        batch.policy_gradient(*args, terminal=terminal)
    with pytest.raises(
        InvalidModel, match=r"^transition\[3, 0\] must sum to 1 within 1e-09 but sums to 1.8; 1 of 12 rows"
    ):
        batch.policy_gradient(*(x[200] for x in args[:4]), args[4][0, 0])


@pytest.mark.parametrize(
    ("position", "value", "error", "message"),
    [
        (
            0,
            np.ones((4, 3)),
            InvalidModel,
            r"transition must have shape \(..., 4, 3, 4\) to fit logits but has shape \(4, 3\)",
        ),
        (
            1,
            np.ones((300, 4)),
            InvalidModel,
            r"reward must have shape \(..., 4, 3\) or \(..., 4, 1\) to fit logits but has",
        ),
        (
            0,
            sparse.csr_array(np.ones((12, 4))),
            InvalidModel,
            "transition must be a dense array but is a SciPy csr_array; only transition and reward of MDP may",
        ),
        (
            1,
            sparse.csr_matrix(np.ones((12, 4))),
            InvalidModel,
            "reward must be a dense array but is a SciPy csr_matrix",
        ),
        (4, sparse.coo_array(np.ones((4, 3))), InvalidPolicy, "logits must be a dense array but is a SciPy coo_array"),
        (2, "a", InvalidModel, "discount must hold real numbers but has dtype <U1"),
        (
            2,
            np.ones(299),
            InvalidArgument,
            r"leading axes must broadcast but are \(300,\) of transition, .*, \(299,\) of discount",
        ),
        (3, 0, InvalidModel, r"start must have shape \(..., 4\) to fit logits but has shape \(\)"),
        (4, [1.0], InvalidPolicy, r"logits must have shape \(..., S, A\) with S, A >= 1 but has shape \(1,\)"),
        (4, np.ones((2, 0, 3)), InvalidPolicy, r"logits must have shape \(..., S, A\) with S, A >= 1 but has shape"),
        (4, [[1.0], [1.0, 2.0]], InvalidPolicy, "logits must be a rectangular array of numbers"),
    ],
)
def test_shapes_that_do_not_fit(position, value, error, message):
    args, _ = example()
    args[position] = value
    with pytest.raises(error, match=message):
        batch.policy_gradient(*args)


def test_bad_masks_and_threads():
    args, terminal = example()
    with pytest.raises(InvalidModel, match="terminal must be a mask of booleans but has dtype float64"):
        batch.evaluate(*args, terminal=terminal + 0.5)
    with pytest.raises(InvalidModel, match=r"terminal must have shape \(..., 4\) to fit logits but has shape \(\)"):
        batch.evaluate(*args, terminal=True)
    with pytest.raises(InvalidArgument, match="threads must be a positive integer but is 0"):
        batch.evaluate(*args, terminal=terminal, threads=0)


def test_an_endless_process_at_discount_1_is_an_error_wherever_it_begins():
    """State 2 is a trap that state 0 cannot reach; single calls leave its value undefined."""
    P = np.zeros((3, 1, 3))
    P[0, 0, 1] = P[2, 0, 2] = 1.0
    args = (P, [[1.0], [0.0], [1.0]], [0.5, 1.0], [1.0, 0.0, 0.0], np.zeros((3, 1)))
    terminal = [False, True, False]
    assert np.isnan(fastpg.evaluate(MDP(P, args[1], 1.0, 0, terminal=terminal), SoftmaxPolicy(args[4])).value[2])
    with pytest.raises(SolveError, match=r"in problem \[1\], at discount 1 .* from state 2, which start cannot reach"):
        batch.evaluate(*args, terminal=terminal)


def test_a_chance_of_ending_below_the_smallest_float_is_an_error():
    """State 1 ends by way of state 0, with a chance of 1e-400."""
    P = np.array([[[0.0, 1.0, 1e-200]], [[1e-200, 1.0, 0.0]], [[0.0, 0.0, 0.0]]])
    with pytest.raises(SolveError, match=r"in problem \[1\], I - discount P_pi is singular to float64"):
        batch.evaluate(P, np.zeros((3, 1)), [0.9, 1.0], [0.0, 1.0, 0.0], np.zeros((3, 1)), terminal=[0, 0, 1])
