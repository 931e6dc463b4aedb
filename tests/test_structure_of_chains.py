"""Solvers for chains of a structure, substitution and banded LU, and the choice among all."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from fastpg import MDP, InvalidArgument, SoftmaxPolicy, SolveError, evaluate, policy_gradient, problems, uniform
from fastpg.chain import Chain, induced_chain
from fastpg.exact import evaluate_exactly
from fastpg.kernels import sparse as kernels
from fastpg.solvers import (
    GTH,
    LU,
    Banded,
    Components,
    Krylov,
    SparseLU,
    Substitution,
    banded,
    choose,
    components,
    substitution,
)
from fastpg.solvers.substitution import communicating_classes, compressed
from fastpg.testing.oracles import exact, exact_discount, rational_solve
from fastpg.validation import frozen

EPS = np.finfo(float).eps


def chain_of(P, discount, **options):
    """The chain of a model with one action; states without a row have ended."""
    P = sparse.csr_array(P)
    ended = np.diff(P.indptr) == 0
    mdp = MDP(P, np.where(ended, 0.0, 1.0), discount, terminal=ended, **options)
    return induced_chain(mdp, uniform(mdp))


@st.composite
def acyclic(draw):
    """A model with one action whose states lead to themselves and to others further on, in a shuffled order."""
    S = draw(st.integers(1, 7))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weight = np.triu(random.random((S, S)) * (random.random((S, S)) < 0.6))
    weight[np.arange(S), np.arange(S)] *= random.choice([0.0, 1.0, 1e9], size=S)
    weight[-1] = 0.0
    weight[weight.sum(axis=1) == np.diagonal(weight)] = 0.0  # a state that only stays would go on for ever
    law = weight / np.where(weight.sum(axis=1) > 0, weight.sum(axis=1), 1.0)[:, None]
    places = random.permutation(S)
    complement = draw(st.sampled_from([0.0, 1e-300, 1e-17, 1e-9, 0.1, 1.0]))
    P = sparse.csr_array(law[places][:, places])
    P.eliminate_zeros()
    ended = np.diff(P.indptr) == 0
    options = {"terminal": ended, "discount_complement": complement, "start": 0}
    return MDP(P, np.where(ended, 0.0, 1.0), 1.0 - complement, **options)


@given(acyclic())
def test_substitution_has_a_small_relative_error_in_each_entry(mdp):
    chain = induced_chain(mdp, uniform(mdp))
    assert isinstance(choose(chain), Substitution) or chain.discount_complement < 1e-4
    P = exact(mdp.transition.toarray())
    total = P.sum(axis=1)
    total[total == 0] += 1
    system = exact(np.eye(mdp.n_states)) - exact_discount(mdp) * P / total[:, None]
    factors = Substitution().factorise(chain)
    for b in np.eye(mdp.n_states):
        for x, matrix in ((factors.solve(b), system), (factors.solve_transposed(b), system.T)):
            expected = rational_solve(matrix, exact(b)).astype(float)
            np.testing.assert_allclose(x, expected, rtol=64 * EPS, atol=0)
    both = np.stack([np.ones(mdp.n_states), np.arange(mdp.n_states)], axis=1)
    np.testing.assert_array_equal(factors.solve(both)[:, 1], factors.solve(both[:, 1]))
    np.testing.assert_array_equal(factors.solve_transposed(both)[:, 0], factors.solve_transposed(both[:, 0]))


@st.composite
def of_classes(draw, largest=4):
    """A chain of classes of up to `largest` states in a shuffled order, that end or leave for later ones or stay."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = random.integers(1, largest + 1, draw(st.integers(1, 5)))
    label = np.repeat(np.arange(sizes.size), sizes)
    S = label.size
    weight = random.random((S, S)) * (random.random((S, S)) < 0.5) * np.less.outer(label, label)
    weight *= random.choice([1.0, 1e-12], size=(S, S))
    for c, n in enumerate(sizes):  # a cycle through all of a class
        members = np.flatnonzero(label == c)
        weight[members, np.roll(members, 1)] += random.random(n) + 0.01 if n > 1 else random.choice([0.0, 0.5])
    weight[label == sizes.size - 1] *= random.choice([0.0, 1.0])
    total = weight.sum(axis=1)
    weight /= np.where(total > 0, total, 1.0)[:, None]
    places = random.permutation(S)
    P = sparse.csr_array(weight[places][:, places])
    P.eliminate_zeros()
    return chain_of(P, draw(st.sampled_from([0.0, 0.5, 0.99, 1 - 1e-9])), start=0), label[places]


