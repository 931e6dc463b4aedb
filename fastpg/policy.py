"""Policies: parameters to action probabilities, and gradients in the logits pulled back to parameters.

Everything downstream works in the (S, A) logits; a new parametrisation is one subclass of `Policy`.
"""

from abc import ABCMeta, abstractmethod
from typing import TYPE_CHECKING, Any, Self, TypeGuard, TypeVar

import numpy as np
import numpy.typing as npt

from fastpg.errors import InvalidPolicy, SolveError
from fastpg.kernels.policy import softmax
from fastpg.model import MDP
from fastpg.parallel import all_rows
from fastpg.rng import RNG, generator
from fastpg.validation import BoolArray, FloatArray, float_array, frozen, law, mask_array, require

if TYPE_CHECKING:
    from fastpg.evaluation import Evaluation
    from fastpg.finite_horizon import FiniteHorizonEvaluation

_P = TypeVar("_P")


class _Sealing(ABCMeta):
    """Closes a policy when its constructor, and with it that of every subclass, is done."""

    def __call__(cls: "type[_P]", *args: Any, **kwargs: Any) -> "_P":
        policy: _P = type.__call__(cls, *args, **kwargs)
        policy.__dict__["_sealed"] = True
        return policy


class Policy(metaclass=_Sealing):
    """Action probabilities `probabilities` (S, A), a function of `parameters`.

    A subclass sets both in its constructor, after which nothing can be set, and gives the chain rule both ways:
    `pullback` takes dJ/dlogits (S, A) to dJ/dparameters, `pushforward` a change of parameters to one of logits.
    """

    parameters: FloatArray
    probabilities: FloatArray

    @abstractmethod
    def pullback(self, gradient_in_logits: npt.ArrayLike) -> FloatArray:
        """dJ/dparameters = (dlogits/dparameters)^T dJ/dlogits."""

    @abstractmethod
    def pushforward(self, direction: npt.ArrayLike) -> FloatArray:
        """The change of the (S, A) logits when the parameters change by `direction`."""

    @abstractmethod
    def masked(self, available: npt.ArrayLike) -> Self:
        """The same policy restricted to the available actions."""

    @property
    def underflowed(self) -> BoolArray:
        """(S, A), where a probability is 0 only because float64 has no smaller one: results take it to be 0."""
        return frozen(np.zeros(self.probabilities.shape, bool))

    def gradient(self, evaluation: "Evaluation | FiniteHorizonEvaluation") -> FloatArray:
        """dJ/dparameters, from the derivatives that an evaluation of this policy holds."""
        return self.pullback(evaluation.logit_gradient)

    def shaped(self, name: str, value: npt.ArrayLike, shape: tuple[int, ...] | None = None) -> FloatArray:
        """`value` as an array of the shape of the probabilities (or of `shape`), else InvalidPolicy."""
        array = value if _is_float_array(value) else float_array(name, value, InvalidPolicy)
        shape = self.probabilities.shape if shape is None else shape
        if array.shape != shape:
            raise InvalidPolicy(f"{name} must have shape {shape} but has shape {array.shape}")
        return array

    def __eq__(self, other: object) -> bool:
        return (
            type(self) is type(other)
            and isinstance(other, Policy)
            and np.array_equal(self.probabilities, other.probabilities)
            and np.array_equal(self.parameters, other.parameters)
        )

    def __hash__(self) -> int:
        return hash((type(self), self.probabilities.tobytes()))

    def __setattr__(self, name: str, value: object) -> None:
        if "_sealed" in self.__dict__:
            raise AttributeError(f"{type(self).__name__} is read-only, its {name!r} cannot be set; make a new one")
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is read-only, its {name!r} cannot be deleted")

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({k: frozen(v) if isinstance(v, np.ndarray) else v for k, v in state.items()})

    def __repr__(self) -> str:
        S, A = self.probabilities.shape
        return f"{type(self).__name__}({S} state{'s' * (S != 1)}, {A} action{'s' * (A != 1)})"


def _is_float_array(value: object) -> "TypeGuard[FloatArray]":
    return type(value) is np.ndarray and value.dtype == np.float64


def _matrix(name: str, value: npt.ArrayLike) -> FloatArray:
    array = float_array(name, value, InvalidPolicy)
    if array.ndim != 2 or array.size == 0:
        raise InvalidPolicy(f"{name} must have shape (S, A) with S, A >= 1 but has shape {array.shape}")
    return array


def _without_overflow(pulled: FloatArray, g: FloatArray, cause: str) -> FloatArray:
    """`pulled`; SolveError where it is not finite although g is."""
    if not np.isfinite(pulled).all() and np.isfinite(g).all():
        raise SolveError(
            f"pulling back to the parameters overflows float64, from {np.abs(g).max():.3g} in the logits and {cause}"
        )
    return pulled


