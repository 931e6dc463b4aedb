"""Who is silently wrong: relative errors against rational arithmetic, `python -m bench.accuracy [FILE.json]`."""

import json
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from scipy.linalg import lu_factor, lu_solve

from bench.harness import machine
from fastpg import MDP, SoftmaxPolicy, evaluate, policy_gradient, problems
from fastpg.exact import evaluate_exactly

RESULTS = Path(__file__).parent / "accuracy.json"
LENGTHS = (8, 24, 40, 64, 100, 200)
COMPLEMENTS = (1e-3, 1e-6, 1e-9, 1e-12)


def one_lu(mdp: MDP, pi: Any) -> tuple[Any, Any]:
    """V and the gradient with one LU of I - discount P_pi, as one would write them in SciPy."""
    P, r, gamma = mdp.transition, mdp.expected_reward, mdp.discount
    keep = ~mdp.terminal
    factors = lu_factor(np.eye(len(P)) - gamma * np.einsum("sa,sak->sk", pi, P))
    V = lu_solve(factors, (pi * r).sum(axis=1))
    d = lu_solve(factors, mdp.start, trans=1)
    return V, (keep * d)[:, None] * pi * (r + gamma * P @ V - V[:, None])


def two_solves(mdp: MDP, pi: Any) -> tuple[Any, Any]:
    """The same with two calls of numpy.linalg.solve."""
    P, r, gamma = mdp.transition, mdp.expected_reward, mdp.discount
    system = np.eye(len(P)) - gamma * np.einsum("sa,sak->sk", pi, P)
    V, d = np.linalg.solve(system, (pi * r).sum(axis=1)), np.linalg.solve(system.T, mdp.start)
    return V, (~mdp.terminal * d)[:, None] * pi * (r + gamma * P @ V - V[:, None])


def ours(mdp: MDP, pi: Any) -> tuple[Any, Any]:
    """fastpg with default settings."""
    ev = evaluate(mdp, SoftmaxPolicy(np.log(pi)))
    return ev.value, policy_gradient(ev)


def quantecon_values(mdp: MDP) -> dict[str, Any]:
    """QuantEcon's evaluation of the only policy, and its value iteration at epsilon 1e-6 for at most 100,000 sweeps."""
    from quantecon.markov import DiscreteDP

    problem = DiscreteDP(mdp.expected_reward, mdp.transition, mdp.discount)
    policy = np.zeros(mdp.n_states, dtype=int)
    return {
        "QuantEcon, evaluate_policy": problem.evaluate_policy(policy),
        "QuantEcon, value iteration (at most 1e5 sweeps)": problem.solve(
            method="value_iteration", epsilon=1e-6, max_iter=100_000
        ).v,
    }


def relative_error(found: Any, exact: Any) -> float:
    """|found - exact| / |exact| in the Euclidean norm, computed from fractions; squares of 1e-200 underflow no one."""
    off = sum((Fraction(float(x)) - y) ** 2 for x, y in zip(np.ravel(found), np.ravel(exact), strict=True))
    size: Any = sum(y**2 for y in np.ravel(exact))
    return float(off / size) ** 0.5


def vanishing(H: int) -> dict[str, float]:
    """Relative error of the gradient of the chain whose gradient vanishes."""
    mdp = problems.vanishing_gradient_chain(H)
    A = mdp.n_actions
    # The probabilities that float logits give, so that all answer the same question.
    pi = SoftmaxPolicy(np.log(np.full((H + 2, A), [0.2] + [0.8 / (A - 1)] * (A - 1)))).probabilities
    exact = evaluate_exactly(mdp, SoftmaxPolicy(np.log(pi))).logit_gradient
    peers: dict[str, Callable[[MDP, Any], tuple[Any, Any]]] = {
        "fastpg": ours, "SciPy, one LU": one_lu, "NumPy, two solves": two_solves,
    }  # fmt: skip
    return {name: relative_error(solve(mdp, pi)[1], exact) for name, solve in peers.items()}


def near_one(complement: float) -> dict[str, float]:
    """Relative error of V of a random chain with rewards in [0, 1]."""
    drawn = problems.random_mdp(30, 1, rng=0)
    mdp = MDP(drawn.transition, drawn.expected_reward, 1 - complement)
    pi = np.ones((30, 1))
    exact = evaluate_exactly(mdp, SoftmaxPolicy(np.log(pi))).value
    peers = {"fastpg": ours, "SciPy, one LU": one_lu, "NumPy, two solves": two_solves}
    values = {name: solve(mdp, pi)[0] for name, solve in peers.items()} | quantecon_values(mdp)
    return {name: relative_error(value, exact) for name, value in values.items()}


def table(head: str, rows: dict[str, dict[str, float]]) -> str:
    """A Markdown table, one line a case."""
    names = list(next(iter(rows.values())))
    lines = [f"| {head} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {case} | {' | '.join(f'{row[name]:.0e}' for name in names)} |" for case, row in rows.items()]
    return "\n".join(lines)


def kept() -> dict[str, Any]:
    """The figures of the last run."""
    found: dict[str, Any] = json.loads(RESULTS.read_text())
    return found


def main() -> None:
    """Measure, print both tables, and keep the figures."""
    results = {
        "machine": machine(),
        "gradient": {f"H = {H}": vanishing(H) for H in LENGTHS},
        "value": {f"{c:g}": near_one(c) for c in COMPLEMENTS},
    }
    print(table("chain", results["gradient"]), table("1 − γ", results["value"]), sep="\n\n")
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
