"""The words that the sampler draws with, in the orders in which it draws them, under a battery of statistics.

All p-values of all orders together are one test: the smallest of them is below its bound with a probability of 1e-6
(Bonferroni), and so is, with FASTPG_HEAVY=1 and 2^30 words, the largest distance of the 172 p-values of a statistic
from uniform. Seeds are fixed. Each of the generators below that is known to be bad is rejected.
"""

import os

import numpy as np
import pytest
from battery import BATTERY, p_values, reversed_bits
from scipy import stats

from fastpg import MDP, SoftmaxPolicy, rollout
from fastpg.kernels import random as kernels
from fastpg.kernels.perturbation import DOMAIN, stream
from fastpg.kernels.sampling import LANES
from fastpg.rng import philox_key

FULL = os.environ.get("FASTPG_HEAVY") == "1"
ROUNDS = 172 if FULL else 1
# Words of a round.
SIZE = 2**20


def words_of(state, steps):
    """(steps, streams): what each stream gives from `state` (4, streams)."""
    out, lanes = np.empty((steps, state.shape[1]), np.uint64), [row.copy() for row in state]
    for row in out:
        kernels.xoshiro_lanes(*lanes, row)
    return out


def keyed(seed, streams, first=0):
    """The states of consecutive streams of a seed, as the sampler keys them."""
    state = np.empty((4, streams), np.uint64)
    kernels.streams(philox_key(seed), first, *state)
    return state


def as_drawn(seed):
    """Lanes side by side take 25 steps, then the next trajectories do."""
    steps, batches = 25, SIZE // (25 * LANES) + 1
    words = words_of(keyed(seed, batches * LANES), steps).reshape(steps, batches, LANES)
    return words.swapaxes(0, 1).ravel()


def low_bits(seed):
    """The same with the lowest bit first."""
    return reversed_bits(as_drawn(1_000_000 + seed))


