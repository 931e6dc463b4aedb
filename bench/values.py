"""Values of a policy from a ready P_pi: packages that optimise, given one action, do the work of those that solve."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse
from scipy.linalg.lapack import dgbtrs
from scipy.sparse.linalg import bicgstab, splu

from bench.apart import Apart
from bench.harness import Case, later
from bench.sparse import (
    IN_ORDER,
    REACH,
    Run,
    band_factors,
    band_of_both,
    chain_of,
    garnet_model,
    local_model,
    splu_of_both,
    system_of,
)
from fastpg import MDP, DirectPolicy, evaluate, solvers
from fastpg.chain import Chain

# What those that iterate are asked for, of the largest value; all must agree within ten times as much.
ACCURACY = 1e-9


def value_cases(quick: bool = False) -> list[Case]:
    """A chain that mixes, on which LU fills in, and one that does not, on which iteration is slow."""
    S, limit = (3000, 5.0) if quick else (100_000, 60.0)
    local = {"SciPy, splu": by_splu, "LAPACK, gbtrf": by_band}
    return [
        _case(f"Garnet, S = {S:,}", garnet_model, S, limit, {"SciPy, bicgstab": by_bicgstab}),
        _case(f"moves of at most 20 states, S = {S:,}, discount 0.999", local_model, S, limit, local),
        _both(f"moves of at most 20 states, S = {S:,}, discount 0.999", local_model(S)),
    ]


def _case(
    name: str, make: Callable[[int], MDP], S: int, limit: float, peers: dict[str, Callable[[Chain], Run]]
) -> Case:
    _, chain = chain_of(make(S))
    alone = {
        "QuantEcon, evaluate_policy": quantecon_direct,
        "QuantEcon, MPI": quantecon_mpi,
        "mdpsolver, MPI": mdpsolver,
    }
    contenders: dict[str, Run | Apart] = {"fastpg": later(lambda: ours(chain))}
    contenders |= {peer: later(lambda solve=solve: solve(chain)) for peer, solve in peers.items()}
    contenders |= {peer: Apart(_made, (solve, make, S), limit) for peer, solve in alone.items()}
    size = chain.transition.data.nbytes + chain.transition.indices.nbytes
    return Case(f"values from P_pi, {name}", contenders, tolerance=10 * ACCURACY, repeats=7, bytes_read=size)


def _both(name: str, mdp: MDP) -> Case:
    """V and d on the ready chain, of which V(s) d(s) is compared: an error of either shows."""
    _, chain = chain_of(mdp)
    solve: dict[str, Callable[[], tuple[Any, Any]]] = {
        "fastpg": lambda: ours_of_both(chain, mdp.start),
        "SciPy, splu": lambda: splu_of_both(chain, mdp.start, IN_ORDER),
        "LAPACK, gbtrf": lambda: band_of_both(chain, mdp.start),
    }
    contenders: dict[str, Run | Apart] = {name: lambda run=run: np.multiply(*run()) for name, run in solve.items()}
    size = chain.transition.data.nbytes + chain.transition.indices.nbytes
    return Case(f"V and d from P_pi, {name}", contenders, tolerance=10 * ACCURACY, repeats=7, bytes_read=size)


def _made(solve: Callable[[Chain], Run], make: Callable[[int], MDP], S: int) -> Run:
    return solve(chain_of(make(S))[1])


def ours(chain: Chain) -> Run:
    """fastpg on a model of one action."""
    mdp = MDP(chain.transition, chain.reward, chain.discount)
    only = DirectPolicy(np.ones((mdp.n_states, 1)))
    return lambda: evaluate(mdp, only).value


def ours_of_both(chain: Chain, start: Any) -> tuple[Any, Any]:
    """fastpg's solver for the chain, chosen and factorised once for both."""
    factors = solvers.choose(chain).factorise(chain)
    return factors.solve(chain.reward), factors.solve_transposed(start)


def by_bicgstab(chain: Chain) -> Run:
    """BiCGSTAB by SciPy."""
    return lambda: bicgstab(system_of(chain), chain.reward, rtol=1e-12)[0]


def by_splu(chain: Chain) -> Run:
    """SuperLU by SciPy, in the order of the band."""
    return lambda: splu(sparse.csc_array(system_of(chain)), **IN_ORDER).solve(chain.reward)


def by_band(chain: Chain) -> Run:
    """LAPACK's LU of a band."""

    def run() -> Any:
        factors, pivots = band_factors(chain)
        return dgbtrs(factors, REACH, REACH, chain.reward, pivots)[0]

    return run


def _quantecon(chain: Chain) -> Any:
    from quantecon.markov import DiscreteDP

    S = chain.n_states
    P = sparse.csr_matrix(chain.transition)
    return DiscreteDP(chain.reward, P, chain.discount, np.arange(S), np.zeros(S, int))


def quantecon_direct(chain: Chain) -> Run:
    """QuantEcon's evaluation of a policy, which calls SciPy's spsolve."""
    problem, only = _quantecon(chain), np.zeros(chain.n_states, int)
    return lambda: problem.evaluate_policy(only)


def _tolerance(chain: Chain) -> float:
    """The accuracy asked for, in the units of the model."""
    return ACCURACY * float(np.abs(ours(chain)()).max())


def quantecon_mpi(chain: Chain) -> Run:
    """QuantEcon's modified policy iteration."""
    problem = _quantecon(chain)
    options = {"method": "modified_policy_iteration", "epsilon": _tolerance(chain), "max_iter": 10**7}
    return lambda: problem.solve(**options).v


def mdpsolver(chain: Chain) -> Run:
    """mdpsolver's modified policy iteration, on all cores, from zeros: it would begin where its last call ended.

    Without its post-processing values are right up to a constant only.
    """
    import mdpsolver as package

    def rows(entries: Any) -> list[list[list[Any]]]:
        return [[row.tolist()] for row in np.split(entries, chain.transition.indptr[1:-1])]

    model, zeros = package.model(), [0.0] * chain.n_states
    model.mdp(
        discount=chain.discount, rewards=chain.reward[:, None].tolist(),
        tranMatProbs=rows(chain.transition.data), tranMatColumns=rows(chain.transition.indices),
    )  # fmt: skip

    tolerance = _tolerance(chain)

    def run() -> Any:
        model.solve(tolerance=tolerance, initValueVector=zeros, postProcessing=True, makeFinalCheck=False)
        return model.getValueVector()

    return run
