"""The exponential of many numbers at once: unlike a call of libm, the compiler can make vector instructions of it."""

from math import factorial

import numpy as np

from fastpg.kernels import kernel

LOG2_E = 1.4426950408889634
# ln 2 in two parts; the first has so few bits that its products with exponents are exact   (Cody & Waite 1980)
LN2_HIGH, LN2_LOW = 0.6931471803691238, 1.9082149292705877e-10
# Added to an integer it shifts its bits to the end of a double.
SHIFT = 1.5 * 2.0**52
# 1/2!, 1/3!, ..., 1/13!
C2, C3, C4, C5, C6, C7, C8, C9, C10, C11, C12, C13 = (1 / factorial(n) for n in range(2, 14))


@kernel
def exponential(power, out):
    """out[n] = exp(out[n]) for out[n] <= 0, within an ulp; -inf gives 0, nan stays. `power` (2, N) is scratch.

    exp(x) = 2^k exp(r) with k the integer nearest x / ln 2 and the Taylor polynomial of degree 13 for |r| <= 0.35. The
    power is the product of two normal ones, so that results may be subnormal.
    """
    bits = power.view(np.int64)
    for n in range(out.size):
        x = -800.0 if out[n] < -800.0 else out[n]
        k = np.floor(x * LOG2_E + 0.5)
        high = -1000.0 if k < -1000.0 else k
        power[0, n] = high + (SHIFT + 1023.0)
        power[1, n] = (k - high) + (SHIFT + 1023.0)
        r = (x - k * LN2_HIGH) - k * LN2_LOW
        p = C9 + r * (C10 + r * (C11 + r * (C12 + r * C13)))
        p = C4 + r * (C5 + r * (C6 + r * (C7 + r * (C8 + r * p))))
        out[n] = 1.0 + (r + r * r * (C2 + r * (C3 + r * p)))
    for n in range(out.size):
        bits[0, n] <<= 52
        bits[1, n] <<= 52
    for n in range(out.size):
        out[n] = out[n] * power[0, n] * power[1, n]
