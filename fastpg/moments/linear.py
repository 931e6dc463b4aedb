"""First and second moments of what a trajectory adds up to, where each step is linear in what follows it.

Scalars and vectors of what is ahead of a state, primes one step later, z the score of the step:

    h_i = sum_k B_ik h'_k,   x_j = z sum_k E_jk h'_k + sum_m D_jm x'_m,   h_0 = 1

The coefficients depend on the outcome of the step, and an index on itself and lower ones alone. So E h_i h_k,
E h_i x_j and E x_j x_m^T solve linear recursions one after the other.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple, TypeVar

import numpy as np
from scipy import linalg, sparse

from fastpg.lazy import cached_property
from fastpg.model import Transition
from fastpg.moments.law import Measure, StepLaw, centred, score_blocks, solved, without
from fastpg.moments.stepwise import Total
from fastpg.radius import spectral_radius
from fastpg.validation import FloatArray

Coefficients = dict[int, FloatArray]
Pair = tuple[int, int]
Combination = dict[int, float]
Kept = TypeVar("Kept")
# The index of a vector that is 1 and has no score, beside which first moments are second ones.
ONE = -1


class Channels:
    """Coefficients (n,) for each outcome: `scalars[i][k]` is B_ik, `own[j][k]` E_jk and `later[j][m]` D_jm.

    `ended[i]` is h_i where the process has ended and `cut[i]` (S,) where a horizon cuts it; vectors are 0 there.
    """

    def __init__(self, law: StepLaw) -> None:
        one = np.ones(law.probability.size)
        self.scalars: list[Coefficients] = [{0: one}]
        self.ended, self.cut = [1.0], [np.ones(law.states.size)]
        self.own: list[Coefficients] = []
        self.later: dict[int, Coefficients] = {ONE: {ONE: one}}

    def scalar(self, before: Coefficients, itself: FloatArray, ended: float, cut: FloatArray) -> int:
        """A further scalar, and its index."""
        index = len(self.scalars)
        self.scalars.append(before | {index: itself})
        self.ended.append(ended)
        self.cut.append(cut)
        return index

    def vector(self, own: Coefficients, before: Coefficients, itself: FloatArray) -> int:
        """A further vector, and its index."""
        index = len(self.own)
        self.own.append(own)
        self.later[index] = before | {index: itself}
        return index

    def moves(self, pair: Pair) -> Iterator[tuple[Pair, FloatArray]]:
        """The pairs of vectors one step later that a pair is made of, with their coefficients."""
        for j, m in _orders(pair):
            for p, q in product(self.later[j], self.later[m]):
                if p <= q:
                    yield (p, q), self.later[j][p] * self.later[m][q]


class Needed(NamedTuple):
    """The pairs of scalars, of scalars and vectors, and of vectors whose moments are needed."""

    hh: list[Pair]
    hx: list[Pair]
    xx: list[Pair]


class Ahead(NamedTuple):
    """E h_i h_k (S,) and E h_i x_j (S, S, A) from each state on."""

    hh: dict[Pair, FloatArray]
    hx: dict[Pair, FloatArray]


class Second(NamedTuple):
    """E X X^T of each combination X of vectors, and from the start E h_i h_k and E h_i x_j (S, A)."""

    products: list[Total]
    hh: dict[Pair, float]
    hx: dict[Pair, FloatArray]


@dataclass(frozen=True, eq=False, repr=False)
class Linear:
    """The recursions of `channels` under a law that goes on after a step with probability `survival`."""

    law: StepLaw
    channels: Channels
    survival: float
    horizon: int | None

    def expected(self, scalar: int) -> float:
        """E h_i from the start."""
        *_, ahead = self._aheads(self._needed((), [(0, scalar)], ()))
        return self._from_start((0, scalar), ahead)

    def mean(self, x: Combination) -> FloatArray:
        """E X (S, A) of a combination of vectors."""
        first = {(ONE, j): weight for j, weight in x.items()}
        needed = self._needed(first, (), ())
        total = np.zeros(self.law.shape)
        for past, ahead in zip(self._pasts(first, needed), self._aheads(needed), strict=False):
            total += sum(past[ONE, j][:, None] * self._worth(self._mixed_steps[0, j], ahead) for _, j in needed.xx)
        return centred(self.law.pi, total)

    def second(self, combinations: list[Combination], hh: list[Pair], hx: list[Pair], *, full: bool) -> Second:
        """E X X^T of each combination, and what is asked for of `hh` and `hx`."""
        (S, A), squares = self.law.shape, [_squared(x) for x in combinations]
        needed = self._needed([pair for square in squares for pair in square], hh, hx)
        totals = [Total(np.zeros((S, A, A)), np.zeros((S, A, S, A)) if full else None) for _ in squares]
        pasts, aheads = [self._pasts(square, needed) for square in squares], self._aheads(needed)
        for now in zip(*pasts, strict=True):
            ahead = next(aheads)
            for past, total in zip(now, totals, strict=True):
                self._gather(past, ahead, total)
        *_, ahead = aheads
        return Second(
            totals,
            {pair: self._from_start(pair, ahead) for pair in hh},
            {pair: np.tensordot(self.law.start, ahead.hx[pair], axes=1) for pair in hx},
        )

    def _from_start(self, pair: Pair, ahead: Ahead) -> float:
        """E h_i h_k, which may have ended before the first step."""
        start, ended = self.law.start, self.channels.ended
        return float(start @ ahead.hh[pair] + (1.0 - start.sum()) * ended[pair[0]] * ended[pair[1]])

    def growth(self, combinations: list[Combination], hh: list[Pair], hx: list[Pair], *, first: bool) -> Transition:
        """The matrix (S, S) whose spectral radius must be below 1 for first, or second, moments to be finite."""
        if first:
            needed = self._needed([(ONE, j) for x in combinations for j in x], (), ())
        else:
            needed = self._needed([pair for x in combinations for pair in _squared(x)], hh, hx)
        largest: list[FloatArray] = []
        for f in self._diagonals(needed):
            if not any((f <= g).all() for g in largest):
                largest = [g for g in largest if not (g <= f).all()] + [f]
        matrices = [self._chain(f) for f in largest]
        return matrices[0] if len(matrices) == 1 else max(matrices, key=lambda K: spectral_radius(K).upper)

    def _diagonals(self, needed: Needed) -> Iterator[FloatArray]:
        B, D = self.channels.scalars, self.channels.later
        # With h_0 they are first moments, and asked for as such.
        only_first = all(j == ONE for j, _ in needed.xx)
        yield from (B[i][i] * B[k][k] for i, k in needed.hh if i or (k and only_first))
        yield from (B[i][i] * D[j][j] for i, j in needed.hx if i)
        yield from (D[j][j] * D[m][m] for j, m in needed.xx)

    def _needed(self, xx: Iterable[Pair], hh: Iterable[Pair], hx: Iterable[Pair]) -> Needed:
        """These pairs and all that their recursions use."""
        B, E, D = self.channels.scalars, self.channels.own, self.channels.later
        vectors = _closed(xx, lambda pair: (target for target, _ in self.channels.moves(pair)))
        ordered = [order for pair in vectors for order in _orders(pair)]
        first = {(0, k) for j, m in ordered if j == ONE for k in E[m]}
        ordered = [(j, m) for j, m in ordered if j != ONE and m != ONE]
        mixed = {pair for j, m in ordered for pair in product(E[j], D[m])}
        mixed = set(_closed(mixed | set(hx), lambda pair: product(B[pair[0]], D[pair[1]])))
        scalars = first | set(hh) | {pair for j, m in ordered for pair in product(E[j], E[m])}
        scalars |= {pair for i, j in mixed for pair in product(B[i], E[j])}
        both = _closed(map(_sorted, scalars), lambda pair: map(_sorted, product(B[pair[0]], B[pair[1]])))
        return Needed(both, sorted(mixed), vectors)

    # One step

    @cached_property
    def _measure(self) -> Measure:
        return self.law.measure(0)

    def _chain(self, f: FloatArray) -> Transition:
        """Sums over the outcomes that go on, from state to state."""
        return self.survival * self._measure.chain(f)

    def _steps(self, left: Coefficients, right: Coefficients) -> list["_Step"]:
        """What E of the product of two sums over scalars is made of, where the process goes on and where it ends."""
        ended, stays, steps = self.channels.ended, 1.0 - self.survival, []
        for k, m in product(left, right):
            f, measure = left[k] * right[m], self._measure
            stop = stays * measure.total(f) + self.survival * measure.ending(f)
            steps.append(_Step(_sorted((k, m)), self.survival * measure.onto(f), ended[k] * ended[m] * stop))
        return steps

    def _worth(self, steps: list["_Step"], ahead: Ahead) -> FloatArray:
        """E of such a product (S, A), the action of the step known."""
        return np.asarray(sum((x.onto @ ahead.hh[x.pair]).reshape(self.law.shape) + x.stop for x in steps))

    def _earlier(self, needed: Needed, ahead: Ahead) -> Ahead:
        """The moments with one more step to go."""
        S, A = self.law.shape
        # Outcomes that the policy never takes are left out, which matters to h_0 alone.
        hh = {
            (i, k): self._worth(self._scalar_steps[i, k], ahead).sum(axis=1) if k else np.ones(S) for i, k in needed.hh
        }
        hx = {}
        for i, j in needed.hx:
            moved = sum(chain @ ahead.hx[pair].reshape(S, S * A) for pair, chain in self._mixed_chains[i, j].items())
            hx[i, j] = self._with_own((i, j), np.asarray(moved).reshape(S, S, A), ahead)
        return Ahead(hh, hx)

    def _with_own(self, pair: Pair, later: FloatArray, ahead: Ahead) -> FloatArray:
        """`later` and what the step itself has in E h_i x_j."""
        states = np.arange(self.law.states.size)
        later[states, states] += centred(self.law.pi, self._worth(self._mixed_steps[pair], ahead))
        return later

    # What is the same at each step, computed when it is first needed and kept where there are many

    @cached_property
    def _scalar_steps(self) -> "_Lazily[list[_Step]]":
        B = self.channels.scalars
        return self._lazily(lambda i, k: self._steps(B[i], B[k]))

    @cached_property
    def _mixed_steps(self) -> "_Lazily[list[_Step]]":
        B, E = self.channels.scalars, self.channels.own
        return self._lazily(lambda i, j: self._steps(B[i], E[j]))

    @cached_property
    def _own_steps(self) -> "_Lazily[list[_Step]]":
        E = self.channels.own
        return self._lazily(lambda j, m: self._steps(E[j], E[m]))

    @cached_property
    def _mixed_chains(self) -> "_Lazily[dict[Pair, Transition]]":
        B, D = self.channels.scalars, self.channels.later
        return self._lazily(lambda i, j: {(k, m): self._chain(B[i][k] * D[j][m]) for k, m in product(B[i], D[j])})

    @cached_property
    def _onto(self) -> "_Lazily[dict[Pair, Transition]]":
        E, D, onto = self.channels.own, self.channels.later, self._measure.onto
        return self._lazily(lambda j, m: {(k, p): onto(E[j][k] * D[m][p]) for k, p in product(E[j], D[m])})

    @cached_property
    def _moves(self) -> "_Lazily[list[tuple[Pair, Transition]]]":
        moves = self.channels.moves
        return self._lazily(lambda j, m: [(target, self._chain(f)) for target, f in moves((j, m))])

    def _lazily(self, compute: "Callable[[int, int], Kept]") -> "_Lazily[Kept]":
        return _Lazily(compute, keep=self.horizon is not None)

    # All steps

    def _aheads(self, needed: Needed) -> Iterator[Ahead]:
        """What is ahead with 0, 1, ... steps to go; where the process never stops by itself the same for ever."""
        (S, A), cut = self.law.shape, self.channels.cut
        if self.horizon is None:
            ahead = self._fixed_point(needed)
            yield ahead
            yield ahead
            return
        zero = np.zeros((S, S, A))
        ahead = Ahead({(i, k): cut[i] * cut[k] for i, k in needed.hh}, dict.fromkeys(needed.hx, zero))
        yield ahead
        for _ in range(self.horizon):
            ahead = self._earlier(needed, ahead)
            yield ahead

    def _fixed_point(self, needed: Needed) -> Ahead:
        """The moments when the process never stops by itself."""
        (S, A), B = self.law.shape, self.channels.scalars
        ahead = Ahead(dict.fromkeys(needed.hh, np.zeros(S)), {})
        for i, k in sorted(needed.hh, key=sum):
            if k == 0:
                ahead.hh[0, 0] = np.ones(S)
                continue
            source = self._worth(self._scalar_steps[i, k], ahead).sum(axis=1)
            ahead.hh[i, k] = solved(1.0, self._chain(B[i][i] * B[k][k]), source)
        for i, j in sorted(needed.hx, key=sum):
            chains = self._mixed_chains[i, j]
            others = sum(chain @ ahead.hx[pair].reshape(S, S * A) for pair, chain in chains.items() if pair != (i, j))
            source = self._with_own((i, j), (np.zeros((S, S * A)) + others).reshape(S, S, A), ahead)
            ahead.hx[i, j] = linalg.solve(without(1.0, chains[i, j]), source.reshape(S, S * A)).reshape(S, S, A)
        return ahead

    def _pasts(self, weights: dict[Pair, float], needed: Needed) -> list[dict[Pair, FloatArray]]:
        """The weight (S,) of each pair of vectors from a state on, from the last step to the first; in all of them
        together where the process never stops by itself.
        """
        start = {pair: weights.get(pair, 0.0) * self.law.start for pair in needed.xx}
        if self.horizon is not None:
            pasts = [start]
            for _ in range(self.horizon - 1):
                now = dict.fromkeys(needed.xx, np.zeros(self.law.states.size))
                for pair, past in pasts[-1].items():
                    for target, chain in self._moves[pair]:
                        now[target] = now[target] + past @ chain
                pasts.append(now)
            return pasts[::-1]
        total = {}
        for pair in sorted(needed.xx, key=sum, reverse=True):
            f = self.channels.later[pair[0]][pair[0]] * self.channels.later[pair[1]][pair[1]]
            total[pair] = solved(1.0, self._chain(f), start[pair], transposed=True)
            for target, chain in self._moves[pair]:
                if target != pair:
                    start[target] = start[target] + total[pair] @ chain
        return [total]

    def _gather(self, past: dict[Pair, FloatArray], ahead: Ahead, total: Total) -> None:
        """Add what steps with the weights `past` have in E X X^T: with themselves and with what follows."""
        S, A = self.law.shape
        own = np.zeros((S, A))
        later: dict[Pair, Transition] = {}
        for pair, weight in past.items():
            rows = np.repeat(weight, A)
            for j, m in _orders(pair):
                own += weight[:, None] * self._worth(self._own_steps[j, m], ahead)
                for other, matrix in self._onto[j, m].items():
                    later[other] = later.get(other, 0) + _scaled(rows, matrix)
        after = tuple((self.survival, matrix, ahead.hx[pair]) for pair, matrix in later.items())
        total.add(score_blocks(self.law.pi, own), np.ones(S), self.law.pi, after)


def _scaled(rows: FloatArray, matrix: Transition) -> Transition:
    """The matrix with each row multiplied."""
    return rows[:, None] * matrix if isinstance(matrix, np.ndarray) else sparse.diags_array(rows) @ matrix


def add(total: Total, factor: float, other: Total) -> None:
    """Add factor * other."""
    total.blocks[...] += factor * other.blocks
    if total.product is not None and other.product is not None:
        total.product[...] += factor * other.product


def add_outer(total: Total, x: FloatArray, y: FloatArray) -> None:
    """Add x y^T."""
    total.blocks[...] += x[:, :, None] * y[:, None, :]
    if total.product is not None:
        total.product[...] += np.multiply.outer(x, y)


class _Step(NamedTuple):
    """E f h_k h_m of a step is onto (S A, S) times that of the next, and stop (S, A) where the process ends."""

    pair: Pair
    onto: Transition
    stop: FloatArray


class _Lazily(dict[Pair, Kept]):
    """A dictionary that computes what it does not have, and may keep it."""

    def __init__(self, compute: Callable[[int, int], Kept], *, keep: bool) -> None:
        super().__init__()
        self.compute, self.keep = compute, keep

    def __missing__(self, key: Pair) -> Kept:
        value = self.compute(*key)
        if self.keep:
            self[key] = value
        return value


def _sorted(pair: Pair) -> Pair:
    return (min(pair), max(pair))


def _orders(pair: Pair) -> list[Pair]:
    """A pair, and the other way round where that is another."""
    return [pair] if pair[0] == pair[1] else [pair, (pair[1], pair[0])]


def _squared(x: Combination) -> dict[Pair, float]:
    """The coefficients of X X^T, those of a pair and of its reverse in one place."""
    return {(j, m): x[j] * x[m] for j, m in product(x, x) if j <= m}


def _closed(pairs: Iterable[Pair], step: Callable[[Pair], Iterable[Pair]]) -> list[Pair]:
    """The pairs, and all that they lead to."""
    seen, left = set(), list(pairs)
    while left:
        pair = left.pop()
        if pair not in seen:
            seen.add(pair)
            left.extend(step(pair))
    return sorted(seen)
