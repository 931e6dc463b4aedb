"""What is measured, and the code a user would otherwise write."""

import os
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
from scipy.linalg import lu_factor, lu_solve
from scipy.linalg.lapack import dgetrf, dgetrs

from bench.harness import Case, later
from bench.peers import jax_gradient, torch_gradient
from fastpg import MDP, RewardToGo, SoftmaxPolicy, estimate_gradient, evaluate, policy_gradient, problems, solvers
from fastpg.chain import induced_chain

FIRST_GRADIENT = """
import numpy as np
from fastpg import MDP, SoftmaxPolicy, evaluate, policy_gradient
rng = np.random.default_rng(0)
mdp = MDP(rng.dirichlet(np.ones(10), size=(10, 4)), rng.random((10, 4)), 0.9)
policy_gradient(evaluate(mdp, SoftmaxPolicy.random(mdp, rng=1)))
"""


def gradient_cases() -> list[Case]:
    """Exact gradient of a dense model, against a tuned SciPy version, a plain NumPy one, JAX and PyTorch."""
    return [_gradient(S, A, repeats) for S, A, repeats in ((10, 4, 100), (100, 4, 100), (1000, 10, 10))]


def _gradient(S: int, A: int, repeats: int) -> Case:
    mdp = problems.random_mdp(S, A, rng=0)
    policy = SoftmaxPolicy.random(mdp, rng=1)
    P, r, gamma, mu, logits = mdp.transition, mdp.expected_reward, mdp.discount, mdp.start, policy.logits

    def probabilities() -> Any:
        weight = np.exp(logits - logits.max(axis=1, keepdims=True))
        return weight / weight.sum(axis=1, keepdims=True)

    def ours() -> Any:
        return policy_gradient(evaluate(mdp, SoftmaxPolicy(logits)))

    def scipy_tuned() -> Any:
        pi = probabilities()
        factors = lu_factor(np.eye(S) - gamma * np.matmul(pi[:, None, :], P)[:, 0], check_finite=False)
        V = lu_solve(factors, (pi * r).sum(axis=1), check_finite=False)
        d = lu_solve(factors, mu, trans=1, check_finite=False)
        return d[:, None] * pi * (r + gamma * (P.reshape(S * A, S) @ V).reshape(S, A) - V[:, None])

    def numpy_plain() -> Any:
        pi = probabilities()
        system = np.eye(S) - gamma * np.einsum("sa,sak->sk", pi, P)
        V = np.linalg.solve(system, (pi * r).sum(axis=1))
        d = np.linalg.solve(system.T, mu)
        return d[:, None] * pi * (r + gamma * P @ V - V[:, None])

    contenders = {
        "fastpg": ours,
        "SciPy, one LU": scipy_tuned,
        "NumPy, two solves": numpy_plain,
        "JAX, grad": later(lambda: jax_gradient(P, r, gamma, mu, logits)),
        "PyTorch, autograd": later(lambda: torch_gradient(P, r, gamma, mu, logits)),
    }
    return Case(f"exact gradient, S = {S}, A = {A}", contenders, repeats=repeats)


def solver_cases() -> list[Case]:
    """Elimination without subtraction against LAPACK's LU, each with one solve."""
    mdp = problems.random_mdp(1000, 1, rng=0)
    chain = induced_chain(mdp, SoftmaxPolicy.uniform(mdp))

    def ours() -> Any:
        return solvers.GTH().factorise(chain).solve(chain.reward)

    def lapack() -> Any:
        system = chain.transition * -chain.discount
        system.reshape(-1)[:: chain.n_states + 1] += 1.0
        factors, pivots, _ = dgetrf(system.T, overwrite_a=True)
        return dgetrs(factors, pivots, chain.reward, trans=1)[0]

    return [Case("dense solve, S = 1000", {"fastpg": ours, "LAPACK, getrf": lapack}, flops=2 / 3 * 1000**3)]


def sampling_cases() -> list[Case]:
    """A sampled gradient with standard errors, against trajectories vectorised in NumPy."""
    rng = np.random.default_rng(0)
    S, A, T, gamma = 100, 4, 100, 0.99
    mdp = MDP(rng.dirichlet(np.ones(S), size=(S, A)), rng.random((S, A)), gamma)
    policy = SoftmaxPolicy.random(mdp, rng=1)
    exact = policy_gradient(evaluate(mdp, policy, horizon=T))

    def ours(threads: int, n: int) -> Any:
        return estimate_gradient(mdp, policy, RewardToGo(), n=n, horizon=T, rng=0, threads=threads).mean - exact

    def vectorised(n: int) -> Any:
        random = np.random.default_rng(0)
        pi, cumulative = policy.probabilities, mdp.transition.cumsum(axis=2)
        choose = pi.cumsum(axis=1)
        s = random.integers(0, S, n)
        states, actions, rewards = (np.empty((T, n), dtype) for dtype in (np.int64, np.int64, float))
        for t in range(T):
            a = np.minimum((choose[s] < random.random(n)[:, None]).sum(axis=1), A - 1)
            states[t], actions[t], rewards[t] = s, a, gamma**t * mdp.expected_reward[s, a]
            s = np.minimum((cumulative[s, a] < random.random(n)[:, None]).sum(axis=1), S - 1)
        weight = rewards[::-1].cumsum(axis=0)[::-1]
        W = np.bincount((states * A + actions).ravel(), weight.ravel(), S * A).reshape(S, A)
        return (W - pi * W.sum(axis=1, keepdims=True)) / n - exact

    n = 10_000
    contenders = {
        "fastpg": lambda: ours(2, n),
        "fastpg, one thread": lambda: ours(1, n),
        "NumPy, vectorised": lambda: vectorised(n),
    }
    # Errors of estimates are compared: they are independent, so only their size can agree.
    return [Case(f"sampled gradient, {n * T:,} steps, S = {S}, A = {A}", contenders, tolerance=10.0, repeats=7)]


def start_up(repeats: int = 5) -> dict[str, Any]:
    """Whole-process seconds to the first exact gradient of a 10-state model, with empty and with filled cache."""
    times: dict[str, list[float]] = {"empty cache": [], "filled cache": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as cache:
            for state in times:
                began = time.perf_counter()
                environment = os.environ | {"NUMBA_CACHE_DIR": cache}
                subprocess.run([sys.executable, "-c", FIRST_GRADIENT], check=True, env=environment)
                times[state].append(time.perf_counter() - began)
    warm = {state: float(np.median(values)) for state, values in times.items()}
    return {"case": "process start to first gradient, S = 10", "first": {}, "warm": warm, "repeats": repeats}
