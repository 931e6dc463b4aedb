"""The structure of induced chains, against the definitions on dense matrices."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpg import MDP, DirectPolicy, SolveError, chain_structure, evaluate, solvers, uniform
from fastpg.cli import main
from fastpg.testing.models import as_sparse, dense_transition
from fastpg.testing.strategies import mdp_and_policy


def process(P, discount=0.9, start=0, **options):
    """An MDP of one action whose chain is P; states of an empty row are terminal."""
    P = np.asarray(P, dtype=float)
    ended = ~P.any(axis=1)
    return MDP(P[:, None], np.where(ended, 0.0, np.arange(len(P))), discount, start, terminal=ended, **options)


def structure_of(P, **options):
    mdp = process(P, **options)
    dense, stored = (chain_structure(model, uniform(mdp)) for model in (mdp, as_sparse(mdp)))
    for name in ("recurrent", "transient", "reachable", "component", "block", "class_sizes"):
        assert getattr(dense, name).tolist() == getattr(stored, name).tolist()
    assert (dense.proper, dense.coupling, str(dense)) == (stored.proper, stored.coupling, str(stored))
    return dense


def rooms(leak, size=4):
    """Two rooms of a few states, uniform within, the first state of each leading to the other with chance `leak`."""
    P = np.kron(np.eye(2), np.full((size, size), 1 / size))
    for door, other in ((0, size), (size, 0)):
        P[door, door] -= leak
        P[door, other] += leak
    return P


def test_one_class_with_transient_and_unreachable_states():
    found = structure_of([[0, 1, 0, 0], [0, 0.5, 0.5, 0], [0, 1, 0, 0], [1, 0, 0, 0]])
    assert found.recurrent.tolist() == [-1, 0, 0, -1]
    assert found.transient.tolist() == [True, False, False, True]
    assert found.reachable.tolist() == [True, True, True, False]
    assert not found.proper
    assert str(found) == "1 recurrent class of 2 states, 2 transient, 1 unreachable"
    assert repr(found) == f"Structure({found})"


def test_several_classes_are_numbered_by_their_first_states():
    found = structure_of([[0.5, 0, 0.5, 0, 0], [0, 0, 0, 1, 0], [0, 0, 1, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 1]])
    assert found.recurrent.tolist() == [-1, 0, 1, 0, 2]
    assert found.class_sizes.tolist() == [2, 1, 1]
    assert found.component.tolist() == [0, 1, 0, 1, 2]
    words = (
        "3 recurrent classes of 1 to 2 states, 1 transient, 3 unreachable, 3 parts without a transition between them"
    )
    assert str(found) == words


def test_proper_is_of_what_start_leads_to():
    P = [[0, 0.5, 0.5, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
    found = structure_of(P, discount=1.0)
    assert found.proper
    assert found.recurrent.tolist() == [-1, -1, -1, 0]
    assert str(found) == "1 recurrent class of 1 state, 2 transient, 1 terminal, 1 unreachable, " + (
        "2 parts without a transition between them"
    )
    assert not structure_of(P, start=3).proper
    mdp = process(P, discount=1.0, start=[0.5, 0, 0, 0.5])
    assert not chain_structure(mdp, uniform(mdp)).proper
    with pytest.raises(SolveError, match="state 3 belongs to a recurrent class of 1 state"):
        evaluate(mdp, uniform(mdp))
    assert evaluate(process(P, discount=1.0), uniform(mdp)).structure.recurrent.tolist() == [-1, -1, -1, 0]


def test_the_policy_decides():
    P = np.zeros((2, 2, 2))
    P[:, 0] = np.eye(2)
    P[:, 1] = 1 - np.eye(2)
    mdp = MDP(P, np.ones(2), 0.5, 0)
    assert chain_structure(mdp, DirectPolicy([[1, 0], [1, 0]])).recurrent.tolist() == [0, 1]
    assert chain_structure(mdp, DirectPolicy([[0, 1], [1, 0]])).recurrent.tolist() == [-1, 0]
    assert chain_structure(mdp, uniform(mdp)).recurrent.tolist() == [0, 0]


def test_one_state_all_terminal_and_discount_0():
    loop = structure_of([[1.0]])
    assert (str(loop), loop.coupling, loop.nearly_decomposable) == ("1 recurrent class of 1 state", 0.0, False)
    ended = structure_of([[0.0]])
    assert (str(ended), ended.proper) == ("no recurrent class, 1 terminal", True)
    all_ended = structure_of(np.zeros((3, 3)))
    assert str(all_ended) == "no recurrent class, 3 terminal, 2 unreachable"
    assert (all_ended.component.tolist(), all_ended.block.tolist(), all_ended.coupling) == ([-1] * 3, [-1] * 3, 0.0)
    assert not all_ended.nearly_decomposable
    assert str(structure_of(rooms(0.2), discount=0.0)) == "1 recurrent class of 8 states"
    for P in ([[1.0]], [[0.0]], np.zeros((3, 3)), rooms(0.2)):
        ev = evaluate(process(P, discount=0.0), uniform(process(P)))
        assert ev.condition == (1.0 if len(P) > 1 else 0.0)  # D = I: a step from here or from elsewhere


@pytest.mark.parametrize("leak", [0.1, 1e-2, 1e-4, 1e-9, 1e-15])
def test_rooms_that_are_seldom_left(leak):
    found = structure_of(rooms(leak))
    assert str(found) == "1 recurrent class of 8 states"
    assert found.nearly_decomposable == (leak < 1e-3)
    if leak < 1e-3:
        assert found.block.tolist() == [0] * 4 + [1] * 4
        assert found.coupling == leak


def test_parts_without_a_link_are_not_nearly_but_entirely_decomposed():
    found = structure_of(rooms(0.0))
    assert found.component.tolist() == found.block.tolist() == [0] * 4 + [1] * 4
    assert (found.coupling, found.nearly_decomposable) == (0.0, False)


def test_many_small_probabilities_link_what_one_would_not():
    uniformly = np.full((2000, 2000), 1 / 2000)
    found = structure_of(uniformly)
    assert found.block.max() == 0
    far = np.full((2000, 2000), 5e-4)
    far[np.arange(2000), np.arange(2000)] = 1 - 1999 * 5e-4
    found = structure_of(far)
    assert not found.nearly_decomposable


def leads(P):
    return np.linalg.matrix_power((P > 0) + np.eye(len(P)), len(P)) > 0


@given(mdp_and_policy(sparse=None, discount=0.5))
def test_classes_follow_their_definitions(case):
    mdp, policy = case
    found = chain_structure(mdp, policy)
    P = np.einsum("sa,sak->sk", policy.probabilities, dense_transition(mdp))
    P[mdp.terminal] = 0
    there = leads(P)
    closed = (there <= there.T).all(axis=1) & ~mdp.terminal
    assert ((found.recurrent >= 0) == closed).all()
    inside = np.flatnonzero(closed)
    same = found.recurrent[inside][:, None] == found.recurrent[inside]
    assert (same == there[np.ix_(inside, inside)]).all()
    assert (found.transient == ~closed & ~mdp.terminal).all()
    assert (found.reachable == there[mdp.start > 0].any(axis=0)).all()
    assert found.proper == (not (found.reachable & closed).any())
    going = np.flatnonzero(~mdp.terminal)
    linked = leads((P + P.T)[np.ix_(going, going)])
    assert ((found.component[going][:, None] == found.component[going]) == linked).all()
    assert (found.component[mdp.terminal] == -1).all()


def coefficient(ev):
    """tau_1 of D by its definition."""
    P = ev.chain.transition.toarray() if ev.chain.is_sparse else ev.chain.transition
    D = np.linalg.inv(np.eye(len(P)) - ev.mdp.discount * P)
    return np.abs(D[:, None] - D[None]).sum(axis=2).max() / 2


@given(mdp_and_policy(sparse=None), st.sampled_from([solvers.LU(), solvers.GTH()]))
def test_the_condition_is_near_the_ergodicity_coefficient_and_never_above(case, solver):
    ev = evaluate(*case, solver=solver)
    exact = coefficient(ev)
    assert 0.5 * exact - 1e-12 <= ev.condition <= exact * (1 + 1e-6) + 1e-12


@pytest.mark.parametrize("complement", [1e-2, 1e-6, 1e-9, 1e-12, 1e-15])
def test_the_condition_shows_the_coupling_and_not_the_discount(complement):
    ev = evaluate(process(rooms(1e-5), discount=1 - complement), uniform(process(rooms(1e-5))))
    # The chance to be in the other room tends to 1/2 with rate 2 leak / 4 a step.
    assert ev.condition == pytest.approx(1 / (complement + 0.5e-5), rel=1e-3)
    P = rooms(0.2)
    ev = evaluate(process(P, discount=1 - complement), uniform(process(P)))
    Z = np.linalg.inv(np.eye(8) - (1 - complement) * P + np.full((8, 8), 1 / 8))  # the fundamental matrix
    assert ev.condition == pytest.approx(np.abs(Z[:, None] - Z[None]).sum(axis=2).max() / 2, rel=1e-6)


@pytest.mark.parametrize("complement", [1e-17, 1e-100])
def test_the_condition_is_never_above_where_no_occupancy_tells(complement):
    mdp = MDP(rooms(0.2)[:, None], np.arange(8.0), 1.0, discount_complement=complement)
    assert 3 <= evaluate(mdp, uniform(mdp)).condition <= 14 * (1 + 1e-9)


def test_occupancies_change_by_no_more_than_the_condition_says():
    P = rooms(1e-4)
    ev = evaluate(process(P, discount=0.9999), uniform(process(P)))
    moved = P.copy()
    moved[0, 0] -= 1e-6
    moved[0, 4] += 1e-6
    other = evaluate(process(moved, discount=0.9999), uniform(process(P)))
    change = np.abs(other.visitation - ev.visitation).sum()
    bound = 0.9999 * ev.condition * 2e-6
    assert 0.1 * bound <= change <= bound * (1 + 1e-6)


def test_a_problem_says_its_structure(capsys):
    assert main(["evaluate", "frozen-lake-4x4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("no recurrent class, 11 transient, 5 terminal" in line for line in lines)
    assert any(line.startswith("condition") and line.endswith("steps until the start is forgotten") for line in lines)
    assert main(["evaluate", "frozen-lake-4x4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["structure"]
    assert (found["recurrent_classes"], found["proper"], sum(found["transient"])) == ([], True, 11)
    assert (found["components"], found["blocks"], found["nearly_decomposable"]) == (1, 1, False)
    assert found["condition"] > 1
    assert main(["evaluate", "frozen-lake-4x4", "--horizon", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["structure"]["condition"] is None


def test_blocks_are_reported(capsys, monkeypatch):
    from fastpg.problems import CATALOGUE, Problem

    mdp = process(rooms(1e-6))
    monkeypatch.setitem(CATALOGUE, "rooms", Problem("rooms", "two rooms", lambda **_: mdp))
    assert main(["evaluate", "rooms"]) == 0
    assert "2 of them, left for another with probability 1e-06 a step at most" in capsys.readouterr().out