def _softmax(logits: FloatArray) -> FloatArray:
    """The probabilities; InvalidPolicy, which names the place, where a row of logits has none."""
    out = np.empty(logits.shape)
    if not all_rows(softmax, logits, out):
        require(logits < np.inf, "logits", "be finite or -inf", logits, InvalidPolicy)
        top = logits.max(axis=1)
        rule = "leave an action above -inf in each state, the largest there"
        require(top > -np.inf, "logits", rule, top, InvalidPolicy)
    return frozen(out)


class SoftmaxPolicy(Policy):
    """pi(a|s) = exp(theta(s,a)) / sum_b exp(theta(s,b)), one logit for each state and action.

    `logits` is (S, A); -inf masks an action, +inf and NaN are refused, finite logits of any size work.

    >>> import numpy as np
    >>> SoftmaxPolicy([[0.0, np.log(3.0)]]).probabilities
    array([[0.25, 0.75]])
    """

    def __init__(self, logits: npt.ArrayLike) -> None:
        theta = frozen(_matrix("logits", logits))
        # Not by `__setattr__`, which takes longer than the softmax of a small policy.
        vars(self).update(parameters=theta, probabilities=_softmax(theta))

    @property
    def logits(self) -> FloatArray:
        """theta, shape (S, A), read-only."""
        return self.parameters

    @property
    def underflowed(self) -> BoolArray:
        """(S, A), where a finite logit has probability 0 in float64; `fastpg.exact.enclose` has the true one.

        >>> SoftmaxPolicy([[0.0, -800.0, -float("inf")]]).underflowed
        array([[False,  True, False]])
        """
        return frozen((self.logits > -np.inf) & (self.probabilities == 0))

    @classmethod
    def uniform(cls, mdp: MDP) -> "SoftmaxPolicy":
        """Equal probabilities for the available actions of each state."""
        return cls(np.zeros((mdp.n_states, mdp.n_actions))).masked(mdp.available)

    @classmethod
    def random(cls, mdp: MDP, *, rng: RNG) -> "SoftmaxPolicy":
        """Independent standard normal logits, -inf where unavailable."""
        return cls(generator(rng).standard_normal((mdp.n_states, mdp.n_actions))).masked(mdp.available)

    def masked(self, available: npt.ArrayLike) -> "SoftmaxPolicy":
        """The same logits, -inf where `available` (S, A) is False; a state without any keeps its row."""
        mask = mask_array("available", available, self.probabilities.shape, InvalidPolicy)
        mask |= ~mask.any(axis=1, keepdims=True)
        if (mask | (self.parameters == -np.inf)).all():
            return self
        return SoftmaxPolicy(np.where(mask, self.parameters, -np.inf))

    def pullback(self, gradient_in_logits: npt.ArrayLike) -> FloatArray:
        """The gradient itself: the logits are the parameters."""
        return self.shaped("gradient_in_logits", gradient_in_logits)

    def pushforward(self, direction: npt.ArrayLike) -> FloatArray:
        """The direction itself: the logits are the parameters."""
        return self.shaped("direction", direction)


class LogLinearPolicy(Policy):
    """pi(a|s) proportional to exp(sum_j phi(s,a,j) w(j)): softmax of a linear function of features.

    `features` is (S, A, k), `weights` is (k,), both finite. dJ/dw = Phi^T dJ/dlogits.
    """

    def __init__(
        self, features: npt.ArrayLike, weights: npt.ArrayLike, *, available: npt.ArrayLike | None = None
    ) -> None:
        phi = float_array("features", features, InvalidPolicy)
        w = float_array("weights", weights, InvalidPolicy)
        if phi.ndim != 3 or phi.size == 0:
            raise InvalidPolicy(f"features must have shape (S, A, k) with S, A, k >= 1 but has shape {phi.shape}")
        if w.shape != phi.shape[2:]:
            raise InvalidPolicy(f"weights must have shape {phi.shape[2:]} to fit features but has shape {w.shape}")
        require(np.isfinite(phi), "features", "be finite", phi, InvalidPolicy)
        require(np.isfinite(w), "weights", "be finite", w, InvalidPolicy)
        mask = np.ones(phi.shape[:2], bool) if available is None else available
        self.available: BoolArray = frozen(mask_array("available", mask, phi.shape[:2], InvalidPolicy))
        with np.errstate(over="ignore", invalid="ignore"):
            theta = phi @ w
        require(np.isfinite(theta), "features @ weights", "be finite", theta, InvalidPolicy)
        allowed = self.available | ~self.available.any(axis=1, keepdims=True)
        self.features = frozen(phi)
        self.parameters = frozen(w)
        self.probabilities = _softmax(frozen(np.where(allowed, theta, -np.inf)))

    @property
    def weights(self) -> FloatArray:
        """w, shape (k,), read-only."""
        return self.parameters

    @property
    def underflowed(self) -> BoolArray:
        """(S, A), where an available action has probability 0 in float64."""
        allowed = self.available | ~self.available.any(axis=1, keepdims=True)
        return frozen(allowed & (self.probabilities == 0))

    def masked(self, available: npt.ArrayLike) -> "LogLinearPolicy":
        """The same features and weights with only the actions of `available` (S, A)."""
        mask = mask_array("available", available, self.probabilities.shape, InvalidPolicy) & self.available
        if (mask == self.available).all():
            return self
        return LogLinearPolicy(self.features, self.parameters, available=mask)

    def pullback(self, gradient_in_logits: npt.ArrayLike) -> FloatArray:
        """Phi^T dJ/dlogits, shape (k,)."""
        g = self.shaped("gradient_in_logits", gradient_in_logits)
        with np.errstate(over="ignore", invalid="ignore"):
            pulled = np.einsum("sak,sa->k", self.features, g)
        return _without_overflow(pulled, g, f"features up to {np.abs(self.features).max():.3g}")

    def pushforward(self, direction: npt.ArrayLike) -> FloatArray:
        """Phi direction, shape (S, A)."""
        return self.features @ self.shaped("direction", direction, self.parameters.shape)


