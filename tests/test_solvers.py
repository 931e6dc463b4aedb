"""Solvers against NumPy and each other, for the system and its transpose."""

from contextlib import suppress
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from scipy import sparse
from test_certificate import generated

from fastpg import MDP, SoftmaxPolicy, SolveError, evaluate, problems, uniform
from fastpg.chain import induced_chain
from fastpg.exact import evaluate_exactly
from fastpg.solvers import GTH, LU, Banded, Bordered, SparseLU, Substitution, choose
from fastpg.testing.assertions import assert_within, conditioning, rounding
from fastpg.testing.models import as_dense, as_sparse, dense_transition
from fastpg.testing.strategies import mdp_and_policy

BACKWARD_STABLE = [LU(), SparseLU()]
SOLVERS = [*BACKWARD_STABLE, Banded(), GTH(), Bordered()]


def assert_solves(chain, P, bound):
    """All solvers give NumPy's solutions, for one right side and for several."""
    system = np.eye(len(P)) - chain.discount * P
    rights = np.stack([np.linspace(-1, 1, len(P)), np.ones(len(P)), np.eye(len(P))[0]], axis=1)
    for solver in SOLVERS:
        factors = solver.factorise(chain)
        assert_within(factors.solve(rights), np.linalg.solve(system, rights), bound)
        assert_within(factors.solve_transposed(rights), np.linalg.solve(system.T, rights), bound)
        for b in rights.T:
            assert_within(factors.solve(b), np.linalg.solve(system, b), bound)
            assert_within(factors.solve_transposed(b), np.linalg.solve(system.T, b), bound)


@given(mdp_and_policy(sparse=None))
def test_solvers_agree_with_numpy(case):
    mdp, policy = case
    P = np.einsum("sa,sak->sk", policy.probabilities, dense_transition(mdp))
    assert_solves(induced_chain(mdp, policy), P, rounding(mdp, policy, resolvents=1, scale=mdp.n_states))


@pytest.mark.heavy
def test_solvers_agree_with_numpy_on_larger_models(seeds):
    for seed in seeds(3, 100):
        rng = np.random.default_rng(seed)
        S, A = int(rng.integers(20, 120)), int(rng.integers(1, 6))
        P = rng.dirichlet(np.full(S, 0.1), size=(S, A))
        mdp = MDP(P, rng.standard_normal((S, A)), rng.choice([0.5, 0.9, 0.999]))
        for model in (mdp, as_sparse(mdp)):
            policy = uniform(model)
            assert_solves(induced_chain(model, policy), P.mean(axis=1), rounding(model, policy, resolvents=1, scale=S))


@given(mdp_and_policy())
def test_any_solver_serves_either_storage(case):
    mdp, policy = case
    bound = rounding(mdp, policy, resolvents=1)
    expected = evaluate(mdp, policy).value
    for model in (as_dense(mdp), as_sparse(mdp)):
        for solver in SOLVERS:
            assert_within(evaluate(model, policy, solver=solver).value, expected, bound)


def test_storage_chooses_the_solver():
    mdp = MDP(np.full((2, 1, 2), 0.5), [1.0, 0.0], 0.9)
    assert isinstance(choose(induced_chain(mdp, uniform(mdp))), LU)
    assert isinstance(choose(induced_chain(as_sparse(mdp), uniform(mdp))), Substitution)
    assert isinstance(evaluate(mdp, uniform(mdp), solver=SparseLU()).solver, SparseLU)


@pytest.mark.parametrize("storage", [as_dense, as_sparse])
@pytest.mark.parametrize("solver", BACKWARD_STABLE, ids=["lu", "sparse_lu"])
def test_a_system_that_float64_cannot_tell_from_singular_is_refused(solver, storage):
    # The chance of ending, 1e-20, is lost beside the chance of staying.
    mdp = storage(MDP([[[1.0, 1e-20]], [[0.0, 0.0]]], [1.0, 0.0], 1, terminal=[False, True]))
    with pytest.raises(SolveError, match=r"singular to float64 at discount 1\.0 with 2 states"):
        evaluate(mdp, uniform(mdp), solver=solver)


