"""Compile every kernel into the cache, by small pieces of work that need them.

A kernel is compiled when it is first called, for the types of its arguments; calls are the only way to know these.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
from scipy.sparse import csr_array

from fastpg import batch
from fastpg.bellman import expected_next_value, greedy
from fastpg.crosscheck import crosscheck
from fastpg.evaluation import Evaluation, evaluate
from fastpg.fisher import fisher_information, natural_gradient
from fastpg.gradient import policy_gradient
from fastpg.model import MDP
from fastpg.policy import SoftmaxPolicy
from fastpg.problems import garnet, random_mdp
from fastpg.sampling import (
    BatchAverage,
    FiniteDifference,
    RewardToGo,
    TotalReturn,
    estimate_gradient,
    rollout,
    sample_evaluation,
    sample_returns,
)
from fastpg.sampling.tables import Horizon
from fastpg.solvers import GTH, Banded, Krylov, Solver, Substitution, ValueIteration

HORIZONS: tuple[Horizon, ...] = (3, "geometric")
SPARSE = Krylov(), ValueIteration(), Banded(), Substitution()
Work = Callable[[], object]


def pieces() -> Iterator[tuple[str, Work]]:
    """What is compiled, in words, and the work that compiles it."""
    dense = random_mdp(6, 3, rng=0)
    sparse = _sparse(dense)
    policy = SoftmaxPolicy.random(dense, rng=0)
    other = SoftmaxPolicy.random(dense, rng=1)
    for name, mdp in (("dense", dense), ("sparse", sparse)):
        ev = evaluate(mdp, policy)
        yield f"gradients of {name} models", partial(_gradients, ev)
        yield f"error bounds of {name} models", partial(_bounds, ev)
        yield f"finite horizons of {name} models", partial(_finite, mdp, policy)
        yield f"Bellman operators of {name} models", partial(_bellman, mdp)
        yield f"GTH on {name} models", partial(_gradients, evaluate(mdp, policy, solver=GTH()))
        yield f"large {name} models", partial(_large, mdp, policy)
    mixing = garnet(2000, 2, 5, rng=0, sparse=True)
    yield "models that mix fast", partial(_large, mixing, SoftmaxPolicy.uniform(mixing), (Krylov(),))
    yield "trajectories", partial(_trajectories, dense, policy)
    yield "sampled values", partial(sample_evaluation, dense, policy, n=3, rng=0)
    for kind in (RewardToGo, TotalReturn):
        for beta in (None, other):
            judge = partial(crosscheck, dense, policy, kind(behaviour=beta), n=200, horizon=3, rng=0)
            yield f"sampled gradients: {kind.__name__}{' off policy' if beta else ''}", judge
    endless = partial(crosscheck, dense, policy, RewardToGo(), n=200, horizon="geometric", rng=0)
    yield "sampled gradients: geometric horizons", endless
    moved = partial(crosscheck, dense, policy, FiniteDifference(common=True), n=200, horizon=3, rng=0)
    yield "sampled gradients: perturbed policies", moved
    average = partial(estimate_gradient, dense, policy, RewardToGo(BatchAverage()), n=3, horizon=3, rng=0)
    yield "averages of the sample", average
    arguments = (dense.transition, dense.expected_reward, [0.5, 0.9], dense.start, policy.logits)
    for make in (batch.evaluate, batch.policy_gradient, batch.fisher, batch.natural_gradient):
        yield f"batches: {make.__name__}", partial(make, *arguments)


def _sparse(mdp: MDP) -> MDP:
    """The same model, its transitions stored sparsely."""
    P = csr_array(mdp.transition.reshape(-1, mdp.n_states))
    return MDP(P, mdp.expected_reward, mdp.discount, mdp.start, terminal=mdp.terminal)


def _gradients(ev: Evaluation) -> None:
    policy_gradient(ev)
    natural_gradient(ev)
    fisher_information(ev).to_dense()


def _bounds(ev: Evaluation) -> None:
    ev.error.gradient, ev.error.advantage, ev.error.action_value, ev.error.refined_advantage  # noqa: B018


def _bellman(mdp: MDP) -> None:
    expected_next_value(mdp, greedy(mdp, np.zeros(mdp.n_states)).value)


def _trajectories(mdp: MDP, policy: SoftmaxPolicy) -> None:
    for horizon in HORIZONS:
        rollout(mdp, policy, n=3, horizon=horizon, rng=0)
        sample_returns(mdp, policy, n=3, horizon=horizon, rng=0)


def _finite(mdp: MDP, policy: SoftmaxPolicy) -> None:
    ev = evaluate(mdp, policy, horizon=3)
    ev.advantage, ev.visitation, ev.logit_gradient  # noqa: B018
    ev.error.action_value, ev.error.visitation, ev.error.gradient  # noqa: B018


def _large(mdp: MDP, policy: SoftmaxPolicy, solvers: Sequence[Solver] = SPARSE) -> None:
    for solver in solvers:
        evaluate(mdp, policy, solver=solver).occupancy  # noqa: B018
