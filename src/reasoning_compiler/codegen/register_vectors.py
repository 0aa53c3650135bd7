"""Vectors of one register each, whatever extent a loop is vectorized by.

TVM makes one vector of a vectorized loop. LLVM cuts those of 32 or 64 floats into registers, and breaks those of 28 or
48 into scalars. Here each statement in such a loop gets as many vectors of one register as its extent holds, and for
what remains narrower ones, each of half as many lanes as the one before, down to a scalar:

    for k: for j (vectorized, 27): C[j] += A[k] * B[k, j]
    for k:
        for jo (unrolled, 3): for ji (vectorized, 8): C[8 * jo + ji] += A[k] * B[k, 8 * jo + ji]
        for ji (vectorized, 2): C[24 + ji] += A[k] * B[k, 24 + ji]
        C[26] += A[k] * B[k, 26]

A register holds as many elements as it does of the widest type in the statement. No vector crosses the end of a row
where several loops have been fused to one, as where `j` comes as `j // 12` and `j % 12`. Where a condition depends on
the loop, a vector is computed at once if it holds for all of its lanes, and lane by lane otherwise. A statement that
TVM makes no vectors of, as one with `nearbyint`, stays one loop, which LLVM vectorizes itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from reasoning_compiler.ir.walk import mapped, parts_in, variables, with_body
from reasoning_compiler.machine.targets import target_vector_unit
from reasoning_compiler.machine.toolchain import import_tvm

_MAX_UNROLLED = 32  # vectors of one statement: no CPU has more registers
_COMPARISONS = ("LT", "LE", "GT", "GE", "EQ")
_VECTORIZABLE = "TVectorizable"  # TVM's attribute of operators
_NATIVE_HALVES = ("avx512fp16", "fullfp16")


class _Registers(NamedTuple):
    """A target's vector registers: their bytes, and whether they compute in float16 without widening it."""

    num_bytes: int
    halves: bool


class _Lanes(NamedTuple):
    """A vectorized loop: its variable, first value, and number of iterations."""

    variable: Any
    first: Any
    extent: int


def with_register_vectors(func: Any) -> Any:
    """Returns a PrimFunc whose vectorized loops have one register's lanes each, or fewer.

    Variables and buffers may be defined several times in the result (`ConvertSSA`).

    Args:
        func: with a target, its buffers flat.
    """
    from tvm.target.codegen import llvm_get_cpu_features

    tvm = import_tvm()
    target = func.attrs["target"]
    features = {str(name) for name in llvm_get_cpu_features(target)}
    registers = _Registers(target_vector_unit(target).vector_bytes, not features.isdisjoint(_NATIVE_HALVES))

    def in_registers(loop: Any) -> Any:
        if int(loop.kind) != int(tvm.tirx.ForKind.VECTORIZED) or not isinstance(loop.extent, tvm.tirx.IntImm):
            return loop
        return _split(loop.body, _Lanes(loop.loop_var, loop.min, int(loop.extent)), registers)

    return func.with_body(mapped(func.body, tvm.tirx.For, in_registers))


def _split(stmt: Any, lanes: _Lanes, registers: _Registers) -> Any:
    """Returns what a loop around a statement comes to: the statements in it each get vectors of their own."""
    tvm = import_tvm()
    kind = type(stmt).__name__
    if kind == "SeqStmt" and all(type(part).__name__ not in ("AllocBuffer", "DeclBuffer", "Bind") for part in stmt.seq):
        return tvm.tirx.SeqStmt([_split(part, lanes, registers) for part in stmt.seq])
    if kind == "For" and not _uses(stmt.extent, lanes.variable) and not _uses(stmt.min, lanes.variable):
        return with_body(stmt, _split(stmt.body, lanes, registers))
    if kind == "IfThenElse" and not _uses(stmt.condition, lanes.variable):
        otherwise = _split(stmt.else_case, lanes, registers) if stmt.else_case is not None else None
        return tvm.tirx.IfThenElse(stmt.condition, _split(stmt.then_case, lanes, registers), otherwise)
    return _vectors(stmt, lanes, registers)


