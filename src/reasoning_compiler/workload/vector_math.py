"""Scalar expressions that LLVM turns into vector code, where the library's functions stay scalar calls.

`exp` of the C library is called once per element: a softmax over 8 million scores then costs more than its two matrix
products. The expressions here are arithmetic only, so every schedule can vectorise and inline them. Their text is
repeated wherever an intermediate value is used twice, because TVM's FLOP estimate has no case for `Let`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reasoning_compiler.machine import import_tvm

if TYPE_CHECKING:
    from tvm.ir import Expr

MAX_EXPONENT = 88.0
"""The largest argument that `exp_below_88` may be given: just below ln(largest float32) = 88.72."""

# exp(r) on |r| <= ln(2)/2 as 1 + r + r^2 (c2 + c3 r + c4 r^2 + c5 r^3), minimax in the relative error (1.05e-7).
_C2, _C3, _C4, _C5 = 0.499992311, 0.166671142, 0.0418901555, 0.00831252057
_LOG2_E, _LN2 = 1.44269504088896341, 0.6931471805599453


def exp_below_88(x: Expr) -> Expr:
    """Returns exp(x) as float32 arithmetic, for a float32 x of at most 88.

    The relative error is below 4e-7 on [-87.3, 88] where the target fuses multiply and add, as everything since AVX2
    and NEON does; elsewhere it grows with |x|, to 5e-6 at the ends. exp(0) is exactly 1, and below -87.7, as for
    masked scores, the result is exactly 0.
    """
    tirx = import_tvm().tirx

    def f32(value: float) -> Expr:
        return tirx.const(value, "float32")

    # The constant comes first: the comparison is then false for NaN, and NaN stays.
    x = tirx.max(f32(-MAX_EXPONENT), x)
    n = tirx.nearbyint(x * f32(_LOG2_E))
    r = x - n * f32(_LN2)
    polynomial = ((((f32(_C5) * r + f32(_C4)) * r + f32(_C3)) * r + f32(_C2)) * r + f32(1.0)) * r + f32(1.0)
    # 2^n by its bits. At the clamp n is -127, whose bits are those of 0; one less would be those of -Inf.
    power = tirx.reinterpret("float32", tirx.Cast("int32", n + f32(127.0)) << 23)
    return power * polynomial


def sigmoid(x: Expr) -> Expr:
    """Returns 1 / (1 + exp(-x)) as float32 arithmetic; with the relative error of `exp_below_88` for x ≥ -88."""
    tirx = import_tvm().tirx
    one = tirx.const(1.0, "float32")
    exponent = tirx.min(tirx.const(MAX_EXPONENT, "float32"), tirx.const(0.0, "float32") - x)
    return one / (one + exp_below_88(exponent))
