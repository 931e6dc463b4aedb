"""A model and a policy that fits it, as they were given, and what their zeros alone decide."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
from scipy import sparse

from fastpg.chain import never_certain_to_end, reached
from fastpg.errors import InvalidModel
from fastpg.exact.model import ExactMDP, exact_probabilities
from fastpg.lazy import cached_property
from fastpg.model import MDP
from fastpg.policy import DirectPolicy, LogLinearPolicy, Policy, SoftmaxPolicy, fitted
from fastpg.validation import BoolArray

# (S, A) probabilities in numbers of any kind, for evaluate_exactly.
Table: TypeAlias = Any


@dataclass(frozen=True, eq=False)
class Problem:
    """A model, a policy that is restricted to its actions, and the discount as a fraction.

    `probabilities` (S, A) are Fractions or floats, and `taken` (S, A) marks where the policy that is meant is positive,
    which for the softmax of far apart logits is more than the floats that are.
    """

    mdp: MDP | ExactMDP
    policy: Policy | None
    probabilities: Any
    taken: BoolArray

    @property
    def discount(self) -> Fraction:
        """The discount as the rational number it is."""
        mdp = self.mdp
        if isinstance(mdp, MDP) and mdp.discount_complement != 1 - mdp.discount:
            return 1 - Fraction(mdp.discount_complement)
        return Fraction(mdp.discount)

    @property
    def terminal(self) -> BoolArray:
        """(S,)"""
        return self.mdp.terminal

    @property
    def available(self) -> BoolArray:
        """(S, A)"""
        return self.mdp.available

    @property
    def given(self) -> Policy | Any:
        """The policy, or the table of probabilities that was given in its place."""
        return self.probabilities if self.policy is None else self.policy

    @property
    def direct(self) -> bool:
        """Whether the probabilities themselves are the parameters."""
        return self.policy is None or isinstance(self.policy, DirectPolicy)

    @cached_property
    def transition(self) -> Any:
        """P (S, A, S), dense, of floats or Fractions."""
        P: Any = self.mdp.transition
        return (P.toarray() if sparse.issparse(P) else P).reshape(*self.available.shape, -1)

    @cached_property
    def reward(self) -> Any:
        """R (S, 1, 1), (S, A, 1) or (S, A, S), dense, of floats or Fractions."""
        R: Any = self.mdp.reward
        R = R.toarray().reshape(*self.available.shape, -1) if sparse.issparse(R) else R
        return R.reshape(R.shape + (1,) * (3 - R.ndim))

    @cached_property
    def missing(self) -> BoolArray:
        """Actions that a state does not have, where the process goes on."""
        return ~self.available & ~self.terminal[:, None]

    @cached_property
    def undefined(self) -> BoolArray:
        """States whose value does not exist (only at discount 1); SolveError if `start` can reach one."""
        if self.discount != 1:
            return np.zeros(self.terminal.shape, bool)
        return never_certain_to_end(self._edges, self.terminal, self.mdp.start > 0)

    @cached_property
    def undefined_action(self) -> BoolArray:
        """Actions whose value does not exist."""
        leads = ((self.transition > 0) & self.undefined).any(axis=2)
        return np.where(self.missing, self.undefined[:, None], leads)

    @cached_property
    def undefined_advantage(self) -> BoolArray:
        """Actions whose advantage does not exist."""
        return self.available & (self.undefined_action | self.undefined[:, None])

    @cached_property
    def undefined_derivative(self) -> BoolArray:
        """Probabilities in which the return has no derivative."""
        return self.available & self.undefined_action & self.visited[:, None]

    @cached_property
    def visited(self) -> BoolArray:
        """Non-terminal states of positive occupancy."""
        start = self.mdp.start > 0
        seen = reached(sparse.csr_array(self._edges), start) if self.discount > 0 else start
        return np.asarray(seen & ~self.terminal, dtype=bool)

    @cached_property
    def _edges(self) -> Any:
        """1 where P_pi is positive."""
        return (self.taken[:, :, None] & (self.transition > 0)).any(axis=1).astype(np.float64)


def problem(mdp: MDP | ExactMDP, policy: Policy | Table, *, true_softmax: bool = False) -> Problem:
    """The problem of a model and a policy, or of a table of probabilities, after a check that they fit."""
    if not isinstance(mdp, MDP | ExactMDP):
        raise InvalidModel(f"mdp must be an MDP or an ExactMDP but is {type(mdp).__name__}")
    if not isinstance(policy, Policy):
        table = exact_probabilities(policy, mdp.available, mdp.terminal)
        return Problem(mdp, None, table, table > 0)
    given: Any = mdp
    policy = fitted(policy, given)
    pi = policy.probabilities
    taken = pi > 0
    if true_softmax and isinstance(policy, SoftmaxPolicy):
        taken = policy.logits > -np.inf
    if true_softmax and isinstance(policy, LogLinearPolicy):
        taken = policy.available | ~policy.available.any(axis=1, keepdims=True)
    return Problem(mdp, policy, pi, taken)
