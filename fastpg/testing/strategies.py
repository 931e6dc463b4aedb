"""Hypothesis strategies for small Markov decision processes and policies, corners included.

    from hypothesis import given
    from fastpg.testing.strategies import mdp_and_policy

    @given(mdp_and_policy())
    def test_my_evaluation(case):
        mdp, policy = case
        ...

Models have terminal states, missing actions, unreachable states, zero probabilities, every form of reward and
discounts from 0 to 1, dense or sparse. Examples shrink towards one state, one action and zeros.
"""

from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from fastpg.model import MDP
from fastpg.policy import DirectPolicy, LogLinearPolicy, Policy, SoftmaxPolicy
from fastpg.testing.models import as_sparse
from fastpg.validation import BoolArray, FloatArray

DISCOUNTS = (0.5, 0.0, 0.9, 0.99, 0.9999)
WEIGHTS = (0.0, 1.0, 2.0, 5.0, 0.1, 1e-3, 1e-12)
REWARDS = (0.0, 1.0, -1.0, 0.5, 10.0, -0.1)
EXTREME = (0.0, -np.inf, 1.7e308, -1.7e308, 745.0, -745.0, 40.0, -40.0)


class MDPAndPolicy(NamedTuple):
    """A model and a policy that fits it."""

    mdp: MDP
    policy: Policy


class MDPAndTwoPolicies(NamedTuple):
    """A model and two policies that fit it."""

    mdp: MDP
    policies: tuple[Policy, Policy]


def discounts() -> st.SearchStrategy[float]:
    """Discounts in [0, 1): 0, mid and near 1."""
    return st.sampled_from(DISCOUNTS) | st.floats(0.0, 0.99)


@st.composite
def mdps(
    draw: st.DrawFn,
    *,
    max_states: int = 5,
    max_actions: int = 4,
    discount: float | st.SearchStrategy[float] | None = None,
    sparse: bool | None = False,
    terminal: bool | None = None,
    masked: bool | None = None,
) -> MDP:
    """Models of 1..`max_states` states and 1..`max_actions` actions.

    discount : a number or a strategy; by default 0, mid, near 1 and 1. At discount 1 every policy ends for certain
        from every state.
    sparse : how transitions are stored; None draws it.
    terminal, masked : whether there are terminal states, or states without some action; None draws it. Discount 1
        needs a terminal state, whatever is asked.
    """
    if discount is None:
        discount = discounts() | st.just(1.0)
    gamma = draw(discount) if isinstance(discount, st.SearchStrategy) else discount
    S = draw(st.integers(1, max_states), label="states")
    A = draw(st.integers(1, max_actions), label="actions")
    shape = (S, A, S)

    ended = np.zeros(S, bool)
    if terminal is None or terminal:
        ended = draw(st_numpy.arrays(bool, S, fill=st.just(False)), label="terminal")
    if gamma == 1 or terminal:
        ended[0] = True
    available = draw(_available(S, A)) if masked or (masked is None and draw(st.booleans())) else None

    weight = draw(st_numpy.arrays(float, shape, elements=st.sampled_from(WEIGHTS), fill=st.just(0.0)))
    # Each row has one sure successor; at discount 1 a lower state, so that all ways lead to terminal state 0.
    # A fill would send nearly all rows to one state, so each is drawn.
    sure = draw(st_numpy.arrays(int, (S, A), elements=st.integers(0, S - 1), fill=st.nothing()), label="successor")
    if gamma == 1:
        sure = np.minimum(sure, np.maximum(np.arange(S) - 1, 0)[:, None])
    weight[np.arange(S)[:, None], np.arange(A), sure] += 1.0
    transition = weight / weight.sum(axis=2, keepdims=True)

    reward = draw(_reward(shape))
    reward[ended] = 0.0
    law = st_numpy.arrays(float, S, elements=st.sampled_from(WEIGHTS[:5]), fill=st.just(0.0)).filter(np.any)
    starts: list[st.SearchStrategy[Any]] = [st.integers(0, S - 1), law.map(lambda w: w / w.sum())]
    if not ended.all():
        starts.append(st.none())
    start = draw(st.one_of(starts), label="start")
    mdp = MDP(transition, reward, gamma, start, terminal=ended, available=available)
    return as_sparse(mdp) if sparse or (sparse is None and draw(st.booleans(), label="sparse")) else mdp


