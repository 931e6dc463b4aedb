"""The quantities of an evaluation when the process stops after T steps."""

from dataclasses import dataclass

import numpy as np

from fastpg.certificate import FiniteHorizonErrorBounds
from fastpg.chain import add_laws, add_values_to_go, finite, next_value, state_transition, with_state_value
from fastpg.kernels import evaluation as kernels
from fastpg.kernels import horizon as sweeps
from fastpg.lazy import cached_property
from fastpg.model import MDP, Transition
from fastpg.policy import Policy
from fastpg.structure import Structure, chain_structure
from fastpg.validation import FloatArray, bounded_mean, frozen

# Step-by-step (S, A) tables are made in slices of about this many numbers.
SLICE = 4_000_000


@dataclass(frozen=True, eq=False, repr=False)
class FiniteHorizonEvaluation:
    """Values for each number of steps to go and laws for each step of a process that stops after `horizon` steps.

    ==========================  ===========  ================================================================
    `value`                     (T+1, S)     value[k] with k steps to go; value[0] = 0
    `action_value`              (T+1, S, A)  r + discount P value[k-1]; action_value[0] = 0
    `advantage`                 (T+1, S, A)  action_value - value
    `visitation`                (T+1, S)     law of the state after t steps, terminal ones included; rows sum to 1
    `state_action_visitation`   (T, S, A)    law of state and action at step t
    `occupancy`                 (S,)         sum_{t<T} discount^t P(s_t = s); 0 in terminal states
    `expected_return`           float        start . value[T]
    ==========================  ===========  ================================================================
    """

    mdp: MDP
    policy: Policy
    horizon: int

    @property
    def solved_by(self) -> str:
        """What finite horizons are always solved by."""
        return "backward recursion"

    @cached_property
    def transition(self) -> Transition:
        """P_pi (S, S), dense or CSR; rows of terminal states are zero."""
        return state_transition(self.mdp, self.policy)

    @cached_property
    def value(self) -> FloatArray:
        """Expected discounted reward with k = 0..T steps to go, shape (T+1, S)."""
        mdp = self.mdp
        r = np.empty(mdp.n_states)
        kernels.policy_average(self.policy.probabilities, mdp.expected_reward, r)
        V = np.zeros((self.horizon + 1, mdp.n_states))
        V[1:] = r
        add_values_to_go(self.transition, mdp.discount, V)
        return frozen(finite("value", V, mdp))

    @cached_property
    def action_value(self) -> FloatArray:
        """Q[k] = r + discount P value[k-1] for k = 1..T steps to go, and Q[0] = 0, shape (T+1, S, A)."""
        q = np.zeros((self.horizon + 1, self.mdp.n_states, self.mdp.n_actions))
        q[1:] = self._action_values(slice(1, self.horizon + 1))
        return frozen(q)

    @cached_property
    def advantage(self) -> FloatArray:
        """action_value - value by steps to go, shape (T+1, S, A)."""
        out = np.empty(self.action_value.shape)
        sweeps.advantages(self.policy.probabilities, self.action_value, self.mdp.available, out)
        return frozen(finite("advantage", out, self.mdp))

    @cached_property
    def visitation(self) -> FloatArray:
        """P(s_t = s) for t = 0..T over all states, shape (T+1, S); each row sums to 1."""
        law = np.zeros((self.horizon + 1, self.mdp.n_states))
        law[0] = self.mdp.start
        add_laws(self.transition, 1.0, self.mdp.terminal, law)
        return frozen(law)

    @cached_property
    def state_action_visitation(self) -> FloatArray:
        """P(s_t = s, a_t = a) for t = 0..T-1, shape (T, S, A)."""
        return frozen(self.visitation[:-1, :, None] * self.policy.probabilities)

    @cached_property
    def occupancy(self) -> FloatArray:
        """sum_{t<T} discount^t P(s_t = s), shape (S,); 0 in terminal states."""
        return frozen(self._weights.sum(axis=0))

    @cached_property
    def expected_return(self) -> float:
        """J_T = start . value[T], in units of reward."""
        return float(bounded_mean(self.mdp.start.dot, self.value[self.horizon]))

    @cached_property
    def logit_gradient(self) -> FloatArray:
        """dJ_T/dlogits (S, A) = sum_t discount^t P(s_t = s) pi(a|s) A_{T-t}(s,a)."""
        total = np.zeros(self.policy.probabilities.shape)
        for steps in self._slices():
            q = frozen(self._action_values(steps))
            adv = np.empty(q.shape)
            sweeps.advantages(self.policy.probabilities, q, self.mdp.available, adv)
            kernels.finite_horizon_sweep(self._weights_to_go(steps), frozen(adv), total)
        with np.errstate(invalid="ignore"):
            gradient = self.policy.probabilities * total
        return frozen(finite("logit_gradient", gradient, self.mdp))

    @cached_property
    def probability_gradient(self) -> FloatArray:
        """dJ_T/dpi (S, A) = sum_t discount^t P(s_t = s) Q_{T-t}(s,a); 0 where unavailable."""
        total = np.zeros(self.policy.probabilities.shape)
        for steps in self._slices():
            kernels.finite_horizon_sweep(self._weights_to_go(steps), frozen(self._action_values(steps)), total)
        return frozen(finite("probability_gradient", np.where(self.mdp.available, total, 0.0), self.mdp))

    @cached_property
    def _weights(self) -> FloatArray:
        """discount^t P(s_t = s) for t = 0..T-1 on the states where the process goes on, shape (T, S)."""
        discounts = np.power(self.mdp.discount, np.arange(self.horizon, dtype=np.float64))
        return discounts[:, None] * np.where(self.mdp.terminal, 0.0, self.visitation[:-1])

    @cached_property
    def structure(self) -> Structure:
        """Recurrent classes, transient and unreachable states, and weakly linked blocks of the chain."""
        return chain_structure(self.mdp, self.policy)

    @cached_property
    def error(self) -> FiniteHorizonErrorBounds:
        """Rigorous bounds on the errors of all these numbers."""
        return FiniteHorizonErrorBounds(self)

    def _weights_to_go(self, steps: slice) -> FloatArray:
        """The weights of the steps that have `steps` steps to go."""
        return frozen(np.ascontiguousarray(self._weights[self.horizon - np.arange(steps.start, steps.stop)]))

    def _slices(self) -> list[slice]:
        """1..T in runs whose (S, A) tables fit into `SLICE` numbers."""
        run = max(1, SLICE // self.policy.probabilities.size)
        return [slice(k, min(k + run, self.horizon + 1)) for k in range(1, self.horizon + 1, run)]

    def _action_values(self, steps: slice) -> FloatArray:
        """Q for a run of steps to go, shape (run, S, A)."""
        mdp = self.mdp
        ahead = next_value(mdp, self.value[steps.start - 1 : steps.stop - 1].T)
        with np.errstate(over="ignore"):
            q = finite(
                "action_value", mdp.expected_reward + mdp.discount * np.moveaxis(ahead, 2, 0), mdp, first=steps.start
            )
        if not mdp.all_available:
            q = with_state_value(mdp, q, self.value[steps])
        return np.ascontiguousarray(q)

    def __repr__(self) -> str:
        head = f"horizon {self.horizon}, expected return {self.expected_return:.12g}"
        return f"FiniteHorizonEvaluation({head}, {self.mdp!r}, {self.policy!r})"