@given(of_classes(), st.sampled_from([Substitution(), Components(), Components(LU()), Components(SparseLU())]))
def test_classes_are_solved_in_order(case, solver):
    """Against rational arithmetic, entry by entry."""
    chain, label = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(components, "CLASS", 2 if isinstance(solver, Components) else 64)
        factors = solver.factorise(chain)
    P = exact(chain.transition.toarray())
    total = P.sum(axis=1)
    total[total == 0] += 1
    system = exact(np.eye(label.size)) - Fraction(chain.discount) * P / total[:, None]
    kept = isinstance(solver, Substitution) or solver.inner is None
    rtol, atol = (256 * EPS, 0.0) if isinstance(solver, Substitution) else (1e-12, 1e-11)
    if chain.discount > 0.999 and not isinstance(solver, Substitution):
        rtol = 256 * EPS if kept else 1e-5
    for b in np.eye(label.size):
        for x, matrix in ((factors.solve(b), system), (factors.solve_transposed(b), system.T)):
            np.testing.assert_allclose(x, rational_solve(matrix, exact(b)).astype(float), rtol=rtol, atol=atol)


@given(of_classes(6))
def test_classes_are_those_of_scipy_in_an_order(case):
    chain, _ = case
    rows = compressed(chain)
    classes = communicating_classes(rows, chain.n_states)
    n, label = sparse.csgraph.connected_components(chain.transition, connection="strong")
    assert classes.sizes.size == n
    np.testing.assert_array_equal(np.sort(classes.order), np.arange(chain.n_states))
    np.testing.assert_array_equal(classes.order[classes.place], np.arange(chain.n_states))
    ours = np.repeat(np.arange(n), classes.sizes)[classes.place]
    assert len(set(zip(ours.tolist(), label.tolist(), strict=True))) == n
    edges = chain.transition.tocoo()
    assert (ours[edges.row] <= ours[edges.col]).all()
    largest = int(classes.sizes.max())
    assert communicating_classes(rows, largest) is not None
    assert largest == 1 or communicating_classes(rows, largest - 1) is None


def test_substitution_refuses_large_classes():
    Substitution().factorise(chain_of(_walk(64), 0.9))
    with pytest.raises(InvalidArgument, match="classes have up to 64 states but this one has a larger one"):
        Substitution().factorise(chain_of(_walk(65), 0.9))


def test_substitution_refuses_a_chance_to_end_that_underflows():
    mdp = MDP([[[1.0, 1e-320]], [[0.0, 0.0]]], [1.0, 0.0], 1.0, terminal=[False, True])
    with pytest.raises(SolveError, match=r"overflows float64|singular"):
        evaluate(mdp, uniform(mdp), solver=Substitution())


def test_a_zero_that_is_stored_is_no_transition():
    P = sparse.csr_array((np.array([1.0, 0.0, 1.0]), np.array([1, 0, 2]), np.array([0, 1, 3, 3])), shape=(3, 3))
    chain = chain_of(P, 0.5)
    zero = sparse.csr_array((np.array([1.0, 0.0, 1.0]), np.array([1, 0, 2]), np.array([0, 1, 3, 3])), shape=(3, 3))
    assert isinstance(choose(type(chain)(zero, chain.reward, 0.5, 0.5, chain.undefined)), Substitution)


