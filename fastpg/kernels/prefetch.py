"""A hint to the processor, which changes no result: which cache line will be read soon."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload


def prefetch(array, i):
    """Ask for the line where array[i] begins, so that a read some instructions later need not wait for memory"""


def ask(builder, place):
    """Have the hint generated for the line at a pointer"""
    # LLVM wants the constants as such: for reading, to be kept in all caches, data.
    hints = [ir.Constant(ir.IntType(32), x) for x in (0, 3, 1)]
    place = builder.bitcast(place, cgutils.voidptr_t)
    kind = ir.FunctionType(ir.VoidType(), [place.type] + [hint.type for hint in hints])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0"), [place, *hints])


@intrinsic
def _line(_, array, i):
    def generate(context, builder, _, arguments):
        view = context.make_array(array)(context, builder, arguments[0])
        zero = ir.Constant(arguments[1].type, 0)
        place = cgutils.get_item_pointer(context, builder, array, view, [arguments[1]] + [zero] * (array.ndim - 1))
        ask(builder, place)
        return context.get_dummy_value()

    return types.void(array, i), generate


@overload(prefetch)
def _compiled(array, i):  # noqa: ARG001
    return lambda array, i: _line(array, i)