def along_trajectories(seed):
    """One trajectory after the other."""
    return words_of(keyed(2_000_000 + seed, SIZE // 1024, 2**40), 1024).T.ravel()


def across_trajectories(seed):
    """The first words of all trajectories, then the second ones."""
    return words_of(keyed(3_000_000 + seed, SIZE // 4, 2**32 - SIZE // 8), 4).ravel()


def neighbouring_seeds(seed):
    """The same trajectory and step of many seeds, then the next step."""
    seeds = 2**12
    states = [keyed(4_000_000 + seeds * seed + i, 16) for i in range(seeds)]
    return words_of(np.stack(states, axis=2).reshape(4, -1), SIZE // (16 * seeds)).ravel()


def perturbed(seed):
    """Neighbouring episodes and samples of an estimator that perturbs the policy."""
    samples, episodes = SIZE // 64, 16
    state = np.zeros((4, samples * episodes), np.uint64)
    state[0], state[1], state[2] = np.repeat(np.arange(samples), episodes), np.tile(np.arange(16), samples), DOMAIN
    kernels.philox(*state, *philox_key(5_000_000 + seed))
    return words_of(state, 4).T.ravel()


ORDERS = [as_drawn, low_bits, along_trajectories, across_trajectories, neighbouring_seeds, perturbed]
# For each p-value, and for each distance of many of them.
ALPHA = 1e-6 / (len(ORDERS) * len(BATTERY) * (ROUNDS + 1))


@pytest.mark.heavy
@pytest.mark.parametrize("order", ORDERS)
def test_words_look_random(order):
    found = [p_values(order(seed)) for seed in range(ROUNDS)]
    for name in BATTERY:
        p = np.array([one[name] for one in found])
        assert p.min() > ALPHA, name
        if ROUNDS > 1:
            # Where p-values are discrete they are larger than uniform ones.
            distance = stats.kstest(p, "uniform", alternative="greater")
            print(f"{order.__name__}, {name}: least {p.min():.2g}, distance {distance.statistic:.3f}")
            assert distance.pvalue > ALPHA, name


def test_the_sampler_draws_these_words():
    # With 256 equally likely successors, and as first states, each state is the upper byte of a word.
    mdp = MDP(np.full((256, 1, 256), 1 / 256), np.zeros(256), 0.9)
    paths = rollout(mdp, SoftmaxPolicy.uniform(mdp), n=1000, horizon=24, rng=7)
    expected = words_of(keyed(7, 1000), 25).T >> np.uint64(56)
    assert np.array_equal(paths.states, expected)


def test_streams_of_episodes_are_those_of_the_kernel():
    key = philox_key(5_000_000)
    for sample, number in ((0, 0), (0, 1), (2, 15), (2**14 - 1, 3)):
        first = words_of(np.array(stream(key, sample, number), np.uint64)[:, None], 4).ravel()
        place = 4 * (16 * sample + number)
        assert np.array_equal(perturbed(0)[place : place + 4], first)


def recursion(step, size=SIZE):
    """12345, step(12345), step(step(12345)), ... as integers below 2^64."""
    out, x = np.empty(size, np.uint64), 12345
    for i in range(size):
        out[i] = x
        x = step(x)
    return out


def congruential():
    """A linear congruential generator modulo 2^64 (Knuth's MMIX), the lowest bit first: bit k has period 2^(k+1)."""
    return reversed_bits(recursion(lambda x: (6364136223846793005 * x + 1442695040888963407) % 2**64))


def randu():
    """x' = 65539 x modulo 2^31 in the upper bits, good bits below: 9 x - 6 x' + x'' is a multiple of 2^31."""
    return recursion(lambda x: 65539 * x % 2**31) << np.uint64(33) | as_drawn(0)[:SIZE] >> np.uint64(31)


def xorshift():
    """Xorshift of 64 bits (Marsaglia 2003), whose output is its state: linear over bits."""

    def step(x):
        x ^= x << 13 & 2**64 - 1
        x ^= x >> 7
        return x ^ (x << 17 & 2**64 - 1)

    return recursion(step, size=2**18)


def not_scrambled():
    """The state of the sampler's generator as its output: 256 bits, linear over bits."""
    state, out = list(keyed(0, 1)), np.empty((2**18, 1), np.uint64)
    for row in out:
        row[:] = state[0]
        kernels.xoshiro_lanes(*state, np.empty(1, np.uint64))
    return out.ravel()


def counter():
    """0, 1, 2, ..."""
    return np.arange(SIZE, dtype=np.uint64)


def weyl():
    """Multiples of the golden section, which are too even."""
    return np.arange(SIZE, dtype=np.uint64) * kernels.WEYL[0]


def consecutive():
    """Streams that differ in one word of their state alone."""
    state = np.full((4, SIZE // 4), 0x9E3779B97F4A7C15, np.uint64)
    state[0] += np.arange(SIZE // 4, dtype=np.uint64)
    return words_of(state, 4).ravel()


def repeated():
    """Streams that come twice, far apart."""
    state = keyed(0, SIZE // 4)
    state[:, SIZE // 8 :] = state[:, : SIZE // 8]
    return words_of(state, 4).ravel()


def shared():
    """Streams that are one word ahead of their neighbour."""
    long = words_of(keyed(0, 2**12), SIZE // 2**12 + 3)
    return np.lib.stride_tricks.sliding_window_view(long.T, 4, axis=1)[:, : SIZE // 2**12].ravel()


def neighbours_alike():
    """Every other word copies its upper byte from the one before."""
    words = as_drawn(0)
    words[1::2] = words[1::2] & np.uint64(2**56 - 1) | words[::2] & ~np.uint64(2**56 - 1)
    return words


def rounded():
    """Words of 53 bits, the others 0."""
    return as_drawn(0) & ~np.uint64(2**11 - 1)


BAD = [
    (congruential, "changes at lag 2"),
    (congruential, "pairs"),
    (randu, "triples"),
    (xorshift, "rank 512"),
    (not_scrambled, "rank 512"),
    (counter, "bits"),
    (counter, "runs up"),
    (weyl, "pairs"),
    (weyl, "gaps"),
    (weyl, "orderings"),
    (consecutive, "correlation at lag 1"),
    (repeated, "collisions"),
    (shared, "collisions"),
    (neighbours_alike, "pairs of cells of 100"),
    (rounded, "bits"),
    (rounded, "weights"),
]


@pytest.mark.parametrize(("generator", "statistic"), BAD)
def test_generators_known_to_be_bad_are_rejected(generator, statistic):
    words = generator()
    assert BATTERY[statistic](words) < ALPHA


def test_each_statistic_rejects_some_generator():
    found = [p_values(weyl()), p_values(rounded()), {"rank 512": BATTERY["rank 512"](not_scrambled())}]
    assert {name for one in found for name, p in one.items() if p < ALPHA} == set(BATTERY)


def test_lanes_give_the_words_of_one_stream():
    state = keyed(0, 5)
    expected = np.empty((3, 5), np.uint64)
    for lane in range(5):
        one = state[:, lane]
        for t in range(3):
            expected[t, lane], *one = kernels.xoshiro(*map(np.uint64, one))
    assert np.array_equal(words_of(state, 3), expected)