@given(st.integers(1, 30), st.integers(0, 4), st.booleans(), st.integers(0, 2**32 - 1))
def test_banded_agrees_with_dense_lu(S, w, shuffled, seed):
    random = np.random.default_rng(seed)
    near = np.abs(np.subtract.outer(np.arange(S), np.arange(S) + random.integers(-1, 2))) <= w
    weight = np.where(near, random.random((S, S)), 0.0)
    order = random.permutation(S) if shuffled else np.arange(S)
    weight = weight[order][:, order]
    total = weight.sum(axis=1)
    chain = chain_of(weight / np.where(total > 0, total, 1.0)[:, None], 0.99, start=0)
    factors, dense = Banded().factorise(chain), LU().factorise(chain)
    for b in (random.standard_normal(S), random.standard_normal((S, 3))):
        for x, y in (
            (factors.solve(b), dense.solve(b)),
            (factors.solve_transposed(b), dense.solve_transposed(b)),
        ):
            np.testing.assert_allclose(x, y, atol=1e-11, rtol=0)


def test_a_shuffled_walk_has_a_narrow_band():
    walk = _walk(500)
    order = np.random.default_rng(0).permutation(500)
    assert chain_of(walk, 0.9).moves == ((499, 499), (1, 1), 2 / 1000)  # the ring closes
    assert max(banded.narrowest(chain_of(walk[order][:, order], 0.9))[1:]) == 2


def test_bands_that_take_too_much_memory_are_refused(monkeypatch):
    monkeypatch.setattr(banded, "MEMORY", 2**20)
    chain = induced_chain(*_garnet(400))
    with pytest.raises(
        InvalidArgument, match=r"takes factors of up to 1 MiB but a band of \d+ \+ \d+ diagonals over 400"
    ):
        Banded().factorise(chain)


def _walk(S):
    s = np.arange(S)
    ahead = sparse.csr_array((np.ones(S), (s, (s + 1) % S)), shape=(S, S))
    return sparse.csr_array((ahead + ahead.T) / 2)


def _garnet(S, discount=0.9):
    mdp = problems.garnet(S, 2, 5, rng=0, sparse=True, discount=discount)
    return mdp, SoftmaxPolicy.random(mdp, rng=1)


def _line(S):
    return sparse.csr_array((np.ones(S - 1), (np.arange(S - 1), np.arange(1, S))), shape=(S, S))


def _grid(n):
    """A random walk on n x n cells."""
    walk = sparse.diags_array([np.ones(n - 1), np.ones(n - 1)], offsets=[-1, 1], shape=(n, n))
    edges = sparse.csr_array(sparse.kronsum(walk, walk))
    return sparse.csr_array(edges / edges.sum(axis=1)[:, None])


CHOICES = [
    (chain_of(_line(10), 0.9), Substitution, Substitution),
    (chain_of(_line(3000), 1.0), Substitution, Substitution),
    (chain_of(sparse.block_diag([_walk(60)] * 40), 0.9), Substitution, Substitution),
    (chain_of(sparse.block_diag([_walk(100)] * 20), 0.9), Components, Components),
    (chain_of(_walk(600), 0.9), Banded, Banded),
    (chain_of(_walk(600), 1 - 1e-6), GTH, GTH),
    (induced_chain(*_garnet(600)), LU, LU),
    (chain_of(_grid(25), 0.9), Banded, Banded),
    (induced_chain(*_garnet(1200)), Krylov, LU),
    (induced_chain(*_garnet(3500)), Krylov, Krylov),
    (chain_of(_walk(3000), 0.9), Krylov, Banded),
    (chain_of(_grid(60), 0.999), Krylov, SparseLU),
    (chain_of(_grid(260), 0.9), Krylov, SparseLU),
    (chain_of(_grid(260), 0.999), SparseLU, SparseLU),
]


@pytest.mark.parametrize(("chain", "first", "then"), CHOICES, ids=lambda x: x.__name__ if isinstance(x, type) else None)
def test_structure_chooses_the_solver(chain, first, then):
    solver = choose(chain)
    assert type(solver) is first
    if first is Krylov:
        assert (solver.preconditioner is not None) == (chain.moves.far <= 0.1)
        assert type(solver.fallback.choose(chain)) is then


