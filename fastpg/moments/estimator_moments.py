"""The mean, bias and covariance of what one trajectory says of the gradient."""

from dataclasses import dataclass, replace

import numpy as np

from fastpg.chain import finite
from fastpg.errors import InfiniteVariance, InvalidArgument
from fastpg.evaluation import Evaluation, require_evaluation
from fastpg.finite_horizon import FiniteHorizonEvaluation
from fastpg.lazy import cached_property
from fastpg.moments.law import StepLaw, step_law
from fastpg.moments.perturbed import Perturbed, Steps
from fastpg.moments.sampled import Sampled
from fastpg.moments.stepwise import Raw, Stepwise
from fastpg.radius import Radius, spectral_radius
from fastpg.sampling.estimators import Estimator
from fastpg.sampling.perturbation import PerturbedPlan
from fastpg.sampling.plan import Plan, plan
from fastpg.sampling.tables import Horizon
from fastpg.validation import FloatArray, frozen, positive_count

# Second moments use dense tables of the states that are reached.
MOST_BYTES = 4 * 2**30
# Sums of rows that are computed to be below this are below 1.
SHRINKS = 1 - 1e-9
# Factors nearer to 1 than this are not told from 1: their own rounding is then some 1e-3 of that distance, and moments
# are known to no more digits than it.
MARGIN = 1e-12