def _reward(shape: tuple[int, int, int]) -> st.SearchStrategy[FloatArray]:
    """Rewards of states, of actions or of transitions."""
    amounts = st.sampled_from(REWARDS) | st.floats(-10, 10, width=16)
    forms = st.sampled_from([shape[:2], shape[:1], shape])
    return forms.flatmap(lambda form: st_numpy.arrays(float, form, elements=amounts, fill=st.just(0.0)))


@st.composite
def _available(draw: st.DrawFn, S: int, A: int) -> BoolArray:
    """A mask that leaves each state an action."""
    mask: BoolArray = draw(st_numpy.arrays(bool, (S, A), fill=st.just(True)))
    kept = draw(st_numpy.arrays(int, S, elements=st.integers(0, A - 1), fill=st.just(0)))
    mask[np.arange(S), kept] = True
    return mask


@st.composite
def softmax_policies(draw: st.DrawFn, mdp: MDP, *, extreme: bool = True) -> SoftmaxPolicy:
    """Tabular softmax policies, -inf where an action is unavailable.

    extreme : also logits of +-1.7e308 and -inf, whose probabilities are 0 and 1; otherwise all are within [-3, 3].
    """
    S, A = mdp.n_states, mdp.n_actions
    sizes: st.SearchStrategy[float] = st.floats(-3, 3, width=16)
    logits = draw(st_numpy.arrays(float, (S, A), elements=sizes, fill=st.just(0.0)), label="logits")
    if extreme and draw(st.booleans(), label="extreme"):
        odd = draw(st_numpy.arrays(float, (S, A), elements=st.sampled_from(EXTREME), fill=st.just(0.0)))
        logits = np.where(odd == 0, logits, odd)
        stuck = ~((logits > -np.inf) & mdp.available).any(axis=1)
        logits[stuck] = 0.0
    return SoftmaxPolicy(logits).masked(mdp.available)


@st.composite
def log_linear_policies(draw: st.DrawFn, mdp: MDP, *, max_features: int = 4) -> LogLinearPolicy:
    """Log-linear policies with up to `max_features` features, often linearly dependent ones."""
    k = draw(st.integers(1, max_features), label="features")
    sizes = st.sampled_from([0.0, 1.0, -1.0, 0.5])
    features = draw(st_numpy.arrays(float, (mdp.n_states, mdp.n_actions, k), elements=sizes, fill=st.just(0.0)))
    weights = draw(st_numpy.arrays(float, k, elements=st.floats(-3, 3, width=16), fill=st.just(0.0)))
    return LogLinearPolicy(features, weights, available=mdp.available)


@st.composite
def direct_policies(draw: st.DrawFn, mdp: MDP, *, interior: bool = False) -> DirectPolicy:
    """Points on the product of simplices; with `interior` every available action has a positive probability."""
    shape = (mdp.n_states, mdp.n_actions)
    mask = mdp.available | ~mdp.available.any(axis=1, keepdims=True)
    weights = WEIGHTS[1:5] if interior else WEIGHTS
    weight = np.where(mask, draw(st_numpy.arrays(float, shape, elements=st.sampled_from(weights))), 0.0)
    stuck = ~weight.any(axis=1)
    weight[stuck] = mask[stuck]
    return DirectPolicy(weight / weight.sum(axis=1, keepdims=True))


def policies(mdp: MDP, *, extreme: bool = True) -> st.SearchStrategy[Policy]:
    """Policies of every parametrisation that fit `mdp`; with `extreme=False` no probability is 0 or nearly."""
    return st.one_of(
        softmax_policies(mdp, extreme=extreme),
        log_linear_policies(mdp),
        direct_policies(mdp, interior=not extreme),
    )


@st.composite
def mdp_and_policy(draw: st.DrawFn, /, *, extreme: bool = True, **options: Any) -> MDPAndPolicy:
    """A model and a policy of any parametrisation; `options` are those of `mdps`."""
    mdp = draw(mdps(**options))
    return MDPAndPolicy(mdp, draw(policies(mdp, extreme=extreme)))


@st.composite
def mdp_and_two_policies(draw: st.DrawFn, /, *, extreme: bool = True, **options: Any) -> MDPAndTwoPolicies:
    """A model and two policies, of any parametrisation each; `options` are those of `mdps`."""
    mdp = draw(mdps(**options))
    return MDPAndTwoPolicies(mdp, (draw(policies(mdp, extreme=extreme)), draw(policies(mdp, extreme=extreme))))
