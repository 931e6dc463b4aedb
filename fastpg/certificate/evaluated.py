"""What bounds are put on."""

from typing import Protocol

from fastpg.model import MDP
from fastpg.policy import Policy
from fastpg.validation import FloatArray


class Evaluated(Protocol):
    """The floats of an evaluation, of an infinite horizon or by steps."""

    @property
    def mdp(self) -> MDP: ...
    @property
    def policy(self) -> Policy: ...
    @property
    def value(self) -> FloatArray: ...
    @property
    def action_value(self) -> FloatArray: ...
    @property
    def advantage(self) -> FloatArray: ...
    @property
    def visitation(self) -> FloatArray: ...
    @property
    def occupancy(self) -> FloatArray: ...
    @property
    def expected_return(self) -> float: ...
    @property
    def logit_gradient(self) -> FloatArray: ...
