"""Steps a second: trajectories stored, summed and turned into gradients, and the same in JAX where it is installed."""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

from bench.harness import Case
from fastpg import MDP, RewardToGo, SoftmaxPolicy, estimate_gradient, evaluate, problems, rollout, sample_returns
from fastpg.sampling.tables import outcome_table

HORIZON = 100
THREADS = {"fastpg": 2, "fastpg, one thread": 1}

# The processor is chosen before JAX is imported, which starts a thread for each that it may use.
ONE_CORE = """
import json, os, sys
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
from bench.harness import measured
from bench.throughput import throughput_cases
print(json.dumps([measured(case) for case in throughput_cases(one_core=True)[: int(sys.argv[1])]]))
"""


def one_core(most: int) -> list[dict[str, Any]]:
    """The figures of the first `most` cases in a process that has one processor, and so has JAX (Linux)."""
    run = subprocess.run([sys.executable, "-c", ONE_CORE, str(most)], stdout=subprocess.PIPE, text=True, check=True)
    return list(json.loads(run.stdout))


def throughput_cases(*, one_core: bool = False) -> list[Case]:
    """A dense model and a sparse one; each contender returns 1 and the error of its estimate, a share of the largest.

    JAX uses all processors that it finds.
    """
    if find_spec("jax"):
        # Where a kernel of Numba ran before JAX's first, JAX 0.10.2 did not return.
        import jax

        jax.jit(lambda x: x + 1)(1).block_until_ready()
    rng = np.random.default_rng(0)
    dense = MDP(rng.dirichlet(np.ones(100), size=(100, 4)), rng.random((100, 4)), 0.99)
    sparse = problems.garnet(100_000, 4, 5, rng=0, sparse=True, discount=0.99)
    return [
        *_cases("S = 100, A = 4, dense", dense, 50_000, 200_000, one_core),
        *_cases("S = 100,000, A = 4, sparse", sparse, 100_000, 100_000, one_core),
    ]


def _cases(name: str, mdp: MDP, n: int, more: int, one_core: bool) -> list[Case]:
    """`n` trajectories are stored, or `more` summed, which need no memory: beside them what is paid once is little."""
    policy = SoftmaxPolicy.random(mdp, rng=1)
    largest = float(np.abs(mdp.expected_reward).max())
    value = evaluate(mdp, policy, horizon=HORIZON).expected_return
    mean_reward = evaluate(mdp.discounted(1.0), policy, horizon=HORIZON).expected_return / HORIZON

    def given(threads: int) -> dict[str, Any]:
        return {"horizon": HORIZON, "rng": 0, "threads": threads}

    def of_rewards(rewards: Any) -> float:
        # All rewards of a few trajectories: what is compared must cost nothing beside what is timed.
        return 1.0 + float(rewards.mean() - mean_reward) / largest

    def of_returns(returns: Any) -> float:
        return 1.0 + float(returns.mean() - value) / (largest * HORIZON)

    def stored(threads: int) -> Callable[[], Any]:
        return lambda: of_rewards(rollout(mdp, policy, n=n, **given(threads)).rewards[:1000])

    def summed(threads: int) -> Callable[[], Any]:
        return lambda: of_returns(sample_returns(mdp, policy, n=more, **given(threads)))

    def gradient(threads: int) -> Callable[[], Any]:
        return lambda: estimate_gradient(mdp, policy, RewardToGo(), n=more, **given(threads)).mean.sum(axis=0)

    peers: dict[str, dict[str, Any]] = {}
    if find_spec("jax"):
        peers["stored"] = _jax_peers(
            mdp, policy, n, lambda _, kept: of_rewards(np.asarray(kept[2][:, :1000])), keep=True
        )
        peers["summed to returns"] = _jax_peers(
            mdp, policy, more, lambda total, _: of_returns(np.asarray(total)), keep=False
        )
    contenders = {"fastpg": 1} if one_core else THREADS
    kinds = {
        "stored": (n, stored),
        "summed to returns": (more, summed),
        "summed to a gradient with standard errors": (more, gradient),
    }
    return [
        Case(
            f"{count * HORIZON:,} steps {kind}, {name}{', one core' if one_core else ''}",
            {label: run(threads) for label, threads in contenders.items()} | peers.get(kind, {}),
            tolerance=0.01,
            repeats=5,
            steps=count * HORIZON,
        )
        for kind, (count, run) in kinds.items()
    ]


def _jax_peers(
    mdp: MDP, policy: SoftmaxPolicy, n: int, found: Callable[[Any, Any], float], *, keep: bool
) -> dict[str, Callable[[], Any]]:
    """`lax.scan` over steps of n trajectories at once, jitted: inverse distribution functions, or our alias tables.

    In 32 bits and with the default generator, the fastest of the three that JAX has for this task.
    """
    import jax
    import jax.numpy as jnp

    S, A = mdp.n_states, mdp.n_actions
    P = mdp.transition
    # A state and an action have as many successors as any other: all states, or those of the generated model.
    law, reached = (P.data, P.indices) if mdp.is_sparse else (P, np.broadcast_to(np.arange(S), P.shape))
    choose, move = jnp.asarray(policy.probabilities.cumsum(axis=1)), jnp.asarray(law.reshape(S, A, -1).cumsum(axis=2))
    reached = jnp.asarray(reached.reshape(S, A, -1))
    reward = jnp.asarray(mdp.expected_reward)
    table = outcome_table(mdp, policy)
    threshold = jnp.asarray(table.draws.record[:, 0] * 2.0**-64)
    offset, alias, successor, action = map(jnp.asarray, (table.offset[:S], table.alias, table.successor, table.action))
    count = jnp.asarray(np.diff(table.offset)[:S])

    def inverse(s: Any, key: Any) -> tuple[Any, Any]:
        u, v = jax.random.uniform(key, (2, n))
        a = jnp.minimum((choose[s] < u[:, None]).sum(axis=1), A - 1)
        j = jnp.minimum((move[s, a] < v[:, None]).sum(axis=1), move.shape[2] - 1)
        return a, reached[s, a, j] if mdp.is_sparse else j

    def aliased(s: Any, key: Any) -> tuple[Any, Any]:
        u, v = jax.random.uniform(key, (2, n))
        k = offset[s] + jnp.minimum((u * count[s]).astype(int), count[s] - 1)
        k = jnp.where(v < threshold[k], k, alias[k])
        return action[k], successor[k]

    def run(draw: Any) -> Callable[[], Any]:
        def scan(key: Any) -> Any:
            first, *keys = jax.random.split(key, HORIZON + 1)

            def step(carry: Any, at: Any) -> tuple[Any, Any]:
                s, total = carry
                key, weight = at
                a, following = draw(s, key)
                r = reward[s, a]
                return (following, total + weight * r), (s, a, r) if keep else None

            start = jax.random.randint(first, (n,), 0, S)
            carry = (start, jnp.zeros(n))
            return jax.lax.scan(step, carry, (jnp.stack(keys), mdp.discount ** jnp.arange(HORIZON)))

        jitted = jax.jit(scan)

        def call() -> Any:
            (_, total), kept = jax.block_until_ready(jitted(jax.random.key(0)))
            return found(total, kept)

        return call

    return {"JAX, inverse functions": run(inverse), "JAX, alias tables": run(aliased)}
