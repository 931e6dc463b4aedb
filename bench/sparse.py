"""Exact gradients of sparse models against SciPy's and JAX's solvers on a ready P_pi, up to 10^6 states."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse
from scipy.linalg.lapack import dgbtrf, dgbtrs
from scipy.sparse.linalg import bicgstab, splu

from bench.apart import Apart
from bench.harness import Case, later
from fastpg import MDP, SoftmaxPolicy, evaluate, fisher_information, policy_gradient, problems
from fastpg.chain import Chain, induced_chain

Run = Callable[[], Any]
REACH = 20
# SuperLU with the order and the pivots that suit each structure.
IN_ORDER: dict[str, Any] = {"permc_spec": "NATURAL"}
SYMMETRIC: dict[str, Any] = {
    "permc_spec": "MMD_AT_PLUS_A", "diag_pivot_thresh": 0.0, "options": {"SymmetricMode": True},
}  # fmt: skip


def sparse_cases(quick: bool = False) -> list[Case]:
    """Chains that fill in, chains that move locally and grids, which do not fill in."""
    S, n = (10_000, 100) if quick else (100_000, 300)
    splu_, twice, jax_ = "SciPy, splu on P_pi", "SciPy, bicgstab twice on P_pi", "JAX, bicgstab twice on P_pi"
    small, large, local, grid = garnet_model(3000), garnet_model(S), local_model(S), grid_model(n)
    iterated = {twice: by_bicgstab, jax_: by_jax}
    banded = {splu_: lambda mdp: by_splu(mdp, IN_ORDER), "LAPACK, gbtrf on P_pi": by_band}
    return [
        _gradient("Garnet, S = 3000", small, {splu_: by_splu, **iterated}),
        _gradient(f"Garnet, S = {S:,}", large, iterated),
        _gradient(f"moves of at most 20 states, S = {S:,}, discount 0.999", local, banded),
        _gradient(f"grid of {n} x {n}, discount 0.999", grid, {splu_: lambda mdp: by_splu(mdp, SYMMETRIC)}),
        _gradient(f"small world, S = {S:,}, discount 0.999", small_world(S), {twice: by_bicgstab}),
    ]


def million_cases() -> list[Case]:
    """10^6 states, each contender in a process of its own, which has solved a small model before."""
    grid, garnet = (grid_model, 1000), (garnet_model, 1_000_000)
    return [
        Case(
            "everything, Garnet, S = 1,000,000",
            {
                "fastpg": Apart(everything, garnet),
                "fastpg, with bounds on V": Apart(everything, (*garnet, True)),
                "SciPy, bicgstab twice on P_pi": Apart(_made, (by_bicgstab, *garnet)),
            },
            tolerance=1e-8,
        ),
        Case(
            "everything, grid of 1000 x 1000, discount 0.999",
            {
                "fastpg": Apart(everything, grid),
                "fastpg, with bounds on V": Apart(everything, (*grid, True)),
                "SciPy, splu on P_pi": Apart(_made, (by_splu, *grid, SYMMETRIC)),
            },
            tolerance=1e-8,
        ),
    ]


def garnet_model(S: int) -> MDP:
    """Five successors of each action anywhere, and any start."""
    return problems.garnet(S, 4, 5, rng=0, sparse=True).restart(np.random.default_rng(0).dirichlet(np.ones(S)))


def local_model(S: int) -> MDP:
    """Each of four actions of a state leads to five states at most 20 away."""
    rng = np.random.default_rng(1)
    to = np.clip(np.arange(S)[:, None, None] + rng.integers(-REACH, REACH + 1, (S, 4, 5)), 0, S - 1)
    return _model(to, rng.dirichlet(np.ones(5), size=(S, 4)), rng.standard_normal((S, 4)))


def grid_model(n: int) -> MDP:
    """A walk on n x n cells: up, right, down, left, or with probability 0.1 each to a side of that."""
    row, column = np.divmod(np.arange(n * n), n)
    moves = [(-1, 0), (0, 1), (1, 0), (0, -1)]
    to = np.stack([np.clip(row + i, 0, n - 1) * n + np.clip(column + j, 0, n - 1) for i, j in moves], axis=1)
    to = np.stack([to[:, [a, (a + 1) % 4, (a - 1) % 4]] for a in range(4)], axis=1)
    law = np.broadcast_to([0.8, 0.1, 0.1], to.shape)
    return _model(to, law, np.random.default_rng(2).standard_normal((n * n, 4)))


def small_world(S: int, reach: int = 3, share: float = 1e-3) -> MDP:
    """Moves on a ring, at most `reach` away but for a share of them that leads anywhere; from a random start."""
    rng = np.random.default_rng(3)
    to = (np.arange(S)[:, None, None] + rng.integers(-reach, reach + 1, (S, 4, 5))) % S
    to = np.where(rng.random(to.shape) < share, rng.integers(0, S, to.shape), to)
    law = rng.dirichlet(np.ones(5), size=(S, 4))
    return _model(to, law, rng.standard_normal((S, 4))).restart(rng.dirichlet(np.ones(S)))


def _model(to: Any, law: Any, reward: Any) -> MDP:
    S, A, n = to.shape
    starts = np.arange(0, S * A * n + 1, n)
    return MDP(sparse.csr_array((law.ravel(), to.ravel(), starts), shape=(S * A, S)), reward, 0.999)


def chain_of(mdp: MDP) -> tuple[SoftmaxPolicy, Chain]:
    """The policy of every case, and P_pi, r_pi ready for a peer."""
    policy = SoftmaxPolicy.random(mdp, rng=1)
    return policy, induced_chain(mdp, policy)


def _gradient(name: str, mdp: MDP, peers: dict[str, Callable[[MDP], Run]]) -> Case:
    logits = SoftmaxPolicy.random(mdp, rng=1).logits
    contenders: dict[str, Run] = {"fastpg": lambda: policy_gradient(evaluate(mdp, SoftmaxPolicy(logits)))}
    contenders |= {peer: later(lambda make=make: make(mdp)) for peer, make in peers.items()}
    # P is read twice at least: for P_pi, and for the action values once V is known.
    size = 2 * (mdp.transition.data.nbytes + mdp.transition.indices.nbytes)
    return Case(f"sparse gradient, {name}", contenders, tolerance=1e-8, repeats=7, bytes_read=size)


def _solved(mdp: MDP, solve: Callable[[Chain], tuple[Any, Any]]) -> Run:
    """The gradient from V and the occupancy that `solve` finds on the ready chain."""
    policy, chain = chain_of(mdp)
    pi, r = policy.probabilities, mdp.expected_reward

    def run() -> Any:
        V, d = solve(chain)
        return d[:, None] * pi * (r + mdp.discount * (mdp.transition @ V).reshape(r.shape) - V[:, None])

    return run


def system_of(chain: Chain) -> Any:
    """I - discount P_pi."""
    return sparse.eye_array(chain.n_states, format="csr") - chain.discount * chain.transition


def by_splu(mdp: MDP, options: dict[str, Any] | None = None) -> Run:
    """SuperLU by SciPy."""
    return _solved(mdp, lambda chain: splu_of_both(chain, mdp.start, options))


def splu_of_both(chain: Chain, start: Any, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
    """V and d by SuperLU, factorised once for both."""
    factors = splu(sparse.csc_array(system_of(chain)), **options or {})
    return factors.solve(chain.reward), factors.solve(start, trans="T")


def by_bicgstab(mdp: MDP) -> Run:
    """BiCGSTAB by SciPy, on the system and on its transpose."""

    def solve(chain: Chain) -> tuple[Any, Any]:
        system = system_of(chain)
        return bicgstab(system, chain.reward, rtol=1e-12)[0], bicgstab(system.T, mdp.start, rtol=1e-12)[0]

    return _solved(mdp, solve)


def band_factors(chain: Chain) -> tuple[Any, Any]:
    """LAPACK's LU of a band of 20 on each side."""
    entries = chain.transition.tocoo()
    row, column = entries.coords
    band = np.zeros((3 * REACH + 1, chain.n_states), order="F")
    band[2 * REACH + row - column, column] = -chain.discount * entries.data
    band[2 * REACH] += 1.0
    return dgbtrf(band, REACH, REACH, overwrite_ab=True)[:2]


