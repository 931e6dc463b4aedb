"""x . y as the processor's vector instructions add it up; Numba makes none of a sum, whose order it keeps."""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from fastpg.kernels.prefetch import ask

# Sums side by side: four vectors of eight floats, on any processor, so that all of them round alike. Rows of 100 and
# 500 states took 28% and 42% of the time of sixteen sums of floats.
LANES, VECTORS = 8, 4
# Numbers of x that are asked for ahead, of the next row where x is a row: rows of 2000 states were read from memory at
# 37 GB/s on one core, without at 28; rows from a cache took as long as without.
AHEAD = 1024


def dot(x, y):
    """sum_k x(k) y(k)"""
    return np.dot(x, y)


def _sum(builder, parts):
    while len(parts) > 1:
        parts = [builder.fadd(*pair) for pair in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


@intrinsic
def _side_by_side(_, x, y):
    def generate(context, builder, signature, arguments):
        number, half = ir.DoubleType(), ir.IntType(32)
        vector = ir.VectorType(number, LANES)
        arrays = zip(signature.args, arguments, strict=True)
        views = [context.make_array(kind)(context, builder, array) for kind, array in arrays]
        n = builder.extract_value(views[0].shape, 0)
        index = lambda i: ir.Constant(n.type, i)  # noqa: E731
        sums = [cgutils.alloca_once_value(builder, ir.Constant(vector, [0.0] * LANES)) for _ in range(VECTORS)]

        def add(k, kind, into):
            places = [builder.bitcast(builder.gep(view.data, [k]), kind.as_pointer()) for view in views]
            product = builder.fmul(*(builder.load(place, align=8) for place in places))
            builder.store(builder.fadd(builder.load(into), product), into)

        begin = index(0)
        for several in (VECTORS, 1):
            end = builder.sub(n, builder.urem(n, index(several * LANES)))
            with cgutils.for_range_slice(builder, begin, end, index(several * LANES), n.type) as (k, _):
                for i in range(several):
                    ask(builder, builder.gep(views[0].data, [builder.add(k, index(i * LANES + AHEAD))]))
                    add(builder.add(k, index(i * LANES)), vector, sums[i])
            begin = end
        lanes = _sum(builder, [builder.load(x) for x in sums])
        parts = [builder.extract_element(lanes, ir.Constant(half, i)) for i in range(LANES)]
        total = cgutils.alloca_once_value(builder, _sum(builder, parts))
        with cgutils.for_range_slice(builder, begin, n, index(1), n.type) as (k, _):
            add(k, number, total)
        return builder.load(total)

    return types.float64(x, y), generate


@overload(dot)
def _compiled(x, y):
    contiguous = all(isinstance(z, types.Array) and z.ndim == 1 and z.layout == "C" for z in (x, y))
    return (lambda x, y: _side_by_side(x, y)) if contiguous else None