@pytest.mark.parametrize("complement", [0.0, 1e-17])
def test_large_chains_that_end_are_solved_alike_where_the_discount_rounds_to_1(complement):
    S = 6000
    garnet, ended = problems.garnet(S, 2, 5, rng=0, sparse=True), np.arange(S) >= S - 5
    reward = np.where(ended[:, None], 0.0, garnet.reward)
    mdp = MDP(garnet.transition, reward, 1.0, 0, terminal=ended, discount_complement=complement)
    ev = evaluate(mdp, uniform(mdp))
    assert ev.solved_by == "Krylov"
    assert ev.error.expected_return <= 1e-11
    assert abs(ev.visitation.sum() - 1) <= 1e-12


def test_a_slow_chain_falls_back_and_says_so():
    P = _grid(60)
    mdp = MDP(P, np.cos(np.arange(3600.0) ** 2), 0.99999)
    ev = evaluate(mdp, uniform(mdp))
    assert ev.factors.fell_back
    assert ev.solved_by == "Krylov, then SparseLU"
    truth = evaluate(mdp, uniform(mdp), solver=SparseLU())
    np.testing.assert_array_equal(ev.value, truth.value)
    np.testing.assert_array_equal(ev.occupancy, truth.occupancy)


def as_dense(chain):
    """The same chain, stored densely."""
    return replace(chain, transition=chain.transition.toarray())


def shuffled(P, seed=0):
    """The same chain, its states in another order."""
    order = np.random.default_rng(seed).permutation(P.shape[0])
    return P[order][:, order]


DENSE_CHOICES = [
    (_walk(500), 0.9, LU),
    (_walk(501), 0.9, Banded),
    (shuffled(_walk(1200)), 0.999, Banded),
    (shuffled(_grid(23)), 0.999, Banded),
    (shuffled(_grid(51)), 0.9, SparseLU),
    (_walk(501), 1 - 1e-6, GTH),
]


@pytest.mark.parametrize(("P", "discount", "kind"), DENSE_CHOICES)
def test_dense_chains_with_few_transitions_are_solved_by_them(P, discount, kind):
    chain = as_dense(chain_of(P, discount))
    solver, b = choose(chain), np.cos(np.arange(P.shape[0]) ** 2.0)
    assert type(solver) is kind
    factors, sides = solver.factorise(chain), (b - discount * (P @ b), b - discount * (P.T @ b))
    np.testing.assert_allclose(factors.solve(sides[0]), b, rtol=0, atol=1e-9)
    np.testing.assert_allclose(factors.solve_transposed(sides[1]), b, rtol=0, atol=1e-9)


def test_dense_chains_without_a_band_are_no_sparse_ones():
    assert isinstance(choose(as_dense(induced_chain(*_garnet(600)))), Krylov)
    full = _walk(600).toarray() + 1e-300
    assert isinstance(choose(as_dense(chain_of(full / full.sum(axis=1, keepdims=True), 0.9))), Krylov)


