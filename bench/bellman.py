"""One sweep of value iteration, max_a r + discount P v, against NumPy, SciPy, JAX and QuantEcon."""

from typing import Any

import numpy as np
from scipy import sparse

from bench.dense import mixing_model
from bench.harness import Case, later
from bench.sparse import Run, garnet_model
from fastpg import MDP, greedy


def bellman_cases(quick: bool = False) -> list[Case]:
    """A dense and a sparse model, both larger than a cache."""
    S, A, n = (500, 4, 100_000) if quick else (2000, 10, 1_000_000)
    return [
        _case(f"Bellman sweep, dense, S = {S}, A = {A}", mixing_model(S, A)),
        _case(f"Bellman sweep, Garnet, S = {n:,}, A = 4", garnet_model(n)),
    ]


def _case(name: str, mdp: MDP) -> Case:
    v = np.random.default_rng(0).random(mdp.n_states)
    P, r = mdp.transition, mdp.expected_reward
    rows = P if mdp.is_sparse else P.reshape(r.size, -1)
    contenders = {
        "fastpg": lambda: greedy(mdp, v).value,
        "SciPy" if mdp.is_sparse else "NumPy": lambda: (r + mdp.discount * (rows @ v).reshape(r.shape)).max(axis=1),
        "QuantEcon, bellman_operator": later(lambda: _quantecon(mdp, v)),
    }
    if not mdp.is_sparse:
        contenders["JAX"] = later(lambda: _jax(mdp, v))
    size = P.data.nbytes + P.indices.nbytes if mdp.is_sparse else P.nbytes
    return Case(name, contenders, repeats=7, bytes_read=size)


def _quantecon(mdp: MDP, v: Any) -> Run:
    from quantecon.markov import DiscreteDP

    r = mdp.expected_reward
    if mdp.is_sparse:
        given = (sparse.csr_matrix(mdp.transition), mdp.discount, *np.divmod(np.arange(r.size), mdp.n_actions))
        problem = DiscreteDP(r.ravel(), *given)
    else:
        problem = DiscreteDP(r, mdp.transition, mdp.discount)
    return lambda: problem.bellman_operator(v)


def _jax(mdp: MDP, v: Any) -> Run:
    import jax
    import jax.numpy as jnp

    sweep = jax.jit(lambda P, r, v: (r + mdp.discount * P @ v).max(axis=1))
    with jax.enable_x64(True):
        arrays = [jnp.asarray(x) for x in (mdp.transition, mdp.expected_reward, v)]

    def run() -> Any:
        with jax.enable_x64(True):
            return sweep(*arrays).block_until_ready()

    return run
