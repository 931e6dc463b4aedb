"""The whole product of two words, for which processors have an instruction and NumPy has none."""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload


def wide_product(x, y):
    """(high, low): x y = high 2^64 + low"""
    high, low = divmod(int(x) * int(y), 2**64)
    return np.uint64(high), np.uint64(low)


@intrinsic
def _both(_, x, y):  # noqa: ARG001
    def generate(context, builder, signature, arguments):
        single, double = ir.IntType(64), ir.IntType(128)
        whole = builder.mul(*(builder.zext(word, double) for word in arguments))
        high = builder.trunc(builder.lshr(whole, ir.Constant(double, 64)), single)
        return context.make_tuple(builder, signature.return_type, (high, builder.trunc(whole, single)))

    return types.UniTuple(types.uint64, 2)(types.uint64, types.uint64), generate


@overload(wide_product)
def _compiled(x, y):  # noqa: ARG001
    return lambda x, y: _both(x, y)
