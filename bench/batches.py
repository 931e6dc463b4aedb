"""Gradients of many models with a policy each, on one thread and on two, and what a user would otherwise write."""

from typing import Any

import numpy as np

from bench.harness import Case, later
from bench.peers import jax_gradient
from fastpg import MDP, SoftmaxPolicy, batch, evaluate, policy_gradient


def batch_cases() -> list[Case]:
    """Small models, middling ones and the largest that batches are for, against NumPy's stack and JAX's vmap."""
    return [_case(5, 3, 10_000, 30), _case(20, 4, 1000, 30), _case(100, 4, 32, 10)]


def _case(S: int, A: int, n: int, repeats: int) -> Case:
    rng = np.random.default_rng(0)
    P, r, theta = rng.dirichlet(np.ones(S), (n, S, A)), rng.random((n, S, A)), rng.standard_normal((n, S, A))
    gamma, mu = 0.95, np.full(S, 1 / S)

    def ours(threads: int) -> Any:
        return batch.policy_gradient(P, r, gamma, mu, theta, threads=threads)

    def one_by_one() -> Any:
        models = (MDP(P[i], r[i], gamma, mu) for i in range(n))
        return [
            policy_gradient(evaluate(mdp, SoftmaxPolicy(logits))) for mdp, logits in zip(models, theta, strict=True)
        ]

    def stacked() -> Any:
        weight = np.exp(theta - theta.max(axis=2, keepdims=True))
        pi = weight / weight.sum(axis=2, keepdims=True)
        system = np.eye(S) - gamma * np.matmul(pi[:, :, None, :], P)[:, :, 0]
        V = np.linalg.solve(system, (pi * r).sum(axis=2)[..., None])
        d = np.linalg.solve(system.swapaxes(1, 2), mu[:, None])
        q = r + gamma * np.matmul(P.reshape(n, S * A, S), V).reshape(n, S, A)
        return d * pi * (q - V)

    contenders = {
        "fastpg": lambda: ours(2),
        "fastpg, one thread": lambda: ours(1),
        "fastpg, one by one": one_by_one,
        "NumPy, stacked": stacked,
    }
    contenders["JAX, vmap"] = later(lambda: jax_gradient(P, r, gamma, mu, theta, mapped=True))
    return Case(f"{n:,} exact gradients, S = {S}, A = {A}", contenders, repeats=repeats)
