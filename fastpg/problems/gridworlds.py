"""Gridworlds: states are cells, numbered row by row from 0 at the top left."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastpg.errors import InvalidArgument
from fastpg.formats.outcomes import IntArray, Outcomes, tabulated
from fastpg.model import MDP
from fastpg.validation import BoolArray, FloatArray

LEFT, DOWN, RIGHT, UP = (0, -1), (1, 0), (0, 1), (-1, 0)
FROZEN_LAKE_MOVES = (LEFT, DOWN, RIGHT, UP)
CLIFF_WALKING_MOVES = (UP, RIGHT, DOWN, LEFT)

FROZEN_LAKE_4X4 = ("SFFF", "FHFH", "FFFH", "HFFG")
FROZEN_LAKE_8X8 = ("SFFFFFFF", "FFFFFFFF", "FFFHFFFF", "FFFFFHFF", "FFFHFFFF", "FHHFFFHF", "FHFFHFHF", "FFFHFFFG")
_LAYOUTS = {"4x4": FROZEN_LAKE_4X4, "8x8": FROZEN_LAKE_8X8}

# The laws of moving to one side, as intended and to the other side; a third is rounded as gymnasium rounds it.
_DRY = (0.0, 1.0, 0.0)
_ICE = ((1 - 1 / 3) / 2, 1 / 3, (1 - 1 / 3) / 2)
_THIRDS = (1 / 3, 1 / 3, 1 / 3)


class Grid(NamedTuple):
    """How to draw states as cells and actions as arrows: `moves[a]` is the (row, column) step that action a intends."""

    rows: int
    columns: int
    moves: tuple[tuple[int, int], ...]


def frozen_lake(layout: str | Sequence[str] = "4x4", *, slippery: bool = True, discount: float = 0.99) -> MDP:
    """FrozenLake: cross a lake to the goal without falling through a hole; gymnasium's FrozenLake-v1.

    `layout` is "4x4", "8x8", or rows of the letters S (start), F (frozen), H (hole) and G (goal); state = row * columns
    + column. Actions: 0 left, 1 down, 2 right, 3 up; on slippery ice each moves as intended or to either side, 1/3
    each. A move against the border stays. Entering G pays 1; H and G are terminal. The start is uniform over S.

    Return of the optimal policy, mu . V*:

    ===================  ==============  ==============  ===========
    layout               discount 0.9    discount 0.99   discount 1
    ===================  ==============  ==============  ===========
    4x4                  .068890904889   .542025932000   14/17
    8x8                  .006411114262   .414640361800   1
    4x4, not slippery    .9^5            .99^5           1
    8x8, not slippery    .9^13           .99^13          1
    ===================  ==============  ==============  ===========

    The uniform policy on 4x4 at discount 0.99 returns .012356137325.

    >>> frozen_lake()
    MDP(16 states, 4 actions, discount 0.99, dense, 5 terminal)
    """
    tiles = _tiles(layout)
    ended = np.isin(tiles, ("H", "G"))
    rows, columns = ended.shape
    source, action, target, probability = _moves(rows, columns, FROZEN_LAKE_MOVES, _ICE if slippery else _DRY)
    reward = (tiles == "G").ravel()[target].astype(np.float64)
    start = (tiles == "S").ravel()
    outcomes = Outcomes(source, action, target, probability, reward)
    return _gridworld(outcomes, start / start.sum(), ended.ravel(), discount)


def cliff_walking(*, slippery: bool = False, discount: float = 0.99) -> MDP:
    """CliffWalking: walk along a cliff to the goal; gymnasium's CliffWalking-v1.

    4 rows of 12 cells, state = 12 * row + column. Actions: 0 up, 1 right, 2 down, 3 left; slippery, each moves as
    intended or to either side, 1/3 each. The start is 36, the goal 47 is terminal. A step pays -1; a step onto the
    cliff, cells 37 to 46, pays -100 and leads to 36. A move against the border stays. Nothing enters a cliff cell; as
    in gymnasium they have transitions all the same.

    Return of the optimal policy, which walks 13 steps: -7.458134171671 at discount 0.9, -12.2478977001 at 0.99 and -13
    at 1, the discount of the book. Slippery: -46.3526721817 at 0.99.

    Source: Sutton & Barto (2018), Example 6.6, page 132.

    >>> cliff_walking()
    MDP(48 states, 4 actions, discount 0.99, dense, 1 terminal)
    """
    rows, columns, start, goal = 4, 12, 36, 47
    source, action, target, probability = _moves(rows, columns, CLIFF_WALKING_MOVES, _THIRDS if slippery else _DRY)
    fell = (start < target) & (target < goal)
    outcomes = Outcomes(source, action, np.where(fell, start, target), probability, np.where(fell, -100.0, -1.0))
    return _gridworld(outcomes, start, np.arange(rows * columns) == goal, discount)


def _tiles(layout: str | Sequence[str]) -> npt.NDArray[np.str_]:
    """The letters of a lake, (rows, columns)."""
    if isinstance(layout, str):
        if layout not in _LAYOUTS:
            raise InvalidArgument(f"layout must be '4x4', '8x8' or a sequence of rows but is {layout!r}")
        layout = _LAYOUTS[layout]
    rows = [list(row) for row in layout]
    if len({len(row) for row in rows}) != 1 or not set().union(*rows) <= set("SFHG"):
        raise InvalidArgument(f"layout must have rows of one length in the letters S, F, H and G but is {layout!r}")
    tiles = np.array(rows)
    if not (tiles == "S").any():
        raise InvalidArgument(f"layout must have a start S but is {layout!r}")
    return tiles


def _moves(
    rows: int, columns: int, moves: tuple[tuple[int, int], ...], law: tuple[float, float, float]
) -> tuple[IntArray, IntArray, IntArray, FloatArray]:
    """Cell, action, cell entered and probability of each outcome; under action a, moves a-1, a, a+1 follow `law`."""
    A = len(moves)
    cell, action, turn = (part.ravel() for part in np.indices((rows * columns, A, 3)))
    step = np.array(moves)[(action + turn - 1) % A]
    row = np.clip(cell // columns + step[:, 0], 0, rows - 1)
    column = np.clip(cell % columns + step[:, 1], 0, columns - 1)
    return cell, action, row * columns + column, np.array(law)[turn]


def _gridworld(outcomes: Outcomes, start: npt.ArrayLike, terminal: BoolArray, discount: float) -> MDP:
    transition, reward = tabulated(outcomes.where(~terminal[outcomes.state]), terminal.size, 4)
    return MDP(transition, reward, discount, start, terminal=terminal)
