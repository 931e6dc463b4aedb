"""Values, visitation, Fisher information and natural gradient from samples."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fastpg.certificate.equations import power_of_two
from fastpg.chain import in_units
from fastpg.kernels import estimates as kernels
from fastpg.kernels.evaluation import centred_on_support, fisher_blocks
from fastpg.lazy import cached_property
from fastpg.model import MDP
from fastpg.parallel import StopFlag, in_order
from fastpg.policy import Policy, fitted
from fastpg.rng import RNG, philox_key
from fastpg.sampling.tables import outcome_table, stopping
from fastpg.validation import FloatArray, frozen, positive_count, require_progress

PIECES = 64


@dataclass(frozen=True, eq=False, repr=False)
class SampledEvaluation:
    """What n trajectories that stop with probability 1 - discount after each step say of an `Evaluation`.

    ====================  ======  ============================================================================
    `value`               (S,)    mean return from the first visit of each trajectory; nan where there was none
    `action_value`        (S, A)  the same from the first time an action was taken in a state
    `occupancy`           (S,)    mean number of visits; 0 in terminal states
    `visitation`          (S,)    (1 - discount) occupancy, and the share of trajectories that a terminal state ends
    `fisher_blocks`       (S,A,A) (1 - discount) occupancy(s) (diag pi_s - pi_s pi_s^T); without 1 - discount at 1
    `natural_gradient`    (S, A)  (Q - mean_a Q) / (1 - discount) over the actions taken; 0 in states without all
    `n`, `steps`          int     trajectories, and steps in all of them
    ====================  ======  ============================================================================

    `value_error`, `action_value_error` and `occupancy_error` are standard errors, nan where fewer than two
    trajectories tell.
    """

    mdp: MDP
    policy: Policy
    n: int
    steps: int
    value: FloatArray
    value_error: FloatArray
    action_value: FloatArray
    action_value_error: FloatArray
    occupancy: FloatArray
    occupancy_error: FloatArray
    visitation: FloatArray

    @property
    def _scale(self) -> float:
        """What makes visits a law; at discount 1 Fisher information is weighted by the visits themselves."""
        return self.mdp.discount_complement or 1.0

    @cached_property
    def fisher_blocks(self) -> FloatArray:
        """Of the sampled visitation, shape (S, A, A); 0 in terminal states."""
        pi = self.policy.probabilities
        out = np.empty((*pi.shape, pi.shape[1]))
        fisher_blocks(frozen(self._scale * self.occupancy), pi, out)
        return frozen(out)

    @cached_property
    def natural_gradient(self) -> FloatArray:
        """The minimum-norm natural gradient in the logits, shape (S, A)."""
        pi, q = self.policy.probabilities, self.action_value
        known = (~np.isnan(q) | (pi == 0)).all(axis=1)
        out = np.empty(pi.shape)
        centred_on_support(pi, frozen(np.where(pi > 0, np.nan_to_num(q), 0.0)), out)
        return frozen(np.where(known[:, None], out, 0.0) / self._scale)

    def __repr__(self) -> str:
        return f"SampledEvaluation(from {self.n} trajectories of {self.steps} steps, {self.mdp!r})"


def sample_evaluation(
    mdp: MDP,
    policy: Policy,
    *,
    n: int,
    rng: RNG,
    threads: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> SampledEvaluation:
    """First-visit Monte Carlo estimates from `n` trajectories that stop with probability 1 - discount after each step.

    All are unbiased for the infinite horizon but the natural gradient, a function of several. Trajectory i is that of
    `rollout(..., horizon="geometric")` with the same `rng`; results do not depend on the threads. Memory: about 12
    (S, A) arrays a thread. At discount 1 the process must end for certain.

    >>> from fastpg import SoftmaxPolicy, problems
    >>> mdp = problems.bandit([1.0, 0.0])
    >>> sample_evaluation(mdp, SoftmaxPolicy.uniform(mdp), n=1000, rng=0).action_value[0]
    array([1., 0.])

    Source: Sutton & Barto (2018), section 5.1.
    """
    policy, n = fitted(policy, mdp), positive_count("n", n)
    require_progress(progress)
    key, rule = philox_key(rng), stopping(mdp, policy, "geometric")
    table = outcome_table(mdp, policy, threads=threads)
    unit = power_of_two(float(np.abs(table.reward).max(initial=0.0)))
    by_slot, (reward,) = table.indexed(mdp, frozen(table.reward / unit))
    law, (S, A) = rule.law(table), policy.probabilities.shape

    def work(piece: tuple[int, int], stop: StopFlag) -> tuple[list[FloatArray], int, int]:
        sums = [np.zeros((S, 3)), np.zeros((S, A, 3)), np.zeros((S, 2)), np.zeros(S)]
        return sums, kernels.first_visit_sums(key, *piece, law, A, by_slot, reward, stop, *sums), piece[1]

    cuts = [int(x) for x in np.linspace(0, n, min(PIECES, n) + 1)]
    totals, steps = [np.zeros(1)] * 4, 0
    for sums, taken, done in in_order(work, list(pairwise(cuts)), threads):
        totals, steps = [a + b for a, b in zip(totals, sums, strict=True)], steps + taken
        if progress is not None:
            progress(done)
    values, action_values, visits, ends = totals
    count = np.full(S, float(n))
    occupancy, occupancy_error = _mean(count, visits[:, 0], visits[:, 1])
    means = zip(("value", "action_value"), (values, action_values), strict=True)
    pieces = [in_units(name, x, unit, mdp) for name, sums in means for x in _mean(*np.moveaxis(sums, -1, 0))]
    # The step into a terminal state is taken with the probability to go on after it, as one into any other.
    visitation = np.where(mdp.terminal, mdp.start + mdp.discount * ends / n, mdp.discount_complement * occupancy)
    return SampledEvaluation(
        mdp, policy, n, steps, *(frozen(x) for x in (*pieces, occupancy, occupancy_error, visitation))
    )


def _mean(count: FloatArray, total: FloatArray, squares: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and standard error; nan without a number, or fewer than two."""
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / np.where(count > 0, count, np.nan)
        variance = np.maximum(squares / count - mean**2, 0.0) * count / np.where(count > 1, count - 1, np.nan)
        return mean, np.sqrt(variance / count)
