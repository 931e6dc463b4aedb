"""Large dense models: one that mixes in a few steps and one that does not, against SciPy, JAX and PyTorch."""

from typing import Any

import numpy as np
from scipy.linalg import lu_factor, lu_solve

from bench.harness import Case, later
from bench.peers import jax_gradient, torch_gradient
from fastpg import MDP, SoftmaxPolicy, evaluate, policy_gradient


def dense_cases(quick: bool = False) -> list[Case]:
    """S = 2000, A = 10: P is 320 MB, and reading it takes a good part of the time."""
    S, A = (500, 4) if quick else (2000, 10)
    return [_case("well mixing", mixing_model(S, A)), _case("ring, window 10, discount 0.999", ring_model(S, A))]


def mixing_model(S: int, A: int) -> MDP:
    """Every state leads to every other."""
    rng = np.random.default_rng(0)
    P = rng.random((S, A, S))
    P /= P.sum(axis=2, keepdims=True)
    return MDP(P, rng.random((S, A)), 0.99, np.full(S, 1 / S))


def ring_model(S: int, A: int) -> MDP:
    """Every state leads to the 21 nearest on a ring, stored densely."""
    rng = np.random.default_rng(0)
    P = np.zeros((S, A, S))
    near = (np.arange(S)[:, None] + np.arange(-10, 11)) % S
    P[np.arange(S)[:, None, None], np.arange(A)[:, None], near[:, None]] = rng.dirichlet(np.ones(21), (S, A))
    return MDP(P, rng.random((S, A)), 0.999, np.full(S, 1 / S))


def _case(name: str, mdp: MDP) -> Case:
    policy = SoftmaxPolicy.random(mdp, rng=1)
    P, r, gamma, mu, logits = mdp.transition, mdp.expected_reward, mdp.discount, mdp.start, policy.logits
    S, A = r.shape

    def ours() -> Any:
        return policy_gradient(evaluate(mdp, SoftmaxPolicy(logits)))

    def scipy_tuned() -> Any:
        weight = np.exp(logits - logits.max(axis=1, keepdims=True))
        pi = weight / weight.sum(axis=1, keepdims=True)
        factors = lu_factor(np.eye(S) - gamma * np.matmul(pi[:, None, :], P)[:, 0], check_finite=False)
        V = lu_solve(factors, (pi * r).sum(axis=1), check_finite=False)
        d = lu_solve(factors, mu, trans=1, check_finite=False)
        return d[:, None] * pi * (r + gamma * (P.reshape(S * A, S) @ V).reshape(S, A) - V[:, None])

    contenders = {
        "fastpg": ours,
        "SciPy, one LU": scipy_tuned,
        "JAX, grad": later(lambda: jax_gradient(P, r, gamma, mu, logits)),
        "PyTorch, autograd": later(lambda: torch_gradient(P, r, gamma, mu, logits)),
    }
    # P is read twice at least: for P_pi, and for the action values once V is known.
    return Case(
        f"dense gradient, {name}, S = {S}, A = {A}", contenders, tolerance=1e-8, repeats=5, bytes_read=2 * P.nbytes
    )