@pytest.mark.parametrize("solver", SOLVERS, ids=["lu", "sparse_lu", "banded", "gth", "bordered"])
def test_the_factors_do_not_touch_the_chain(solver):
    mdp = MDP(np.full((2, 1, 2), 0.5), [1.0, 0.0], 0.9)
    for model in (mdp, as_sparse(mdp)):
        chain = induced_chain(model, uniform(model))
        solver.factorise(chain)
        P = chain.transition.toarray() if sparse.issparse(chain.transition) else chain.transition
        assert_within(P, np.full((2, 2), 0.5), 0)


def test_conditioning_is_the_longest_discounted_stay():
    mdp = MDP([[[0.5, 0.5]], [[0.0, 0.0]]], [1.0, 0.0], 1, terminal=[False, True])
    assert_within(conditioning(mdp, uniform(mdp)), 3.0, 1e-15)


@pytest.mark.parametrize("complement", [0.0, 1e-16, 1e-14, 1e-9, 1e-5])
def test_dense_chains_near_discount_1_are_solved_without_subtraction(complement):
    mdp = problems.short_corridor() if complement == 0 else problems.random_mdp(5, 2, rng=0, discount=1 - complement)
    evaluation = evaluate(mdp, SoftmaxPolicy.random(mdp, rng=0))
    assert isinstance(evaluation.solver, GTH)
    assert abs(evaluation.visitation.sum() - 1) < 1e-14
    assert isinstance(evaluate(mdp.discounted(0.999), SoftmaxPolicy.random(mdp, rng=0)).solver, LU)


@pytest.mark.parametrize("solver", BACKWARD_STABLE)
def test_a_solve_that_has_lost_its_digits_is_refused(solver):
    mdp = problems.random_mdp(4, 2, rng=0, discount=1 - 1e-14)
    message = (
        r"loses too many digits at 1 - discount = 9.99201e-15: the visitation sums to .* use solvers.GTH\(\) where"
    )
    with pytest.raises(SolveError, match=message):
        evaluate(mdp, SoftmaxPolicy.uniform(mdp), solver=solver)


def assert_each_entry_keeps_its_digits(mdp, policy):
    """V for rewards >= 0 and d within 4 S ulp of each entry, times 1 / (1 - discount) unless GTH or Substitution."""
    ev, exact = evaluate(mdp, policy), evaluate_exactly(mdp, policy)
    steps = 1.0 if isinstance(ev.solver, GTH | Substitution) else 1 / mdp.discount_complement
    limit = Fraction(4 * mdp.n_states * np.finfo(float).eps * steps)
    for floats, truth in ((ev.value, exact.value), (ev.occupancy, exact.occupancy)):
        for s, (x, y) in enumerate(zip(floats, truth, strict=True)):
            if y is not None:
                assert abs(Fraction(float(x)) - y) <= limit * y + Fraction(1e-300), f"state {s} by {ev.solver}"


@pytest.mark.heavy
def test_each_entry_keeps_its_digits_by_default(seeds):
    for seed in seeds(200, 3000):
        mdp, policy, _ = generated(seed)
        paid = {"terminal": mdp.terminal, "discount_complement": mdp.discount_complement}
        with suppress(SolveError):  # overflow
            assert_each_entry_keeps_its_digits(
                MDP(mdp.transition, abs(mdp.reward), mdp.discount, mdp.start, **paid), policy
            )


@pytest.mark.parametrize("storage", [as_dense, as_sparse])
@pytest.mark.parametrize("length", [8, 64])
def test_tiny_values_keep_their_digits_by_default(storage, length):
    """The vanishing-gradient chain in any order of its states: at length 64 V(0) is 1e-33 of V(65)."""
    mdp, policy = problems.vanishing_gradient_chain(length), problems.vanishing_gradient_policy(length)
    order = np.random.default_rng(0).permutation(length + 2)
    for at in (order, np.arange(length + 2), np.arange(length + 2)[::-1]):
        P = mdp.transition[np.ix_(at, np.arange(mdp.n_actions), at)]
        turned = MDP(P, mdp.reward[at], mdp.discount, mdp.start[at])
        assert_each_entry_keeps_its_digits(storage(turned), SoftmaxPolicy(policy.logits[at]))
