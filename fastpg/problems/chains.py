"""Chains: a few states in a row, with answers known in closed form."""

from typing import Literal

import numpy as np
import numpy.typing as npt

from fastpg.errors import InvalidArgument
from fastpg.model import MDP
from fastpg.policy import LogLinearPolicy, SoftmaxPolicy
from fastpg.validation import positive_integer, real_between


def chain(n_states: int = 5, *, slip: float = 0.2, discount: float = 0.99) -> MDP:
    """The chain problem: go forward without pay to the end, or back to the first state for a little.

    States 0..n-1, the start is 0. Action 0 moves forward, s to s+1, and in the last state stays there and is paid 10;
    action 1 returns to state 0 and is paid 2. With probability `slip` the other action's effect happens.

    For n = 5 and slip 0.2, always forward is optimal at discount 0.99, with value V(0) = 354.768100557 and a long-run
    average reward of 0.2 * 2 + 0.8^5 * 10 = 3.6768.

    Source: Strens (2000), "A Bayesian framework for reinforcement learning", after Dearden, Friedman &
    Russell (1998).

    >>> chain()
    MDP(5 states, 2 actions, discount 0.99, dense)
    """
    n = positive_integer("n_states", n_states)
    slip = real_between("slip", slip, 0, 1)
    state = np.arange(n)
    effect, pay = np.zeros((2, n, n)), np.zeros((2, n))
    effect[0, state, np.minimum(state + 1, n - 1)] = 1.0
    effect[1, :, 0] = 1.0
    pay[0, -1], pay[1] = 10.0, 2.0
    happens = np.array([[1 - slip, slip], [slip, 1 - slip]])
    return MDP(np.einsum("ae,esk->sak", happens, effect), (happens @ pay).T, discount, 0)


def river_swim(version: Literal["strehl-2008", "osband-2013"], *, discount: float = 0.95) -> MDP:
    """RiverSwim: drift left for a small reward, or swim right against the current for a large one.

    Two incompatible versions are in print, so there is no default. Both have states 0..5 and actions 0 left (always
    succeeds) and 1 right:

    ====================================  =====================  =====================
    right                                 "strehl-2008"          "osband-2013"
    ====================================  =====================  =====================
    from 0: stay, go on                   .7, .3                 .4, .6
    from 1..4: back, stay, go on          .1, .6, .3             .05, .6, .35
    from 5: back, stay                    .7, .3                 .4, .6
    reward of left in 0                   5                      5/1000
    reward of right in 5                  10000 if it stays      1
    start                                 1 or 2, evenly         0
    average reward of always right        72900/109              7203/16805
    mu . V* at discount .95               8027.107045697          4.669300160672
    ====================================  =====================  =====================

    At discount .95 always right is optimal in both.

    Source: Strehl & Littman (2008), "An analysis of model-based interval estimation for Markov decision processes",
    section 5, figure of RiverSwim; Osband, Russo & Van Roy (2013), "(More) efficient reinforcement learning via
    posterior sampling", figure 1, with the reward of the published code, which pays 1 for right in 5 wherever it leads.

    >>> river_swim("osband-2013")
    MDP(6 states, 2 actions, discount 0.95, dense)
    """
    if version not in ("strehl-2008", "osband-2013"):
        raise InvalidArgument(f"version must be 'strehl-2008' or 'osband-2013' but is {version!r}")
    P, R = np.zeros((6, 2, 6)), np.zeros((6, 2, 6))
    state = np.arange(6)
    P[state, 0, np.maximum(state - 1, 0)] = 1.0
    inner = state[1:-1]
    if version == "strehl-2008":
        first, (back, stay, on), last, start = (0.7, 0.3), (0.1, 0.6, 0.3), (0.7, 0.3), np.array([0, 0.5, 0.5, 0, 0, 0])
        R[0, 0, 0], R[5, 1, 5] = 5.0, 10000.0
    else:
        first, (back, stay, on), last, start = (0.4, 0.6), (0.05, 0.6, 0.35), (0.4, 0.6), np.eye(6)[0]
        R[0, 0], R[5, 1] = 5 / 1000, 1.0
    P[0, 1, :2], P[5, 1, 4:] = first, last
    P[inner, 1, inner - 1], P[inner, 1, inner], P[inner, 1, inner + 1] = back, stay, on
    return MDP(P, R, discount, start)


