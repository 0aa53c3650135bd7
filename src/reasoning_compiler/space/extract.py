"""From a scheduled module to loop nests: the one place where the analysis reads TVM's IR."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from reasoning_compiler.space.nest import Access, Loop, LoopKind, Nest

_KINDS: dict[int, LoopKind] = {0: "serial", 1: "parallel", 2: "vectorized", 3: "unrolled"}
_ARITHMETIC = {"Add": 1, "Sub": 1, "Mul": 1, "Min": 1, "Max": 1, "Div": 8, "Select": 1}
_DEFAULT_UNROLL = 8  # TVM unrolls loops of at most this many iterations in bodies that carry no pragma


@dataclass(frozen=True)
class _Affine:
    """A constant plus a coefficient for each loop, by the loop's index."""

    const: float = 0.0
    steps: dict[int, float] = field(default_factory=dict)

    def plus(self, other: _Affine, sign: int = 1) -> _Affine:
        steps = dict(self.steps)
        for loop, step in other.steps.items():
            steps[loop] = steps.get(loop, 0.0) + sign * step
        return _Affine(self.const + sign * other.const, {k: v for k, v in steps.items() if v})

    def times(self, factor: float) -> _Affine:
        return _Affine(self.const * factor, {k: v * factor for k, v in self.steps.items() if v * factor})


def nests(mod: Any) -> tuple[Nest, ...]:
    """Returns one nest per block of the module's function `main`, in program order.

    Best taken after the postprocessors, when loops say whether they are parallel or vectorized. Blocks that lay
    out weights ahead of time are left out. Index expressions are read as sums of loops; exact divisions and
    remainders by constants are resolved, others become fractional steps.
    """
    walk = _Walk({str(p.name) for p in mod["main"].params})
    walk.visit(mod["main"].body, _Scope())
    return _with_sharing(walk.found)


@dataclass(frozen=True)
class _Scope:
    loops: tuple[Loop, ...] = ()
    variables: tuple[Any, ...] = ()
    unroll_limit: int = 0


class _Walk:
    def __init__(self, arguments: set[str]) -> None:
        self.arguments = arguments
        self.found: list[Nest] = []
        self._ids = 0

    def visit(self, stmt: Any, scope: _Scope) -> None:
        kind = type(stmt).__name__
        if kind == "For":
            self._ids += 1
            extent = int(stmt.extent) if type(stmt.extent).__name__ == "IntImm" else 1
            limit = stmt.annotations.get("pragma_auto_unroll_max_step")
            loop = Loop(str(stmt.loop_var.name), extent, _KINDS.get(int(stmt.kind), "serial"), id=self._ids)
            inner = _Scope(
                (*scope.loops, loop),
                (*scope.variables, stmt.loop_var),
                scope.unroll_limit if limit is None else int(limit),
            )
            self.visit(stmt.body, inner)
        elif kind == "SBlockRealize":
            self._block(stmt, scope)
        elif kind == "SeqStmt":
            for part in stmt.seq:
                self.visit(part, scope)
        elif kind == "IfThenElse":
            self.visit(stmt.then_case, scope)
            if stmt.else_case is not None:
                self.visit(stmt.else_case, scope)
        elif hasattr(stmt, "body"):
            self.visit(stmt.body, scope)

    def _block(self, realize: Any, scope: _Scope) -> None:
        block = realize.block
        if "meta_schedule.layout_rewrite_preproc" in block.annotations:
            return
        if not scope.loops and not list(block.iter_vars):
            self.visit(block.body, scope)
            return
        extents = {i: loop.extent for i, loop in enumerate(scope.loops)}
        names = {var: _Affine(0.0, {i: 1.0}) for i, var in enumerate(scope.variables)}
        bound = dict(names)
        reducing: set[int] = set()
        for iter_var, value in zip(block.iter_vars, realize.iter_values, strict=True):
            affine = _affine(value, names, extents)
            bound[iter_var.var] = affine
            if int(iter_var.iter_type) == 2:  # a reduction, in TVM's IterVarType
                reducing |= set(affine.steps)
        loops = tuple(replace(loop, reduces=i in reducing) for i, loop in enumerate(scope.loops))
        flops, calls = _work(block.body)
        tiling = block.annotations.get("meta_schedule.tiling_structure")
        self.found.append(
            Nest(
                str(block.name_hint),
                loops,
                self._accesses(block, bound, extents, len(loops)),
                float(flops),
                calls,
                scope.unroll_limit,
                str(tiling) if tiling is not None else "",
            )
        )

    def _accesses(
        self, block: Any, bound: dict[Any, _Affine], extents: dict[int, int], num_loops: int
    ) -> tuple[Access, ...]:
        written = {str(region.source.name) for region in block.writes}
        accesses = []
        regions = [(r, True) for r in block.writes]
        regions += [(r, False) for r in block.reads if str(r.source.name) not in written]
        for region, writes in regions:
            buffer = region.source
            steps, sizes = [], []
            for part in region.region:
                affine = _affine(part.min, bound, extents)
                steps.append(tuple(affine.steps.get(i, 0.0) for i in range(num_loops)))
                sizes.append(int(part.extent) if type(part.extent).__name__ == "IntImm" else 1)
            name = str(buffer.name)
            accesses.append(
                Access(
                    name,
                    tuple(int(s) if type(s).__name__ == "IntImm" else 1 for s in buffer.shape),
                    _item_bytes(str(buffer.dtype)),
                    tuple(steps),
                    tuple(sizes),
                    writes,
                    external=name in self.arguments,
                )
            )
        return tuple(accesses)


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
            others = [found[i] for i in touching[access.buffer] if i != index]
            shared = max((_common(nest, other) for other in others), default=0)
            accesses.append(replace(access, shared=0 if access.external else shared))
        result.append(replace(nest, accesses=tuple(accesses)))
    return tuple(result)