@given(st.integers(1, 9), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_dense_chains_as_rows(S, seed, density):
    random = np.random.default_rng(seed)
    P = random.random((S, S)) * (random.random((S, S)) < density)
    chain = Chain(P, np.ones(S), 0.5, 0.5, np.zeros(S, bool))
    rows, expected = chain.rows, sparse.csr_array(P)
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(rows, name), getattr(expected, name))
    for most in range(-1, S * S + 1):
        assert chain.has_few_transitions(most) == replace(chain, transition=rows).has_few_transitions(most)
        assert chain.has_few_transitions(most) == (expected.nnz <= most)
        assert kernels.count_entries.py_func(P, most) == kernels.count_entries(P, most)
    out = np.empty(rows.nnz), np.empty(rows.nnz, np.int32), np.empty(S + 1, np.int32)
    kernels.compress.py_func(P, *out)
    for x, y in zip(out, (rows.data, rows.indices, rows.indptr), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("mixes", [True, False])
def test_large_dense_chains_try_krylov_first(mixes):
    slow = MDP(0.999999 * _walk(1100).toarray()[:, None] + 1e-6 / 1100, np.cos(np.arange(1100.0) ** 2), 0.999)
    mdp = problems.random_mdp(1100, 1, rng=0) if mixes else slow
    ev, truth = evaluate(mdp, uniform(mdp)), evaluate(mdp, uniform(mdp), solver=LU())
    assert ev.solved_by == ("Krylov" if mixes else "Krylov, then Krylov with SingleLU")
    for name in ("value", "occupancy", "action_value"):
        expected = getattr(truth, name)
        np.testing.assert_allclose(getattr(ev, name), expected, rtol=0, atol=1e-11 * np.abs(expected).max())


@given(st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_sparse_kernels_compiled_equal_interpreted(S, seed):
    random = np.random.default_rng(seed)
    P = sparse.csr_array(random.random((S, S)) * (random.random((S, S)) < 0.5))
    rows, results = (P.data, P.indices, P.indptr), []
    for run in (lambda kernel: kernel, lambda kernel: kernel.py_func):
        x = np.arange(S) + 1.0
        merged, (indices, place), begin = np.zeros(P.nnz), np.zeros((2, P.nnz), np.int32), np.zeros(S + 1, np.int32)
        pi = frozen(np.full((S, 1), 0.5))
        run(kernels.merge_successors)(*rows[1:], pi, np.full(S, -1, np.int32), indices, begin, place)
        frozen(place), frozen(begin)
        run(kernels.merge_transitions)(rows[0], rows[2], pi, place, begin, 0, S, merged)
        moves = np.zeros((2, 2), np.int64)
        far = run(kernels.longest_moves)(*rows[1:], 3, moves)
        after, before = np.empty((2, S))
        unsigned = P.data, P.indices.view(np.uint32), P.indptr.view(np.uint32)
        run(kernels.resolvent_product)(*unsigned, 0.9, x, 0, S // 2, after)
        run(kernels.resolvent_product)(*unsigned, 0.9, x, S // 2, S, after)
        run(kernels.resolvent_product_transposed)(*unsigned, 0.9, x, before)
        np.testing.assert_allclose(after, x - 0.9 * P @ x, rtol=1e-12, atol=1e-13 * np.abs(x).max())
        np.testing.assert_allclose(before, x - 0.9 * P.T @ x, rtol=1e-12, atol=1e-13 * np.abs(x).max())
        counts = np.zeros(S, np.int32)
        run(kernels.count_columns)(unsigned[1], counts)
        results.append((*merged, np.array(far), moves, counts, after, before))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=8 * EPS)


class Interpreted:
    """A module of kernels without their compilation."""

    def __init__(self, module):
        self.module = module

    def __getattr__(self, name):
        found = getattr(self.module, name)
        return getattr(found, "py_func", found)


@given(of_classes(), st.integers(1, 4), st.sampled_from([Substitution(), Banded()]))
def test_elimination_compiled_equals_interpreted(case, largest, solver):
    chain, _ = case
    results = []
    for interpreted in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            for module in (substitution, banded) if interpreted else ():
                patch.setattr(module, "kernels", Interpreted(module.kernels))
            classes = communicating_classes(compressed(chain), largest)
            factors, b = solver.factorise(chain), np.arange(chain.n_states) - 1.5
            parts = [part.factors for part in factors.parts] if isinstance(solver, Banded) else [factors.factors]
            results.append([*parts, factors.solve(b), factors.solve_transposed(b), *(classes or ())])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=64 * EPS, atol=64 * EPS * np.abs(one).max())


@pytest.mark.parametrize(("S", "e", "discount"), [(4, 1e-12, 0.99), (6, 1e-8, 0.999), (30, 1e-3, 0.99)])
@pytest.mark.parametrize("solver", [Banded(), SparseLU(), None])
def test_small_entries_keep_their_digits(S, e, discount, solver):
    # A drift to the left: states to the right are reached with probability e, e^2, ...
    P = np.zeros((S, 2, S))
    for s in range(S):
        P[s, :, max(s - 1, 0)] += 1 - e
        P[s, :, min(s + 1, S - 1)] += e
    reward = (np.arange(2 * S) % 5).reshape(S, 2).astype(float)
    mdp = MDP(sparse.csr_array(P.reshape(2 * S, S)), reward, discount, 0)
    policy = SoftmaxPolicy(np.zeros((S, 2)))
    exact = evaluate_exactly(mdp, policy).logit_gradient.astype(float)
    np.testing.assert_allclose(policy_gradient(evaluate(mdp, policy, solver=solver)), exact, rtol=1e-12, atol=0)