def _vectors(stmt: Any, lanes: _Lanes, registers: _Registers) -> Any:
    """Returns the vectors of a statement, row by row."""
    if _has_no_vectors(stmt, lanes.variable):
        return import_tvm().tirx.For(lanes.variable, lanes.first, lanes.extent, import_tvm().tirx.ForKind.SERIAL, stmt)
    row, full = _row(stmt, lanes), _full_lanes(stmt, registers)

    def in_row(first: Any) -> Any:
        whole, rest = divmod(row, full)
        parts = [_repeated(whole, lanes, lambda part: _vector(stmt, lanes, first + part * full, full))] if whole else []
        start = whole * full
        while rest:
            width = 1 << (rest.bit_length() - 1)
            parts.append(_vector(stmt, lanes, first + start, width))
            start, rest = start + width, rest - width
        return import_tvm().tirx.SeqStmt(parts) if len(parts) > 1 else parts[0]

    return _repeated(lanes.extent // row, lanes, lambda number: in_row(lanes.first + number * row))


def _repeated(times: int, lanes: _Lanes, body: Callable[[Any], Any]) -> Any:
    """Returns a statement for each number below `times`, unrolled where these are not too many."""
    tvm = import_tvm()
    if times == 1:
        return body(tvm.tirx.const(0, _dtype(lanes.variable)))
    number = _fresh(lanes.variable)
    kind = tvm.tirx.ForKind.UNROLLED if times <= _MAX_UNROLLED else tvm.tirx.ForKind.SERIAL
    return tvm.tirx.For(number, tvm.tirx.const(0, _dtype(number)), times, kind, body(number))


def _vector(stmt: Any, lanes: _Lanes, start: Any, width: int) -> Any:
    """Returns a statement for some lanes at once."""
    tvm = import_tvm()

    def looped(body: Any, kind: Any) -> Any:
        lane = _fresh(lanes.variable)
        zero = tvm.tirx.const(0, _dtype(lane))
        return tvm.tirx.For(lane, zero, width, kind, _at(body, lanes.variable, start + lane))

    if width == 1:
        return _at(stmt, lanes.variable, start)
    if type(stmt).__name__ == "IfThenElse":
        ends = (_at(stmt.condition, lanes.variable, start + offset) for offset in (0, width - 1))
        at_once = looped(stmt.then_case, tvm.tirx.ForKind.VECTORIZED)
        return tvm.tirx.IfThenElse(tvm.tirx.all(*ends), at_once, looped(stmt, tvm.tirx.ForKind.SERIAL))
    return looped(stmt, tvm.tirx.ForKind.VECTORIZED)


def _has_no_vectors(stmt: Any, variable: Any) -> bool:
    """Tells whether TVM's `VectorizeLoop` would make a serial loop around a statement."""
    if type(stmt).__name__ == "IfThenElse" and (stmt.else_case is not None or not _is_convex(stmt.condition, variable)):
        return True
    calls = parts_in(stmt, import_tvm().ir.Call)
    return any(_uses(call, variable) and not _has_vectors(call, variable) for call in calls)


def _has_vectors(call: Any, variable: Any) -> bool:
    name = str(getattr(call.op, "name", "")).rpartition(".")[2]
    if name == "if_then_else":
        return not _uses(call.args[0], variable)
    return name == "reinterpret" or bool(call.op.get_attr(_VECTORIZABLE))


def _full_lanes(stmt: Any, registers: _Registers) -> int:
    """Returns how many elements of the widest type in a statement a register holds."""
    dtypes = {str(value.ty.dtype) for value in _values(stmt)}
    return max(1, registers.num_bytes // max((_item_bytes(dtype, registers) for dtype in dtypes), default=4))


def _item_bytes(dtype: str, registers: _Registers) -> int:
    is_widened = dtype == "float16" and not registers.halves
    return 4 if is_widened else max(1, import_tvm().DataType(dtype).bits // 8)


def _values(stmt: Any) -> list[Any]:
    """Returns all expressions that a statement computes with: what it stores, and parts of that, but no indices."""
    tvm = import_tvm()
    import tvm_ffi

    found: list[Any] = []

    def note(expr: Any) -> Any:
        if hasattr(expr, "ty") and hasattr(expr.ty, "dtype"):
            found.append(expr)
        return tvm_ffi.WalkResult.SKIP if isinstance(expr, tvm.ir.TensorLoad) else tvm_ffi.WalkResult.ADVANCE

    for store in parts_in(stmt, tvm.tirx.BufferStore):
        tvm_ffi.structural_walk(store.value, (tvm.ir.Expr, note), order="pre")
    return found


def _row(stmt: Any, lanes: _Lanes) -> int:
    """Returns after how many iterations an index of a statement begins a new row; the loop's extent if none does."""
    tvm = import_tvm()
    rows = [
        int(division.b)
        for division in parts_in(stmt, tvm.tirx.FloorDiv, tvm.tirx.FloorMod)
        if isinstance(division.b, tvm.tirx.IntImm) and _uses(division.a, lanes.variable)
    ]
    return min((row for row in rows if row > 1 and lanes.extent % row == 0), default=lanes.extent)


def _is_convex(condition: Any, variable: Any) -> bool:
    """Tells whether a condition that holds for two values of a variable holds for all between them."""
    kind = type(condition).__name__
    if kind == "And":
        return _is_convex(condition.a, variable) and _is_convex(condition.b, variable)
    linear = import_tvm().sym.detect_linear_equation
    return kind in _COMPARISONS and len(linear(condition.a - condition.b, [variable])) > 0


def _at(node: Any, variable: Any, value: Any) -> Any:
    return mapped(node, import_tvm().tirx.Var, lambda v: value if v.same_as(variable) else v)


def _uses(expr: Any, variable: Any) -> bool:
    return any(used.same_as(variable) for used in variables(expr))


def _fresh(variable: Any) -> Any:
    return import_tvm().tirx.Var(variable.name, _dtype(variable))


def _dtype(variable: Any) -> str:
    return str(variable.ty.dtype)