def _common(a: Nest, b: Nest) -> int:
    count = 0
    for left, right in zip(a.loops, b.loops, strict=False):
        if left.id != right.id:
            break
        count += 1
    return count


def _affine(expr: Any, names: dict[Any, _Affine], extents: dict[int, int]) -> _Affine:
    """Returns an index expression as a sum of loops; what cannot be one counts as a constant 0."""
    kind = type(expr).__name__
    if kind == "IntImm":
        return _Affine(float(expr.value))
    if kind == "Var":
        return names.get(expr, _Affine())
    if kind in ("Add", "Sub"):
        sign = 1 if kind == "Add" else -1
        return _affine(expr.a, names, extents).plus(_affine(expr.b, names, extents), sign)
    if kind == "Mul":
        left, right = _affine(expr.a, names, extents), _affine(expr.b, names, extents)
        return left.times(right.const) if not right.steps else right.times(left.const)
    if kind == "Cast":
        return _affine(expr.value, names, extents)
    if kind in ("FloorDiv", "Div", "FloorMod", "Mod"):
        inner, by = _affine(expr.a, names, extents), _affine(expr.b, names, extents).const
        if by <= 0:
            return _Affine()
        return _floor_mod(inner, by) if kind.endswith("Mod") else _floor_div(inner, by, extents)
    if kind in ("Min", "Max"):
        return _affine(expr.a, names, extents)
    return _Affine()


def _floor_mod(inner: _Affine, by: float) -> _Affine:
    return _Affine(inner.const % by, {k: v for k, v in inner.steps.items() if v % by})


def _floor_div(inner: _Affine, by: float, extents: dict[int, int]) -> _Affine:
    whole = {k: v / by for k, v in inner.steps.items() if v % by == 0}
    rest = {k: v for k, v in inner.steps.items() if v % by}
    if sum(abs(v) * (extents[k] - 1) for k, v in rest.items()) >= by:
        whole |= {k: v / by for k, v in rest.items()}
    return _Affine(math.floor(inner.const / by), whole)


def _work(body: Any) -> tuple[int, int]:
    """Returns floating-point operations and calls of scalar functions in a block's body, per iteration."""
    flops = calls = 0
    stack = [body]
    while stack:
        node = stack.pop()
        kind = type(node).__name__
        if kind == "BufferStore":
            stack.append(node.value)
        elif kind in ("SeqStmt",):
            stack.extend(node.seq)
        elif kind == "IfThenElse":
            stack.extend([node.then_case] + ([] if node.else_case is None else [node.else_case]))
        elif kind == "Call":
            name = str(getattr(node.op, "name", ""))
            if name.rsplit(".", 1)[-1] in ("exp", "tanh", "log", "pow", "erf", "sigmoid", "sin", "cos"):
                flops, calls = flops + 20, calls + 1
            else:
                flops += 1
            stack.extend(a for a in node.args if hasattr(a, "ty") or hasattr(a, "dtype"))
        elif kind == "Select":
            flops += 1
            stack.extend([node.true_value, node.false_value])
        elif kind == "Cast":
            stack.append(node.value)
        elif hasattr(node, "a") and hasattr(node, "b"):
            flops += _ARITHMETIC.get(kind, 0)
            stack.extend([node.a, node.b])
        elif hasattr(node, "body"):
            stack.append(node.body)
    return flops, calls


def _item_bytes(dtype: str) -> int:
    bits = "".join(c for c in dtype.split("x")[0] if c.isdigit())
    return max(1, int(bits or 8) // 8) if not dtype.startswith("bool") else 1