def two_state(*, slip: float = 0.0, discount: float = 0.9) -> MDP:
    """Two states, 0 without pay and 1 that pays 1 for each step; action 0 stays, action 1 switches.

    With probability `slip` the other action's effect happens. The start is 0. Where a policy switches with
    probability x in state 0 and y in state 1, slips included,

        V(0) = discount x / N,    V(1) = (1 - discount (1 - x)) / N,    N = (1 - discount) (1 - discount (1 - x - y))

    >>> from fastpg import SoftmaxPolicy, evaluate
    >>> mdp = two_state(discount=0.5)
    >>> evaluate(mdp, SoftmaxPolicy.uniform(mdp)).value
    array([0.5, 1.5])
    """
    slip = real_between("slip", slip, 0, 1)
    stay, switch = np.eye(2), np.eye(2)[::-1]
    transition = np.stack([(1 - slip) * stay + slip * switch, slip * stay + (1 - slip) * switch], axis=1)
    return MDP(transition, [0.0, 1.0], discount, 0)


def vanishing_gradient_chain(length: int, *, discount: float | None = None) -> MDP:
    """The chain whose policy gradient vanishes exponentially in its length, far from the optimum.

    States 0..H+1 for `length` H, four actions, discount H/(H+1) unless given. State 0 leads to 1; from h in 1..H
    action 0 leads to h+1 and the others to h-1; state H+1 pays 1 for each step and is never left. The start is 0.

    Where action 0 has probability below 1/4 in 1..H, the derivatives of V(0) of order up to H / (40 log 2H) - 1 have
    norm at most (1/3)^(H/4), while V(0) is far from optimal. For `vanishing_gradient_policy(H)`, probability 0.2, the
    norm of the gradient in the H probabilities of action 0, the other actions sharing the rest evenly, is 3.9386e-12
    (H=24), 1.1853e-16 (32), 3.0827e-21 (40) and 3.4146e-35 (64); in the logits it is 0.32/sqrt(3) times that.

    Source: Agarwal, Kakade, Lee & Mahajan (2021), Proposition 4.1 and appendix B.2.

    >>> vanishing_gradient_chain(24)
    MDP(26 states, 4 actions, discount 0.96, dense)
    """
    H = positive_integer("length", length)
    state = np.arange(H + 2)
    P = np.zeros((H + 2, 4, H + 2))
    P[state, 0, np.minimum(state + 1, H + 1)] = 1.0
    P[state, 1:, np.maximum(state - 1, 0)] = 1.0
    P[0] = P[0, 0]
    P[H + 1] = P[H + 1, 0]
    return MDP(P, state == H + 1, H / (H + 1) if discount is None else discount, 0)


def vanishing_gradient_policy(length: int, probability: float = 0.2) -> SoftmaxPolicy:
    """The policy on `vanishing_gradient_chain(length)` that takes action 0 with `probability`, the others evenly.

    >>> vanishing_gradient_policy(1, probability=0.25).probabilities[0]
    array([0.25, 0.25, 0.25, 0.25])
    """
    H = positive_integer("length", length)
    p = real_between("probability", probability, 0, 1)
    with np.errstate(divide="ignore"):
        logits = np.log([p, *3 * [(1 - p) / 3]])
    return SoftmaxPolicy(np.tile(logits, (H + 2, 1)))


def short_corridor(*, discount: float = 1.0) -> MDP:
    """The short corridor with switched actions: three states that look alike, and in the second left means right.

    States 0, 1, 2 and the goal 3, which is terminal; actions 0 left and 1 right; each step pays -1. Left in 0 stays.
    The start is 0. A policy that goes right with probability p everywhere returns -2 (2 - p) / (p (1 - p)) at discount
    1; the best of them has p = 2 - sqrt(2) and returns -(6 + 4 sqrt(2)) = -11.656854249. With p = .05 it returns -82.1,
    with p = .95 -44.2.

    Source: Sutton & Barto (2018), Example 13.1, page 323.

    >>> short_corridor()
    MDP(4 states, 2 actions, discount 1, dense, 1 terminal)
    """
    P = np.zeros((4, 2, 4))
    P[[0, 1, 2], 0, [0, 2, 1]] = 1.0
    P[[0, 1, 2], 1, [1, 0, 3]] = 1.0
    return MDP(P, [-1.0, -1.0, -1.0, 0.0], discount, 0, terminal=[False, False, False, True])


def short_corridor_policy(weights: npt.ArrayLike = (0.0, 0.0)) -> LogLinearPolicy:
    """The policy of the short corridor that cannot tell its states apart.

    Two weights (2,), of the feature of right, (1, 0), and that of left, (0, 1), as in the book; right has probability
    1 / (1 + exp(w[1] - w[0])) everywhere.

    >>> short_corridor_policy([np.log(3.0), 0.0]).probabilities[0]
    array([0.25, 0.75])
    """
    return LogLinearPolicy(np.tile([[0.0, 1.0], [1.0, 0.0]], (4, 1, 1)), weights)
