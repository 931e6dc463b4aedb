"""Random words: Philox4x64-10 keys one xoshiro256++ stream for each trajectory.

Philox is counter-based: the state of stream i is a function of (key, i) alone, so trajectory i does not depend on
threads, chunks or lanes, and the states of different streams are as if drawn at random from 2^256: two streams of
fewer than 2^40 words overlap with a probability of less than 2^-200. Xoshiro passes the batteries of Blackman & Vigna
(2021) in all 64 bits and needs only additions, shifts and exclusive ors, which compile to vector instructions over
lanes; a word from Philox itself costs about ten times as much.
"""

import numpy as np

from fastpg.kernels import kernel
from fastpg.kernels.wide import wide_product

# Salmon, Moraes, Dror & Shaw (2011), Parallel random numbers: as easy as 1, 2, 3; table 2 and section 4.3.
MULTIPLIERS = (np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157))
WEYL = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B))
ROUNDS = 10


@kernel
def philox_round(c0, c1, c2, c3, k0, k1):
    """One of the ten rounds of `philox`"""
    high0, low0 = wide_product(MULTIPLIERS[0], c0)
    high1, low1 = wide_product(MULTIPLIERS[1], c2)
    return high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0


@kernel
def philox(c0, c1, c2, c3, k0, k1):
    """Philox4x64-10 in place: each counter (c0, c1, c2, c3)[j] becomes four words, under the key (k0, k1)"""
    for _ in range(ROUNDS):
        for j in range(c0.shape[0]):
            c0[j], c1[j], c2[j], c3[j] = philox_round(c0[j], c1[j], c2[j], c3[j], k0, k1)
        k0 += WEYL[0]
        k1 += WEYL[1]


@kernel
def streams(key, first, s0, s1, s2, s3):
    """The state of stream first + j under `key` (2,) as s0[j], s1[j], s2[j], s3[j]"""
    for j in range(s0.shape[0]):
        s0[j], s1[j], s2[j], s3[j] = np.uint64(first + j), np.uint64(0), np.uint64(0), np.uint64(0)
    philox(s0, s1, s2, s3, key[0], key[1])


@kernel
def rotated(x, k):
    """x rotated left by k bits"""
    return (x << np.uint64(k)) | (x >> np.uint64(64 - k))


@kernel
def xoshiro(s0, s1, s2, s3):
    """One word and the next state: xoshiro256++ (Blackman & Vigna 2021)"""
    word = rotated(s0 + s3, 23) + s0
    t = s1 << np.uint64(17)
    s2 ^= s0
    s3 ^= s1
    s1 ^= s2
    s0 ^= s3
    s2 ^= t
    s3 = rotated(s3, 45)
    return word, s0, s1, s2, s3


@kernel
def xoshiro_lanes(s0, s1, s2, s3, word):
    """`xoshiro` of each lane in place: word[l] is its word. A loop that compiles to vector instructions."""
    for lane in range(word.shape[0]):
        word[lane], s0[lane], s1[lane], s2[lane], s3[lane] = xoshiro(s0[lane], s1[lane], s2[lane], s3[lane])
