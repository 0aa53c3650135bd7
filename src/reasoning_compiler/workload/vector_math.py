"""Scalar expressions that LLVM turns into vector code, where the library's functions stay scalar calls.

`exp` of the C library is called once per element: a softmax over 8 million scores then costs more than its two matrix
products. The expressions here are arithmetic only, so every schedule can vectorise and inline them. Their text is
repeated wherever an intermediate value is used twice, because TVM's FLOP estimate has no case for `Let`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from reasoning_compiler.machine import import_tvm

if TYPE_CHECKING:
    from tvm.ir import Expr

MAX_EXPONENT = 88.0
"""The largest argument that `exp_below_88` may be given: just below ln(largest float32) = 88.72."""

# exp(r) on |r| <= ln(2)/2 as 1 + r + r^2 (c2 + c3 r + c4 r^2 + c5 r^3), minimax in the relative error (1.05e-7).
_C2, _C3, _C4, _C5 = 0.499992311, 0.166671142, 0.0418901555, 0.00831252057
_INFINITE_ABOVE = 89.0
_TANH_LIMIT = 7.90531110763549805
_TANH_OVER = (
    *(-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08),
    *(1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03),
)
_TANH_UNDER = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)
_ERF_LIMIT = 4.0
_ERF_OVER = (
    *(-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05),
    *(-7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02),
)
_ERF_UNDER = (
    *(-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03),
    *(-7.37332916720468e-03, -1.42647390514189e-02),
)
_LOG2_E, _LN2 = 1.44269504088896341, 0.6931471805599453


def exp_below_88(x: Expr) -> Expr:
    """Returns exp(x) as float32 arithmetic, for a float32 x of at most 88.

    The relative error is below 4e-7 on [-87.3, 88] where the target fuses multiply and add, as everything since AVX2
    and NEON does; elsewhere it grows with |x|, to 5e-6 at the ends. exp(0) is exactly 1, and below -87.7, as for
    masked scores, the result is exactly 0.
    """
    tirx = import_tvm().tirx
    # The constant comes first: the comparison is then false for NaN, and NaN stays.
    n, polynomial = _split_exp(tirx.max(_f32(-MAX_EXPONENT), x))
    return _power_of_2(n) * polynomial


def exp(x: Expr) -> Expr:
    """Returns exp(x) as float32 arithmetic for any float32 x.

    The relative error is that of `exp_below_88`. Above 88.73 the result is infinite; below -87.7, where that of the C
    library is no normal number, it is 0. NaN stays.
    """
    tirx = import_tvm().tirx
    x = tirx.min(_f32(_INFINITE_ABOVE), x)
    n, polynomial = _split_exp(tirx.max(_f32(-MAX_EXPONENT), x))
    # 2^128 is no float32, though its product with a polynomial below 1 is one.
    rest = tirx.Select(n > _f32(127.0), _f32(2.0), _f32(1.0))
    return _power_of_2(tirx.min(n, _f32(127.0))) * polynomial * rest


def sigmoid(x: Expr) -> Expr:
    """Returns 1 / (1 + exp(-x)) as float32 arithmetic; with the relative error of `exp_below_88` for x ≥ -88."""
    tirx = import_tvm().tirx
    one = tirx.const(1.0, "float32")
    exponent = tirx.min(tirx.const(MAX_EXPONENT, "float32"), tirx.const(0.0, "float32") - x)
    return one / (one + exp_below_88(exponent))


def tanh(x: Expr) -> Expr:
    """Returns tanh(x) as float32 arithmetic, a quotient of polynomials (those of Eigen); relative error below 5e-7."""
    return _odd_quotient(x, _TANH_LIMIT, _TANH_OVER, _TANH_UNDER)


def erf(x: Expr) -> Expr:
    """Returns erf(x) as float32 arithmetic, a quotient of polynomials (those of Eigen); relative error below 5e-7."""
    return _odd_quotient(x, _ERF_LIMIT, _ERF_OVER, _ERF_UNDER)


def _split_exp(x: Expr) -> tuple[Expr, Expr]:
    """Returns n and p with exp(x) = 2^n p, p around 1."""
    tirx = import_tvm().tirx
    n = tirx.nearbyint(x * _f32(_LOG2_E))
    r = x - n * _f32(_LN2)
    return n, ((((_f32(_C5) * r + _f32(_C4)) * r + _f32(_C3)) * r + _f32(_C2)) * r + _f32(1.0)) * r + _f32(1.0)


def _power_of_2(n: Expr) -> Expr:
    """Returns 2^n by its bits, 0 for n = -127; one less would be those of -Inf."""
    tirx = import_tvm().tirx
    return tirx.reinterpret("float32", tirx.Cast("int32", n + _f32(127.0)) << 23)


def _odd_quotient(x: Expr, limit: float, over: Sequence[float], under: Sequence[float]) -> Expr:
    """Returns x P(x^2) / Q(x^2) for x within the limit, and its value there beyond; coefficients highest first."""
    tirx = import_tvm().tirx
    x = tirx.max(_f32(-limit), tirx.min(_f32(limit), x))
    square = x * x

    def polynomial(coefficients: Sequence[float]) -> Expr:
        return functools.reduce(lambda sum_, c: sum_ * square + _f32(c), coefficients[1:], _f32(coefficients[0]))

    return x * polynomial(over) / polynomial(under)


def _f32(value: float) -> Expr:
    return import_tvm().tirx.const(value, "float32")
