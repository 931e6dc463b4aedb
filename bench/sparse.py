"""Sparse models against SciPy's solvers on a ready P_pi, and 10^6 states."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import bicgstab, splu

from bench.harness import Case
from fastpg import MDP, DirectPolicy, SoftmaxPolicy, evaluate, policy_gradient, problems
from fastpg.chain import induced_chain

MILLION = """
import json, time
from fastpg import SoftmaxPolicy, evaluate, fisher_information, policy_gradient, problems
small = problems.garnet(2000, 4, 5, rng=0, sparse=True)
policy_gradient(evaluate(small, SoftmaxPolicy.random(small, rng=1)))
began = time.perf_counter()
mdp = problems.garnet(1_000_000, 4, 5, rng=0, sparse=True)
built = time.perf_counter()
ev = evaluate(mdp, SoftmaxPolicy.random(mdp, rng=1))
ev.value, ev.action_value, ev.advantage, ev.occupancy, policy_gradient(ev), fisher_information(ev).blocks
done = time.perf_counter()
assert ev.error.value.max() < 1e-12 * abs(ev.value).max()
bounded = time.perf_counter()
peak = 1024 * int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
seconds = {"fastpg": done - built, "fastpg, building the model": built - began, "fastpg, bound on V": bounded - done}
print(json.dumps(seconds | {"peak_bytes": peak}))
"""


def sparse_cases() -> list[Case]:
    """Chains that fill in, chains that move locally and a grid, which does not fill in."""
    rng = np.random.default_rng(0)
    garnet = problems.garnet(3000, 4, 5, rng=0, sparse=True).restart(rng.dirichlet(np.ones(3000)))
    large = problems.garnet(100_000, 4, 5, rng=0, sparse=True).restart(rng.dirichlet(np.ones(100_000)))
    return [
        _gradient("Garnet, S = 3000", garnet, ("splu", "bicgstab")),
        quantecon_case(garnet),
        _gradient("Garnet, S = 100,000", large, ("bicgstab",)),
        _gradient("local moves, S = 100,000, discount 0.999", local_model(100_000, 4, 5, 20), ("splu",)),
        _gradient("grid of 300 x 300, discount 0.999", grid_model(300), ("splu",)),
        _gradient("small world, S = 100,000, discount 0.999", small_world(100_000, 3, 1e-3, rng), ("bicgstab",)),
    ]


def local_model(S: int, A: int, successors: int, reach: int) -> MDP:
    """Each action of a state leads to a few states at most `reach` away."""
    rng = np.random.default_rng(1)
    to = np.clip(np.arange(S)[:, None, None] + rng.integers(-reach, reach + 1, (S, A, successors)), 0, S - 1)
    return _model(to, rng.dirichlet(np.ones(successors), size=(S, A)), rng.standard_normal((S, A)))


def grid_model(n: int) -> MDP:
    """A walk on n x n cells: up, right, down, left, or with probability 0.1 each to a side of that."""
    row, column = np.divmod(np.arange(n * n), n)
    moves = [(-1, 0), (0, 1), (1, 0), (0, -1)]
    to = np.stack([np.clip(row + i, 0, n - 1) * n + np.clip(column + j, 0, n - 1) for i, j in moves], axis=1)
    to = np.stack([to[:, [a, (a + 1) % 4, (a - 1) % 4]] for a in range(4)], axis=1)
    law = np.broadcast_to([0.8, 0.1, 0.1], to.shape)
    return _model(to, law, np.random.default_rng(2).standard_normal((n * n, 4)))


def small_world(S: int, reach: int, share: float, rng: np.random.Generator) -> MDP:
    """Moves on a ring, at most `reach` away but for a share of them that leads anywhere; from a random start."""
    to = (np.arange(S)[:, None, None] + rng.integers(-reach, reach + 1, (S, 4, 5))) % S
    to = np.where(rng.random(to.shape) < share, rng.integers(0, S, to.shape), to)
    law = rng.dirichlet(np.ones(5), size=(S, 4))
    return _model(to, law, rng.standard_normal((S, 4))).restart(rng.dirichlet(np.ones(S)))


def _model(to: Any, law: Any, reward: Any) -> MDP:
    S, A, n = to.shape
    starts = np.arange(0, S * A * n + 1, n)
    return MDP(sparse.csr_array((law.ravel(), to.ravel(), starts), shape=(S * A, S)), reward, 0.999)


def _gradient(name: str, mdp: MDP, peers: tuple[str, ...]) -> Case:
    policy = SoftmaxPolicy.random(mdp, rng=1)
    pi, gamma, r, mu = policy.probabilities, mdp.discount, mdp.expected_reward, mdp.start
    chain = induced_chain(mdp, policy)
    identity = sparse.eye_array(mdp.n_states, format="csr")

    def gradient(V: Any, d: Any) -> Any:
        return d[:, None] * pi * (r + gamma * (mdp.transition @ V).reshape(r.shape) - V[:, None])

    def ours() -> Any:
        return policy_gradient(evaluate(mdp, SoftmaxPolicy(policy.logits)))

    def by_splu() -> Any:
        factors = splu(sparse.csc_array(identity - gamma * chain.transition))
        return gradient(factors.solve(chain.reward), factors.solve(mu, trans="T"))

    def by_bicgstab() -> Any:
        system = identity - gamma * chain.transition
        return gradient(bicgstab(system, chain.reward, rtol=1e-12)[0], bicgstab(system.T, mu, rtol=1e-12)[0])

    contenders = {"fastpg": ours}
    if "splu" in peers:
        contenders["SciPy, splu on P_pi"] = by_splu
    if "bicgstab" in peers:
        contenders["SciPy, bicgstab twice on P_pi"] = by_bicgstab
    return Case(f"sparse gradient, {name}", contenders, tolerance=1e-8, repeats=7)


def quantecon_case(mdp: MDP) -> Case:
    """Values of the policy that takes the first action, against QuantEcon's, which uses SciPy's spsolve."""
    from quantecon.markov import DiscreteDP

    S, A = mdp.expected_reward.shape
    states, actions = np.divmod(np.arange(S * A), A)
    transition = sparse.csr_matrix(mdp.transition)
    problem = DiscreteDP(mdp.expected_reward.ravel(), transition, mdp.discount, states, actions)
    policy = DirectPolicy(np.eye(A)[np.zeros(S, int)])
    contenders = {
        "fastpg": lambda: evaluate(mdp, policy).value,
        "QuantEcon, evaluate_policy": lambda: problem.evaluate_policy(np.zeros(S, int)),
    }
    return Case(f"sparse values, Garnet, S = {S}", contenders, tolerance=1e-8, repeats=7)


def million() -> dict[str, Any]:
    """Seconds and peak memory of everything about a Garnet of 10^6 states, in a process of its own."""
    out = subprocess.run([sys.executable, "-c", MILLION], check=True, capture_output=True, text=True).stdout
    warm = json.loads(out)
    peak = warm.pop("peak_bytes")
    name = f"sparse, S = 1,000,000, A = 4, 5 successors, peak memory {peak / 2**30:.2f} GiB"
    return {"case": name, "first": {}, "warm": warm, "peak_bytes": peak, "repeats": 1}