class DirectPolicy(Policy):
    """The probabilities themselves are the parameters: a point on a product of simplices.

    `probabilities` is (S, A); rows must sum to 1 within 1e-9 and are then normalised.
    Its gradient is dJ/dpi(a|s) = d(s) Q(s,a), also for actions of probability zero.

    >>> DirectPolicy([[0.25, 0.75]])
    DirectPolicy(1 state, 2 actions)
    """

    def __init__(self, probabilities: npt.ArrayLike) -> None:
        self.probabilities = frozen(law("probabilities", _matrix("probabilities", probabilities), InvalidPolicy))
        self.parameters = self.probabilities

    @classmethod
    def uniform(cls, mdp: MDP) -> "DirectPolicy":
        """Equal probabilities for the available actions of each state."""
        return cls(SoftmaxPolicy.uniform(mdp).probabilities)

    @classmethod
    def random(cls, mdp: MDP, *, rng: RNG) -> "DirectPolicy":
        """Each row uniform on the simplex of the available actions."""
        weight = generator(rng).standard_exponential((mdp.n_states, mdp.n_actions))
        mask = mdp.available | ~mdp.available.any(axis=1, keepdims=True)
        weight[~mask] = 0.0
        return cls(weight / weight.sum(axis=1, keepdims=True))

    def masked(self, available: npt.ArrayLike) -> "DirectPolicy":
        """This policy; InvalidPolicy where it gives an unavailable action a probability."""
        mask = mask_array("available", available, self.probabilities.shape, InvalidPolicy)
        good = mask | (self.probabilities == 0) | ~mask.any(axis=1, keepdims=True)
        require(good, "probabilities", "be 0 where the action is unavailable", self.probabilities, InvalidPolicy)
        return self

    def pullback(self, gradient_in_logits: npt.ArrayLike) -> FloatArray:
        """dJ/dlogits divided by pi, 0 where pi = 0: dJ/dpi up to a constant in each state.

        The constants do not matter to a change of probabilities that keeps each row's sum.
        """
        g = self.shaped("gradient_in_logits", gradient_in_logits)
        with np.errstate(over="ignore"):
            pulled = np.divide(g, self.probabilities, out=np.zeros(g.shape), where=self.probabilities > 0)
        return _without_overflow(pulled, g, "a small probability")

    def pushforward(self, direction: npt.ArrayLike) -> FloatArray:
        """direction / pi, 0 where pi = 0."""
        return self.pullback(self.shaped("direction", direction))

    def gradient(self, evaluation: "Evaluation | FiniteHorizonEvaluation") -> FloatArray:
        """dJ/dpi(a|s) = d(s) Q(s,a)."""
        return evaluation.probability_gradient


def uniform(mdp: MDP) -> SoftmaxPolicy:
    """The tabular softmax policy that is uniform over the available actions."""
    return SoftmaxPolicy.uniform(mdp)


def random(mdp: MDP, *, rng: RNG) -> SoftmaxPolicy:
    """A tabular softmax policy with independent standard normal logits."""
    return SoftmaxPolicy.random(mdp, rng=rng)


def fitted(policy: Policy, mdp: MDP) -> Policy:
    """`policy` masked by what `mdp` makes available, after a check that their shapes agree."""
    shape = mdp.available.shape
    if not isinstance(policy, Policy):
        raise InvalidPolicy(f"policy must be a fastpg policy such as SoftmaxPolicy but is {type(policy).__name__}")
    if policy.probabilities.shape != shape:
        raise InvalidPolicy(f"policy must have shape {shape} to fit the MDP but has shape {policy.probabilities.shape}")
    return policy if mdp.all_available else policy.masked(mdp.available | mdp.terminal[:, None])
