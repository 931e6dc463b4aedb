"""Everything fastpg raises on purpose; catch `FastPGError` for all of it."""


class FastPGError(Exception):
    """Base of every error that fastpg raises on purpose."""


class InvalidModel(FastPGError, ValueError):
    """A Markov decision process breaks a rule; the message gives place, value, rule and count."""


class InvalidPolicy(FastPGError, ValueError):
    """A policy breaks a rule, or does not fit the model it is used with."""


class InvalidArgument(FastPGError, ValueError):
    """An argument other than a model or a policy (a count, a horizon, a name) breaks a rule."""


class NoExactMoments(InvalidArgument):
    """The exact moments of an estimator are known in no closed form; it can be sampled all the same."""


class SolveError(FastPGError, ArithmeticError):
    """A linear system of the theory has no finite solution, or none that float64 can hold."""


class InfiniteVariance(SolveError):
    """An estimator has no finite second moments on this model."""


class Disagreement(FastPGError, AssertionError):
    """A sampled quantity contradicts its exact value at the stated false-alarm rate."""