def by_band(mdp: MDP) -> Run:
    """LAPACK's LU of a band, once for both."""
    return _solved(mdp, lambda chain: band_of_both(chain, mdp.start))


def band_of_both(chain: Chain, start: Any) -> tuple[Any, Any]:
    """V and d by LAPACK's LU of a band, factorised once for both."""
    factors, pivots = band_factors(chain)
    V = dgbtrs(factors, REACH, REACH, chain.reward, pivots)[0]
    return V, dgbtrs(factors, REACH, REACH, start, pivots, trans=1)[0]


def by_jax(mdp: MDP) -> Run:
    """BiCGSTAB by JAX, compiled; products with P_pi by sums over segments, which were faster than its BCSR."""
    import jax
    import jax.numpy as jnp
    from jax.scipy.sparse.linalg import bicgstab as solver

    _, chain = chain_of(mdp)
    S, P = chain.n_states, chain.transition

    @jax.jit
    def both(row: Any, column: Any, p: Any, r: Any, mu: Any) -> Any:
        def forward(x: Any) -> Any:
            return x - mdp.discount * jax.ops.segment_sum(p * x[column], row, S, indices_are_sorted=True)

        def backward(x: Any) -> Any:
            return x - mdp.discount * jax.ops.segment_sum(p * x[row], column, S)

        return solver(forward, r, tol=1e-12)[0], solver(backward, mu, tol=1e-12)[0]

    with jax.enable_x64(True):
        row = np.repeat(np.arange(S), np.diff(P.indptr))
        arrays = [jnp.asarray(x) for x in (row, P.indices, P.data, chain.reward, mdp.start)]

    def solve(_: Chain) -> tuple[Any, Any]:
        with jax.enable_x64(True):
            V, d = jax.block_until_ready(both(*arrays))
        return np.asarray(V), np.asarray(d)

    return _solved(mdp, solve)


def everything(make: Callable[[int], MDP], size: int, bounds: bool = False) -> Run:
    """Values, visitation, gradient and Fisher blocks, and on request rigorous bounds on V of 1e-8 at most."""
    small = make(20)
    mdp = make(size)

    def run(mdp: MDP = mdp) -> Any:
        ev = evaluate(mdp, SoftmaxPolicy.random(mdp, rng=1))
        gradient = policy_gradient(ev)
        _ = ev.value, ev.action_value, ev.advantage, ev.occupancy, fisher_information(ev).blocks
        if bounds and not ev.error.value.max() <= 1e-8 * np.abs(ev.value).max():
            raise RuntimeError(f"V is bounded within {ev.error.value.max():.3g} only")
        return gradient

    run(small)
    return run


def _made(peer: Callable[..., Run], make: Callable[[int], MDP], size: int, *options: Any) -> Run:
    return peer(make(size), *options)