@dataclass(frozen=True, eq=False, repr=False)
class EstimatorMoments:
    """Mean and covariance of the estimate X (S, A) of dJ/dlogits from n trajectories, whose covariance is that / n.

    ====================  ============  =========================================================================
    `mean`                (S, A)        E X
    `bias`                (S, A)        E X - dJ/dlogits, the gradient of the evaluation it was made from
    `variance`            (S, A)        of each entry
    `trace`               float         the sum of the variances
    `blocks`              (S, A, A)     covariance of the entries of each state
    `covariance()`        (S, A, S, A)  all of it, in 8 (S A)^2 bytes
    `signal_to_noise`     (S, A)        |mean| / standard deviation; inf where an entry does not vary, 0 if it is 0
    ====================  ============  =========================================================================

    So for a mean over single trajectories all are those of one trajectory, whatever n. Those of a `BatchAverage` depend
    on n and are exact for it; `at(n)` has them for another one. With weights "self-normalised" the covariance is that
    of the limit of many trajectories, and the mean right to order 1/n. Second moments are E X X^T less the product of
    means, and right to about 1e-14 of E X X^T; over an infinite horizon to about 1e-16 / (1 - f) of it where that is
    more, f the factor by which they grow with each step: f within 1e-12 of 1 is not told from 1, and InfiniteVariance.
    """

    plan: Plan | PerturbedPlan
    gradient: FloatArray
    finite: bool
    _reason: str
    _law: StepLaw | Steps
    _recursion: Stepwise | Sampled | Perturbed

    def at(self, n: int | None) -> "EstimatorMoments":
        """Those of the estimate from n trajectories, None the limit of many: itself where they do not depend on n."""
        if not isinstance(self._recursion, Sampled) or not self._recursion.depends:
            return self
        recursion = self._recursion.at(n)
        reason = _no_variance(recursion)
        return replace(self, finite=not reason, _reason=reason, _recursion=recursion)

    @property
    def entries(self) -> int:
        """The number of entries of the states that are reached."""
        return self._law.pi.size

    @cached_property
    def mean(self) -> FloatArray:
        """E X."""
        return frozen(self._finite("mean", self._spread(self._mean, 1)))

    @cached_property
    def bias(self) -> FloatArray:
        """E X - dJ/dlogits."""
        return frozen(self.mean - self.gradient)

    @cached_property
    def blocks(self) -> FloatArray:
        """Covariance of the entries of each state, shape (S, A, A)."""
        return frozen(self._finite("blocks", self._spread(self._blocks, 2)))

    @cached_property
    def variance(self) -> FloatArray:
        """Of each entry, shape (S, A)."""
        with np.errstate(over="ignore"):
            return frozen(self._finite("variance", self.standard_deviation**2))

    @cached_property
    def standard_deviation(self) -> FloatArray:
        """Of each entry, shape (S, A)."""
        variance = np.maximum(np.diagonal(self._blocks, axis1=1, axis2=2), 0.0)
        return frozen(self._spread(np.sqrt(variance), 1))

    @cached_property
    def trace(self) -> float:
        """E |X - E X|^2; in units of reward squared, so that rewards below 1e-162 give 0: see `standard_deviation`."""
        return float(self.variance.sum()) if self.finite else float("inf")

    @cached_property
    def signal_to_noise(self) -> FloatArray:
        """|mean| / standard deviation of one trajectory, shape (S, A)."""
        size, noise = np.abs(self.mean), self.standard_deviation
        return frozen(np.divide(size, noise, out=np.where(size > 0, np.inf, 0.0), where=noise > 0))

    def covariance(self) -> FloatArray:
        """The covariance of all entries, shape (S, A, S, A); InvalidArgument where memory would not hold it."""
        S, A = self.gradient.shape
        size = 8 * (S * A) ** 2
        if size > MOST_BYTES:
            raise InvalidArgument(
                f"the covariance of {S * A} entries takes {size / 2**30:.3g} GiB, more than "
                f"{MOST_BYTES / 2**30:g}; use blocks, variance or trace"
            )
        with np.errstate(over="ignore"):
            return frozen(self._finite("covariance", self.plan.unit * (self.plan.unit * self.covariance_in_units())))

    def covariance_in_units(self) -> FloatArray:
        """`covariance()` / `plan.unit`^2, which neither overflows nor underflows."""
        S, A = self.gradient.shape
        raw = self._raw(full=True)
        assert raw.product is not None
        small = raw.product - raw.mean[:, :, None, None] * raw.mean
        out = np.zeros((S, A, S, A))
        states, actions = self._law.states, np.arange(A)
        out[np.ix_(states, actions, states, actions)] = (small + small.transpose(2, 3, 0, 1)) / 2
        return frozen(out)

    def baseline_parabola(self) -> tuple[FloatArray, FloatArray]:
        """(N, n), both (S,): the variances of the entries of s sum to n b^2 - 2 N b + ... with a baseline b(s).

        For an estimator that has none so far.
        """
        # Step by step, N and n need the tables that all of a covariance needs.
        self._require_room(full=isinstance(self.plan.horizon, int))
        assert not isinstance(self._recursion, Perturbed)
        assert isinstance(self.plan, Plan)
        N, n = self._recursion.parabola() if self._law.states.size else np.zeros((2, 0))
        scale = self.plan.scale
        return self._finite("baseline", self._spread(scale * N, 1)), self._spread(scale * scale * n, 0)

    @cached_property
    def _mean(self) -> FloatArray:
        """Over the states that are reached, in units."""
        if not self.finite and isinstance(self._recursion, Sampled) and self._recursion.bent:
            raise InfiniteVariance(self._reason)
        self._require(8 * self._recursion.room(1), "moments")
        return self._recursion.mean() if self._law.states.size else np.zeros(self._law.shape)

    @cached_property
    def _blocks(self) -> FloatArray:
        """Over the states that are reached, in units^2."""
        raw = self._raw(full=False)
        blocks = raw.blocks - raw.mean[:, :, None] * raw.mean[:, None, :]
        return (blocks + blocks.swapaxes(1, 2)) / 2

    def _raw(self, *, full: bool) -> Raw:
        S, A = self._law.shape
        self._require_room(full=full)
        if S == 0:
            return Raw(np.zeros((0, A)), np.zeros((0, A, A)), np.zeros((0, A, 0, A)) if full else None)
        return self._recursion.raw(full=full)

    def _require_room(self, *, full: bool) -> None:
        """InfiniteVariance, or InvalidArgument where second moments would take too much memory."""
        if not self.finite:
            raise InfiniteVariance(self._reason)
        self._require(8 * self._recursion.room(2, full=full), "second moments")

    def _require(self, size: int, what: str) -> None:
        if size > MOST_BYTES:
            S, A = self._law.shape
            steps = self.plan.horizon if isinstance(self.plan.horizon, int) else "any number of"
            raise InvalidArgument(
                f"{what} of {S} states and {A} actions over {steps} steps take about {size / 2**30:.3g} GiB, more than "
                f"{MOST_BYTES / 2**30:g}; use a smaller model or a shorter horizon"
            )

    def _spread(self, x: FloatArray, power: int) -> FloatArray:
        """`x` in units^power over all states, 0 where none is reached."""
        out = np.zeros((self.gradient.shape[0], *x.shape[1:]))
        with np.errstate(over="ignore"):
            for _ in range(power):
                x = self.plan.unit * x
            out[self._law.states] = x
        return out

    def _finite(self, name: str, x: FloatArray) -> FloatArray:
        """SolveError where squares of rewards overflow."""
        return finite(f"{name} of {self.plan.name}", x, self.plan.mdp, largest=self.plan.unit)

    def __repr__(self) -> str:
        S, A = self.gradient.shape
        return f"EstimatorMoments({S} x {A} entries, horizon {self.plan.horizon})"


