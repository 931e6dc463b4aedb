"""Fisher information, the natural gradient and the normalised natural step."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fastpg.chain import finite
from fastpg.errors import InvalidArgument, SolveError
from fastpg.evaluation import Evaluation, require_evaluation
from fastpg.gradient import policy_gradient
from fastpg.kernels import evaluation as kernels
from fastpg.lazy import cached_property
from fastpg.policy import DirectPolicy, Policy, SoftmaxPolicy
from fastpg.validation import FloatArray, float_array, frozen, real_between, require_finite

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator


TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, eq=False, repr=False)
class FisherInformation:
    """F = blockdiag_s w(s) (diag pi_s - pi_s pi_s^T) in the logits, pulled back to the parameters of `policy`.

    `weight` w is the visitation, so that F is the Hessian at theta of E_{s~visitation} KL(pi_theta || pi_theta').
    At discount 1 there is no visitation and w is the occupancy: the Fisher information of the whole path.

        tabular softmax   F itself
        log-linear        Phi^T F Phi
        direct            blockdiag_s diag(w(s) / pi_s) - w(s) 1 1^T over the actions with pi > 0, 0 elsewhere: the
                          Fisher-Rao metric diag(w / pi) less its part along pi, so that v^T F v is the metric's own
                          for directions v that keep each row's sum

    `F @ v` takes a direction in the parameters, shaped like them or flat; `to_dense` gives the matrix, `pinv_solve`
    the minimum-norm least-squares solution of F x = g (SolveError where it overflows), `linear_operator` a view for
    SciPy's iterative solvers.
    """

    weight: FloatArray
    policy: Policy

    @cached_property
    def blocks(self) -> FloatArray:
        """The diagonal blocks in the logits, shape (S, A, A)."""
        S, A = self.policy.probabilities.shape
        out = np.empty((S, A, A))
        kernels.fisher_blocks(self.weight, self.policy.probabilities, out)
        return frozen(out)

    @property
    def shape(self) -> tuple[int, int]:
        """(p, p) for p parameters."""
        p = self.policy.parameters.size
        return p, p

    def __matmul__(self, direction: npt.ArrayLike) -> FloatArray:
        """F v, of the shape of the parameters; a flat v gives a flat result."""
        v = float_array("direction", direction, InvalidArgument)
        parameters = self.policy.parameters
        require_finite("direction", v, InvalidArgument)
        with np.errstate(over="ignore", invalid="ignore"):
            image = self.policy.pullback(self._in_logits(self.policy.pushforward(v.reshape(self._shape_of(v)))))
        if not np.isfinite(image).all():
            raise SolveError(f"F v overflows float64 for a direction v with entries up to {np.abs(v).max():.3g}")
        return image.reshape(v.shape) if v.shape != parameters.shape else image

    def _shape_of(self, v: FloatArray) -> tuple[int, ...]:
        shape = self.policy.parameters.shape
        if v.shape not in (shape, (self.policy.parameters.size,)):
            raise InvalidArgument(f"the vector must have shape {shape} of the parameters but has shape {v.shape}")
        return shape

    def _in_logits(self, v: FloatArray) -> FloatArray:
        pi = self.policy.probabilities
        centred, out = np.empty(pi.shape), np.empty(pi.shape)
        kernels.advantage(pi, frozen(np.ascontiguousarray(v)), frozen(pi > 0), centred)
        kernels.logit_gradient(self.weight, pi, frozen(centred), out)
        return out

    def to_dense(self) -> FloatArray:
        """The (p, p) matrix, parameters flattened in C order."""
        p = self.policy.parameters.size
        return frozen(np.stack([self @ column for column in np.eye(p)], axis=1))

    def pinv_solve(self, gradient: npt.ArrayLike) -> FloatArray:
        """F^+ g, the x of least norm among those that minimise |F x - g|; shaped like g, flat or as the parameters.

        Closed form for the tabular softmax: with g centred over the actions of positive probability, x = g / (w pi)
        centred over them again, 0 elsewhere and where w(s) = 0. Other policies use an SVD of a square root M of
        F = M^T M, whose singular values are told from rounding at eps and not, as those of F, at its root.
        """
        given = float_array("gradient", gradient, InvalidArgument)
        g = given.reshape(self._shape_of(given))
        require_finite("gradient", given, InvalidArgument)
        if not isinstance(self.policy, SoftmaxPolicy):
            return self._pinv_solve_by_root(g.ravel()).reshape(given.shape)
        pi = self.policy.probabilities
        weight = self.weight[:, None]
        centred = np.empty(g.shape)
        kernels.centred_on_support(pi, frozen(g), centred)
        ratio, both = np.zeros(g.shape), weight * pi
        with np.errstate(over="ignore"):
            np.divide(centred, both, out=ratio, where=both >= TINY)
            np.divide(centred, weight, out=ratio, where=(both < TINY) & (weight > 0) & (pi > 0))
            np.divide(ratio, pi, out=ratio, where=(both < TINY) & (pi > 0))
        x = _centred(self.policy, ratio, self.weight)
        if not np.isfinite(x).all():
            s = int(np.argwhere(~np.isfinite(x))[0, 0])
            raise SolveError(f"F^+ g overflows float64 in state {s}, whose weight in F is {float(self.weight[s])!r}")
        return x.reshape(given.shape)

    def _root(self) -> FloatArray:
        """M (S*A, p) with rows sqrt(w(s) pi(a|s)) (J_sa - sum_b pi(b|s) J_sb), J = dlogits/dparameters; F = M^T M."""
        pi, parameters = self.policy.probabilities, self.policy.parameters
        directions = np.eye(parameters.size).reshape(-1, *parameters.shape)
        with np.errstate(over="ignore", invalid="ignore"):
            J = np.stack([self.policy.pushforward(v) for v in directions], axis=-1)
            # Differences to the likeliest action first: what its actions share drops out of a state without rounding.
            x = J - np.take_along_axis(J, pi.argmax(axis=1)[:, None, None], axis=1)
            score = x - np.einsum("sa,sap->sp", pi, x)[:, None]
            return ((np.sqrt(self.weight)[:, None] * np.sqrt(pi))[..., None] * score).reshape(pi.size, -1)

    def _pinv_solve_by_root(self, g: FloatArray) -> FloatArray:
        """V diag(1/s^2) V^T g over the singular values s of M above max(M.shape) eps s_max."""
        M = self._root()
        if not np.isfinite(M).all():
            raise SolveError("the Fisher information overflows float64; a probability is too small or a feature large")
        _, s, Vt = np.linalg.svd(M, full_matrices=False)
        kept = s > max(M.shape) * np.finfo(np.float64).eps * s.max(initial=0.0)
        with np.errstate(over="ignore", invalid="ignore"):
            x = Vt[kept].T @ (Vt[kept] @ g / s[kept] / s[kept])
        if not np.isfinite(x).all():
            raise SolveError(f"F^+ g overflows float64; the least positive eigenvalue of F is {s[kept].min() ** 2:.3g}")
        return frozen(x)

    def linear_operator(self) -> "LinearOperator":
        """F as a SciPy LinearOperator on flattened parameters."""
        from scipy.sparse.linalg import LinearOperator

        def product(v: FloatArray) -> FloatArray:
            return self @ v.ravel()

        return LinearOperator(self.shape, matvec=product, rmatvec=product, dtype=np.float64)

    def __repr__(self) -> str:
        return f"FisherInformation({self.shape[0]} parameters, {self.policy!r})"


def _centred(policy: Policy, x: FloatArray, weight: FloatArray) -> FloatArray:
    out = np.empty(x.shape)
    kernels.centred_on_support(policy.probabilities, frozen(x), out)
    out[weight == 0] = 0.0
    return frozen(out)


def fisher_information(evaluation: Evaluation) -> FisherInformation:
    """F = E_{(s,a)~visitation, pi} [score score^T], block-diagonal in the logits.

        F[(s,a),(s,b)] = visitation(s) (pi(a|s) [a = b] - pi(a|s) pi(b|s))

    This is F in the logits; `FisherInformation` gives its form in the parameters of each kind of policy.

    Source: Kakade (2001), A Natural Policy Gradient, section 2.
    """
    _infinite(evaluation)
    weight = evaluation.occupancy if evaluation.mdp.discount_complement == 0 else evaluation.visitation
    # A terminal state has no score, whatever mass it holds.
    return FisherInformation(frozen(np.where(evaluation.mdp.terminal, 0.0, weight)), evaluation.policy)


def natural_gradient(evaluation: Evaluation) -> FloatArray:
    """The natural gradient: F^+ dJ, the one of least norm, or for a direct policy the one that stays on the simplex.

        tabular softmax   F^+ dJ = (A(s,a) - mean_b A(s,b)) / (1 - discount), the uniform mean over the actions with
                          pi > 0; 0 for the others and where visitation(s) = 0
        log-linear        F^+ dJ = (Phi^T F Phi)^+ Phi^T dJ/dlogits, F on the right that in the logits
        direct            pi(a|s) A(s,a) / (1 - discount) where visited, not F^+ dJ

    For a direct policy F vanishes along pi, where dJ/dpi = d(s) Q(s,a) need not, and no F^+ g has to keep a row's
    sum. The step x given is the steepest ascent along the simplex in the Fisher-Rao metric: of all directions over
    visited states and actions with pi > 0 whose rows sum to 0, it alone has v^T F x = v^T dJ for every such v.

    At discount 1 the factor 1 / (1 - discount) is 1 (see `FisherInformation`). A / (1 - discount) gives the same
    policy step as the softmax form and is the one often printed, but it is not the pseudoinverse.

    Source: Kakade (2001); Agarwal et al. (2021), Lemma 5.1, whose minimum-norm member this is.
    """
    direction, divisor = _direction(evaluation)
    with np.errstate(over="ignore"):
        return frozen(finite("natural_gradient", direction / divisor, evaluation.mdp))


def _direction(evaluation: Evaluation) -> tuple[FloatArray, float]:
    """The natural gradient as a direction and the divisor, at most 1, which is still to be applied."""
    F, policy = fisher_information(evaluation), evaluation.policy
    divisor = evaluation.mdp.discount_complement or 1.0
    if isinstance(policy, SoftmaxPolicy):
        return finite("natural_gradient", _centred(policy, evaluation.advantage, F.weight), evaluation.mdp), divisor
    if isinstance(policy, DirectPolicy):
        visited = (policy.probabilities > 0) & (F.weight[:, None] > 0)
        return np.where(visited, policy.probabilities * np.where(visited, evaluation.advantage, 0.0), 0.0), divisor
    return F.pinv_solve(policy_gradient(evaluation)), 1.0


def normalised_step(evaluation: Evaluation, size: float) -> FloatArray:
    """sqrt(size / (dJ^T x)) x with x the natural gradient, so that step^T F step = size for every kind of policy.

    KL(pi_theta || pi_{theta+step}), averaged over the visitation, is size/2 to second order. Zero where the
    gradient is. Source: Rajeswaran et al. (2017), section 3.2.
    """
    size = real_between("size", size, 0.0, np.finfo(np.float64).max)
    direction, divisor = _direction(evaluation)
    # Of dJ/dpi = d(s) Q(s,a) the step of a direct policy feels the part d(s) A(s,a) alone.
    with np.errstate(over="ignore"):
        gradient = evaluation.policy.pullback(evaluation.logit_gradient)
    power, exponent = _dot(gradient, direction)
    if power <= 0:
        return frozen(np.zeros(direction.shape))
    # The step is of size sqrt(size), however large or small the rewards: exponents are kept apart until the end.
    mantissa, exponents = np.frexp(direction)
    with np.errstate(over="ignore", under="ignore"):
        step = np.ldexp(mantissa * (np.sqrt(size) / np.sqrt(divisor) / np.sqrt(power)), exponents - exponent // 2)
    return frozen(finite("normalised_step", step, evaluation.mdp))


def _dot(x: FloatArray, y: FloatArray) -> tuple[float, int]:
    """(m, e) with x . y = m 2^e and e even, where the products need not fit into float64."""
    (x, of_x), (y, of_y) = np.frexp(x), np.frexp(y)
    product, exponent = x * y, of_x + of_y
    top = int(exponent[product != 0].max(initial=-5000))
    top += top % 2
    with np.errstate(under="ignore"):
        return float(np.ldexp(product, exponent - top).sum()), top


def _infinite(evaluation: Evaluation) -> None:
    require_evaluation(evaluation)
    if not isinstance(evaluation, Evaluation):
        raise InvalidArgument(
            "the Fisher information is that of the visitation of an infinite horizon; evaluate without horizon"
        )
