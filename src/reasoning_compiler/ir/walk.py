"""Walking TVM's statements."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

SPATIAL, REDUCTION = 0, 2
"""Kinds of a block's iterators, in TVM's IterVarType."""

_BLOCK_FIELDS = (
    *("iter_vars", "reads", "writes", "name_hint", "body"),
    *("init", "alloc_buffers", "match_buffers", "annotations"),
)


def blocks(stmt: Any, loops: tuple[Any, ...] = (), *, inside: bool = True) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Yields each block's realization with the loops around it in its own scope, outermost first.

    Args:
        stmt: a statement.
        loops: around it.
        inside: whether blocks inside blocks are among them.
    """
    kind = type(stmt).__name__
    if kind == "For":
        yield from blocks(stmt.body, (*loops, stmt), inside=inside)
    elif kind == "SeqStmt":
        for part in stmt.seq[:]:  # going through TVM's array itself takes three times as long
            yield from blocks(part, loops, inside=inside)
    elif kind == "SBlockRealize":
        yield stmt, loops
        if inside:
            yield from blocks(stmt.block.body)
    elif kind == "IfThenElse":
        yield from blocks(stmt.then_case, loops, inside=inside)
        if stmt.else_case is not None:
            yield from blocks(stmt.else_case, loops, inside=inside)
    elif hasattr(stmt, "body"):
        yield from blocks(stmt.body, loops, inside=inside)


def parts_in(node: Any, *kinds: type) -> list[Any]:
    """Returns the parts of a statement or an expression that are of some kinds, those outside before those inside."""
    import tvm_ffi

    found: list[Any] = []
    tvm_ffi.structural_walk(node, (kinds, found.append), order="pre")
    return found


def mapped(node: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """Returns a statement or an expression with `change(part)` in place of each part of a kind, the innermost first."""
    import tvm_ffi

    return tvm_ffi.structural_map(node, (kind, change))


def annotations_in(stmt: Any) -> set[str]:
    """Returns the names of all annotations of a statement's loops and blocks."""
    import tvm

    return {str(name) for part in parts_in(stmt, tvm.tirx.For, tvm.s_tir.SBlock) for name in part.annotations}


def factors(block: Any) -> tuple[Any, Any] | None:
    """Returns the loads of the two buffers whose product a block sums up, casts left out; None if it does not."""
    if type(block.body).__name__ != "BufferStore":
        return None
    value = block.body.value
    terms = [value.a, value.b] if type(value).__name__ == "Add" else []
    products = [term for term in terms if type(term).__name__ == "Mul"]
    if len(products) != 1 or sum(type(term).__name__ == "TensorLoad" for term in terms) != 1:
        return None
    a, b = (x.value if type(x).__name__ == "Cast" else x for x in (products[0].a, products[0].b))
    if type(a).__name__ != "TensorLoad" or type(b).__name__ != "TensorLoad" or a.source.same_as(b.source):
        return None
    return a, b


def with_loops(stmt: Any, change: Callable[[Any], Any]) -> Any:
    """Returns a statement with `change(loop)` in place of each loop, in whose body that has been done already.

    Unlike `structural_map`, it may put several statements in place of one. What is neither loop, sequence nor block
    stays as it is.
    """
    import tvm

    kind = type(stmt).__name__
    if kind == "For":
        return change(with_body(stmt, with_loops(stmt.body, change)))
    if kind == "SeqStmt":
        return tvm.tirx.SeqStmt([with_loops(part, change) for part in stmt.seq])
    if kind == "SBlockRealize":
        return with_block(stmt, with_loops(stmt.block.body, change))
    return stmt


def with_body(loop: Any, body: Any, annotations: Mapping[str, Any] | None = None) -> Any:
    """Returns a loop with another body and, where they are given, other annotations."""
    import tvm

    notes = loop.annotations if annotations is None else annotations
    return tvm.tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body, loop.thread_binding, notes, loop.step)


def with_block(realize: Any, body: Any, *, allocated: Sequence[Any] = ()) -> Any:
    """Returns a block's realization with another body, and further buffers that the block allocates."""
    import tvm

    block = realize.block
    changed = rebuilt(block, body=body, alloc_buffers=[*block.alloc_buffers, *allocated])
    return tvm.s_tir.SBlockRealize(realize.iter_values, realize.predicate, changed)


def rebuilt(block: Any, **changes: Any) -> Any:
    """Returns a block with other values of some of its fields."""
    import tvm

    return tvm.s_tir.SBlock(*(changes.get(field, getattr(block, field)) for field in _BLOCK_FIELDS))


def constants(main: Any) -> list[Any]:
    """Returns the parameters of a PrimFunc that are laid out ahead of time: its constant weights."""
    return [main.params[int(index)] for index in main.attrs.get("layout_free_buffers", ())]


def bindings(realize: Any) -> dict[Any, Any]:
    """Returns what each of a block's variables is bound to."""
    pairs = zip(realize.block.iter_vars[:], realize.iter_values[:], strict=True)
    return {iter_var.var: value for iter_var, value in pairs}


def index_of(expr: Any, among: Sequence[Any]) -> int | None:
    """Returns which of some variables or buffers an expression is; None if it is none of them.

    `==` on TVM's variables builds an expression, so `list.index` would find the first one.
    """
    return next((i for i, each in enumerate(among) if each.same_as(expr)), None)


def variables(expr: Any) -> list[Any]:
    """Returns the variables of an expression."""
    import tvm

    return [expr] if isinstance(expr, tvm.tirx.Var) else tvm.tirx.analysis.undefined_vars(expr)[:]


def substituted(expr: Any, values: Mapping[Any, Any]) -> Any:
    """Returns an expression with values, expressions or whole numbers, in place of some variables."""
    import tvm

    def value(variable: Any) -> Any:
        found = values.get(variable, variable)
        return tvm.tirx.const(found, str(variable.ty.dtype)) if isinstance(found, int) else found

    return mapped(expr, tvm.tirx.Var, value)


def bound_variables(realize: Any, *, spatial: bool) -> set[Any]:
    """Returns the variables that a block's spatial variables depend on, or those that its other ones do."""
    pairs = zip(realize.block.iter_vars[:], realize.iter_values[:], strict=True)
    chosen = (value for iter_var, value in pairs if (int(iter_var.iter_type) == SPATIAL) == spatial)
    return {variable for value in chosen for variable in variables(value)}


def is_unit(loop: Any) -> bool:
    """Tells whether a loop is known to have one iteration."""
    return type(loop.extent).__name__ == "IntImm" and int(loop.extent) == 1
