"""From a scheduled module to loop nests: the one place where the analysis reads TVM's IR."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from reasoning_compiler.ir.affine import Affine, Digit, read
from reasoning_compiler.ir.arithmetic import share_true
from reasoning_compiler.ir.dots import DOT, dot_named
from reasoning_compiler.ir.marks import LAID_OUT_AHEAD, PADDED
from reasoning_compiler.ir.nest import PREFETCH, Access, Loop, LoopKind, Nest, read_paddings
from reasoning_compiler.ir.walk import REDUCTION, factors, variables

_KINDS: dict[int, LoopKind] = {0: "serial", 1: "parallel", 2: "vectorized", 3: "unrolled"}
_ARITHMETIC = {"Add": 1, "Sub": 1, "Mul": 1, "Min": 1, "Max": 1, "Div": 8, "Select": 1}
_SCALAR_CALLS = {
    *("exp", "exp2", "exp10", "log", "log2", "log10", "log1p", "pow", "erf", "sigmoid", "tanh", "sinh", "cosh"),
    *("sin", "cos", "tan", "asin", "acos", "atan", "atan2"),
}
_SCALAR_CALL_FLOPS = 20


def nests(mod: Any) -> tuple[Nest, ...]:
    """Returns one nest per block of the module's function `main`, in program order.

    Best taken after the postprocessors, when loops say whether they are parallel or vectorized. Blocks that lay
    out weights ahead of time are left out. Index expressions are read as sums of loops, see `affine`.
    """
    main = mod["main"]
    walk = _Walk({str(p.name) for p in main.params})
    walk.visit(main.body, _Scope())
    return _with_sharing(walk.found)


@dataclass(frozen=True)
class _Scope:
    loops: tuple[Loop, ...] = ()
    variables: Mapping[Any, Affine] = field(default_factory=dict)  # of the loops
    unroll_limit: int = 0
    share: float = 1.0


class _Buffer(NamedTuple):
    """What is read of a buffer once, however many blocks touch it; see `Access`."""

    name: str
    shape: tuple[int, ...]
    item_bytes: int
    in_registers: bool


class _Walk:
    def __init__(self, arguments: set[str]) -> None:
        self.arguments = arguments
        self.found: list[Nest] = []
        self._ids = 0
        self._buffers: dict[Any, _Buffer] = {}

    def visit(self, stmt: Any, scope: _Scope) -> None:
        kind = type(stmt).__name__
        if kind == "For":
            self._ids += 1
            extent = _extent(stmt.extent)
            limit = stmt.annotations.get("pragma_auto_unroll_max_step")
            loop = Loop(str(stmt.loop_var.name), extent, _KINDS.get(int(stmt.kind), "serial"), id=self._ids)
            inner = _Scope(
                (*scope.loops, loop),
                {**scope.variables, stmt.loop_var: Affine(0.0, {Digit(len(scope.loops), 1, extent): 1.0})},
                scope.unroll_limit if limit is None else int(limit),
                scope.share,
            )
            self.visit(stmt.body, inner)
        elif kind == "SBlockRealize":
            self._block(stmt, scope)
        elif kind == "SeqStmt":
            for part in stmt.seq[:]:  # going through TVM's array itself takes three times as long
                self.visit(part, scope)
        elif kind == "IfThenElse":
            extents = {v: loop.extent for v, loop in zip(scope.variables, scope.loops, strict=True)}
            share = share_true(stmt.condition, extents)
            self.visit(stmt.then_case, replace(scope, share=scope.share * share))
            if stmt.else_case is not None:
                self.visit(stmt.else_case, replace(scope, share=scope.share * (1.0 - share)))
        elif hasattr(stmt, "body"):
            self.visit(stmt.body, scope)

    def _block(self, realize: Any, scope: _Scope) -> None:
        block = realize.block
        if LAID_OUT_AHEAD in block.annotations:
            self.arguments |= {str(region.source.name) for region in block.writes[:]}  # they will be arguments
            return
        if not scope.loops and not block.iter_vars:
            self.visit(block.body, scope)
            return
        bound = dict(scope.variables)
        reducing: set[int] = set()
        for iter_var, value in zip(block.iter_vars[:], realize.iter_values[:], strict=True):
            index = read(value, scope.variables)
            bound[iter_var.var] = index
            if int(iter_var.iter_type) == REDUCTION:
                reducing |= index.loops
        loops = tuple(replace(loop, reduces=True) if i in reducing else loop for i, loop in enumerate(scope.loops))
        flops, calls = _work(block)
        tiling = block.annotations.get("meta_schedule.tiling_structure")
        nest = Nest(
            str(block.name_hint),
            loops,
            self._accesses(block, bound, len(loops)),
            float(flops),
            calls,
            scope.unroll_limit,
            str(tiling) if tiling is not None else "",
            int(block.annotations.get(PREFETCH, 0)),
            scope.share,
            _dtypes(block),
            padded=read_paddings(str(block.annotations.get(PADDED, "[]"))),
        )
        marked = DOT in block.annotations and nest.dtypes
        self.found.append(nest.by_dots(dot_named(str(block.annotations[DOT]))) if marked else nest)

    def _accesses(self, block: Any, bound: dict[Any, Affine], num_loops: int) -> tuple[Access, ...]:
        regions = [(r, True) for r in block.writes[:]]
        written = {str(region.source.name) for region, _ in regions}
        accesses = []
        regions += [(r, False) for r in block.reads[:] if str(r.source.name) not in written]
        for region, writes in regions:
            buffer = self._buffer(region.source)
            steps, sizes, selected = [], [], False
            for part, size in zip(region.region[:], buffer.shape, strict=True):
                first = part.min
                steps.append(_read_index(first, bound, size).steps(num_loops))
                sizes.append(_extent(part.extent))
                selected = selected or type(first).__name__ == "TensorLoad"
            accesses.append(
                Access(
                    buffer.name,
                    buffer.shape,
                    buffer.item_bytes,
                    tuple(steps),
                    tuple(sizes),
                    writes,
                    external=buffer.name in self.arguments,
                    in_registers=buffer.in_registers,
                    selected=selected,
                )
            )
        return tuple(accesses)

    def _buffer(self, source: Any) -> _Buffer:
        buffer = self._buffers.get(source)
        if buffer is None:
            shape = tuple(_extent(size) for size in source.shape[:])
            buffer = _Buffer(str(source.name), shape, item_bytes(str(source.dtype)), str(source.scope()) == "local")
            self._buffers[source] = buffer
        return buffer


def _read_index(expr: Any, bound: dict[Any, Affine], size: int) -> Affine:
    """Returns an index as a sum of loops.

    One that is read from memory, as the expert that rows go to, is taken to ascend there, evenly over all values that
    it may have: so rows that follow one another share what it selects, where there are fewer values than indices.

    Args:
        expr: the index.
        bound: what its variables stand for.
        size: of the dimension.
    """
    index = read(expr, bound)
    if type(expr).__name__ != "TensorLoad":
        return index
    places = math.prod(_extent(extent) for extent in expr.source.shape[:])
    return index.times(min(1.0, size / places))


def _with_sharing(found: list[Nest]) -> tuple[Nest, ...]:
    """Returns the nests with `Access.shared` filled in: the loops that the makers and users of a buffer share."""
    touching: dict[str, list[int]] = {}
    for index, nest in enumerate(found):
        for access in nest.accesses:
            touching.setdefault(access.buffer, []).append(index)
    result = []
    for index, nest in enumerate(found):
        accesses = []
        for access in nest.accesses:
            others = [i for i in touching[access.buffer] if (i > index if access.external else i != index)]
            shared = max((_common(nest, found[i]) for i in others), default=0)
            accesses.append(replace(access, shared=shared) if shared else access)
        result.append(replace(nest, accesses=tuple(accesses)))
    return tuple(result)


def _common(a: Nest, b: Nest) -> int:
    count = 0
    for left, right in zip(a.loops, b.loops, strict=False):
        if left.id != right.id:
            break
        count += 1
    return count


def _work(block: Any) -> tuple[float, int]:
    """Returns floating-point operations and calls of scalar functions of one execution of a block.

    A condition that nothing which is summed over changes counts as nothing: it is decided outside the sums.
    """
    if len(block.match_buffers) == 3:  # a tensor intrinsic: opaque, but all that MetaSchedule knows multiply matrices
        sizes = [math.prod(_extent(r.extent) for r in match.source.region) for match in block.match_buffers]
        return 2 * math.sqrt(math.prod(sizes)), 0  # m·n, m·k and k·n elements make m·n·k multiply-adds
    flops: float = 0
    calls = 0
    reducing = {each.var for each in block.iter_vars[:] if int(each.iter_type) == REDUCTION}
    stack = [(block.body, 1)]
    while stack:
        node, times = stack.pop()
        kind = type(node).__name__
        inside: list[Any] = []
        if kind == "BufferStore" or kind == "Cast":
            inside = [node.value]
        elif kind == "SeqStmt":
            inside = node.seq[:]
        elif kind == "For":
            inside, times = [node.body], times * _extent(node.extent)
        elif kind == "SBlockRealize":
            inside = [node.block.body]
        elif kind == "IfThenElse":
            inside = [node.then_case] + ([] if node.else_case is None else [node.else_case])
        elif kind == "Call":
            name = str(getattr(node.op, "name", "")).rsplit(".", 1)[-1]
            if name in _SCALAR_CALLS:
                flops, calls = flops + _SCALAR_CALL_FLOPS * times, calls + times
            elif not (name == "if_then_else" and reducing and reducing.isdisjoint(variables(node.args[0]))):
                flops += times
            inside = [a for a in node.args if hasattr(a, "ty") or hasattr(a, "dtype")]
        elif kind == "Select":
            flops += times
            inside = [node.true_value, node.false_value]
        elif hasattr(node, "a") and hasattr(node, "b"):
            flops += _ARITHMETIC.get(kind, 0) * times
            inside = [node.a, node.b]
        elif hasattr(node, "body"):
            inside = [node.body]
        stack.extend((part, times) for part in inside)
    return flops, calls


def _dtypes(block: Any) -> tuple[str, ...]:
    """Returns the types of the two buffers whose product a block sums up and of the sums; nothing for other blocks."""
    loads = factors(block)
    return () if loads is None else tuple(str(x.dtype) for x in (*(y.source for y in loads), block.writes[0].source))


def _extent(expr: Any) -> int:
    """Returns a constant's value; 1 for what is not known."""
    return int(expr.value) if type(expr).__name__ == "IntImm" else 1


def buffer_bytes(buffer: Any) -> int:
    """Returns the bytes of a buffer of fixed shape."""
    return math.prod(int(extent) for extent in buffer.shape) * item_bytes(str(buffer.dtype))


def item_bytes(dtype: str) -> int:
    """Returns the bytes of an element, at least one."""
    bits = re.search(r"\d+", dtype)
    return max(1, int(bits.group()) // 8) if bits else 1
