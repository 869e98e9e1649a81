"""A short row of floats that a kernel keeps in registers, as a type of numba.

    s = load(array, at)         LANES neighbours of a flat array; int8 is widened on its way
    s = fma(a, w, s)            s + a w, lane by lane, a single number a
    store(array, at, s)

Loops over arrays are put into vector instructions by the compiler, but it leaves their sums in memory: a product then
waits for loads and stores more than for multiplications. A variable of this type is one value to the compiler, which
takes as many registers for it as it needs: four of 64 bytes for 64 lanes. Lanes never mix, so what a lane holds does
not depend on how many are taken at a time.

Read next: `decoding_kernels.py`.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core import config as untyped_config
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic as untyped_intrinsic
from numba.extending import models, register_model

config: Any = untyped_config
intrinsic: Any = untyped_intrinsic

_WIDE = "+avx512f" in (get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES)
LANES = 64 if _WIDE else 16
"""four rows of sums and the weights that they are multiplied with fit into 32 registers of 64 bytes, or 16 of 32"""
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_INTEGERS = ir.VectorType(ir.IntType(32), LANES)
_BYTES = ir.VectorType(ir.IntType(8), LANES)


class _LanesType(types.Type):
    def __init__(self) -> None:
        super().__init__(name=f"Lanes{LANES}")


@register_model(_LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _FLOATS)


_LANES = _LanesType()


def _pointer(context: Any, builder: Any, kind: Any, array: Any, at: Any, vector: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), vector.as_pointer())


@intrinsic
def load(typing: Any, array: Any, at: Any) -> Any:
    """Lanes from array[at] on; the array is flat, float32 or int8, and long enough."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        narrow = array.dtype == types.int8
        found = builder.load(_pointer(context, builder, array, values[0], values[1], _BYTES if narrow else _FLOATS))
        found.align = array.dtype.bitwidth // 8
        return builder.sitofp(builder.sext(found, _INTEGERS), _FLOATS) if narrow else found

    return _LANES(array, types.intp), generate


@intrinsic
def store(typing: Any, array: Any, at: Any, lanes: Any) -> Any:
    """Lanes to array[at] and behind; the array is flat, float32, and long enough."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        written = builder.store(values[2], _pointer(context, builder, array, values[0], values[1], _FLOATS))
        written.align = array.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(array, types.intp, _LANES), generate


@intrinsic
def fma(typing: Any, factor: Any, lanes: Any, sums: Any) -> Any:
    """sums + factor * lanes, rounded once where the processor can."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        empty = ir.Constant(_FLOATS, ir.Undefined)
        first = builder.insert_element(empty, values[0], ir.IntType(32)(0))
        spread = builder.shuffle_vector(first, empty, ir.Constant(_INTEGERS, [0] * LANES))
        kind = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f32")
        return builder.call(function, [spread, *values[1:]])

    return _LANES(types.float32, _LANES, _LANES), generate