def estimator_moments(
    evaluation: Evaluation | FiniteHorizonEvaluation,
    estimator: Estimator,
    *,
    horizon: Horizon | None = None,
    n: int | None = None,
    allow_infinite: bool = False,
) -> EstimatorMoments:
    """Exact moments of `estimator` on one trajectory, by linear recursions and no sampling.

    `horizon` is a number of steps, "geometric" (stop with probability 1 - discount after each step, no discounting),
    or None: that of the evaluation, infinite unless it has one. The bias is relative to the gradient of the
    evaluation, so that it includes what a shorter horizon cuts off. `n` is the number of trajectories of the estimate,
    None the limit of many; only a `BatchAverage` and self-normalised weights depend on it.

    Raises InfiniteVariance where second moments are infinite; with `allow_infinite` mean and bias are returned all the
    same and `trace` is inf. NoExactMoments is raised where an estimator that perturbs the policy has none, or only at
    too high a price; one trajectory stands for one sample of it, which may take several episodes.

    With z_t the score of step t, H_t = ratio_t (c_t + k H_{t+1}), X_t = ratio_t (z_t (e_t + k H_{t+1}) + g X_{t+1}),
    E X X^T solves the same linear recursion as E X under the law weighted by ratio^2. `mean` and `bias` take two
    solves, sparse ones for a large sparse model. On the S states that are reached `blocks`, and with it `variance` and
    `trace`, takes time O(S^3 + S^2 A + S A^2) and memory O(S^2 A), O(S^2) for a sparse model, and `covariance()` time
    O(S^3 A^2). For a horizon of T steps `blocks` takes time O(T S^2 (S + A) + T^2 S A), where steps are sparse O(T S)
    a transition in place of O(T S^3), and memory O(S^2 + T S A); `covariance()` time O(T S^3 A^2) and memory O(S^2 A).
    A `TotalReturn`, a `BatchAverage` and weights of whole trajectories take some A times as long.

    >>> from fastpg import RewardToGo, SoftmaxPolicy, evaluate, problems
    >>> mdp = problems.bandit([1.0, 0.0])
    >>> moments = estimator_moments(evaluate(mdp, SoftmaxPolicy.uniform(mdp)), RewardToGo(baseline=0.25))
    >>> moments.mean[0], moments.variance[0]
    (array([ 0.25, -0.25]), array([0.015625, 0.015625]))

    Source: Sobel (1982) for moments of returns by linear recursion.
    """
    require_evaluation(evaluation)
    if horizon is None and isinstance(evaluation, FiniteHorizonEvaluation):
        horizon = evaluation.horizon
    made = plan(evaluation.mdp, evaluation.policy, estimator, horizon)
    if isinstance(made, PerturbedPlan):
        # Returns have all their moments wherever values exist.
        perturbed = Perturbed.of(made)
        return EstimatorMoments(made, evaluation.logit_gradient, True, "", perturbed.law, perturbed)
    law = step_law(made)
    n = None if n is None else positive_count("n", n)
    plain = not (made.terms.whole or made.joint or made.terms.income is not None)
    recursion = Stepwise.of(made, law) if plain else Sampled.of(made, law, n)
    size = _radius(recursion, 1)
    if size is not None and size.upper >= 1:
        raise InfiniteVariance(_infinite("mean", recursion, size))
    reason = _no_variance(recursion)
    if reason and not allow_infinite:
        raise InfiniteVariance(reason)
    return EstimatorMoments(made, evaluation.logit_gradient, not reason, reason, law, recursion)


def _no_variance(recursion: Stepwise | Sampled) -> str:
    """Why second moments are infinite; empty where they are not."""
    size = _radius(recursion, 2)
    return "" if size is None or size.upper < 1 else _infinite("variance", recursion, size)


def _radius(recursion: Stepwise | Sampled, moment: int) -> Radius | None:
    """How fast a moment grows with the horizon, in units of 1 - MARGIN; None where it shrinks or a horizon stops it."""
    if recursion.horizon is not None or not recursion.law.states.size:
        return None
    growth = recursion.growth(moment)
    # No radius is larger than the largest sum of a row.
    return None if np.max(growth.sum(axis=1)) < SHRINKS else spectral_radius(growth / (1 - MARGIN))


def _infinite(what: str, recursion: Stepwise | Sampled, radius: Radius) -> str:
    made, law = recursion.plan, recursion.law
    name = made.name
    state, n = int(law.states[radius.states[0]]), radius.states.size
    lower, upper = (bound * (1 - MARGIN) for bound in (radius.lower, radius.upper))
    known = "at least 1" if lower >= 1 else "too close to 1 to tell"
    over = "an infinite horizon" if made.horizon is None else f"horizon {made.horizon}"
    nearer = ", or a behaviour policy nearer to the policy" if made.ratios.size else ""
    return (
        f"{name} has no finite {what} over {over}: in the class of state {state} "
        f"({n} state{'s' * (n != 1)}) each step multiplies it by {_near_one((lower + upper) / 2)}, {known}; "
        f"use a finite horizon{nearer}"
    )


def _near_one(x: float) -> str:
    """`x`, near 1 as its distance from it."""
    return f"{x:.9g}" if x == 1 or not abs(x - 1) < 1e-6 else f"1 {'-' if x < 1 else '+'} {abs(x - 1):.2g}"
