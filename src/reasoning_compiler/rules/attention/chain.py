"""Finding softmax(Q·Kᵀ)·V in a function: two products with row-wise blocks between them, by their data flow alone.

Rows are those of Q, columns are the keys: a column of the scores is a row of K and of V. Names play no part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from reasoning_compiler.ir.walk import REDUCTION, blocks
from reasoning_compiler.machine.toolchain import import_tvm
from reasoning_compiler.rules.attention.mask import Band, live_band


@dataclass(frozen=True)
class Statement:
    """A block that is one store in loops of its own, with what it reads and how it is iterated.

    Args:
        name: the block's.
        block: the `SBlock`.
        variables: its iteration variables.
        extents: of each.
        reducing: positions of those that reduce.
        loops: for each variable the position of its loop, outermost first.
        value: what it stores.
        indices: where.
        loads: every load in the value, without those of what it writes.
    """

    name: str
    block: Any
    variables: tuple[Any, ...]
    extents: tuple[int, ...]
    reducing: tuple[int, ...]
    loops: tuple[int, ...]
    value: Any
    indices: tuple[Any, ...]
    loads: tuple[Any, ...]

    @property
    def buffer(self) -> Any:
        return self.block.writes[0].source

    def position(self, variable: Any) -> int | None:
        """Returns which of the iteration variables an expression is; None if it is none of them."""
        return next((i for i, own in enumerate(self.variables) if own.same_as(variable)), None)

    def positions(self, indices: Any) -> tuple[int, ...] | None:
        """Returns the iteration variable of each index; None if some index is no plain variable."""
        found = [self.position(index) for index in indices]
        return None if any(p is None for p in found) else tuple(p for p in found if p is not None)


@dataclass(frozen=True)
class Product:
    """One of the two contractions: positions of its iteration variables, and its right-hand operand.

    Args:
        name: the block's.
        row: the variable that only the left operand has, and the result.
        column: the variable that only the right operand has, and the result.
        reduced: the one that is summed over.
        shared: all others, as heads.
        loops: for each variable the position of its loop.
        right: which of the block's reads is the right operand.
        right_column, right_reduced: dimensions of the right operand that these two walk.
        right_rank: its number of dimensions.
        result_row, result_column: dimensions of the result that row and column walk.
        extents: of the variables.
    """

    name: str
    row: int
    column: int
    reduced: int
    shared: tuple[int, ...]
    loops: tuple[int, ...]
    right: int
    right_column: int
    right_reduced: int
    right_rank: int
    result_row: int
    result_column: int
    extents: tuple[int, ...]


@dataclass(frozen=True)
class Stage:
    """A block between the products: which of its iteration variables walk rows and columns; None for no columns.

    Args:
        name: the block's.
        row, column: positions of variables.
        loops: for each variable the position of its loop.
        reduces: whether it reduces over the columns.
        over: which of its reads has rows and columns; -1 where what it writes has.
        statement: the block.
    """

    name: str
    row: int
    column: int | None
    loops: tuple[int, ...]
    reduces: bool
    over: int
    statement: Statement

    @property
    def buffer(self) -> Any:
        return self.statement.buffer


@dataclass(frozen=True)
class Chain:
    """softmax(Q·Kᵀ)·V, or anything else that is row-wise between two products and reduces over the rows.

    Args:
        scores: the first product.
        stages: the blocks between, in program order.
        out: the second product.
        tail: names of elementwise blocks after it, in order.
        weights: which of the second product's reads is its left operand.
        row_dim, column_dim: dimensions of the scores' buffer, and of all buffers of its shape between the products.
        after_scores: names of the stages that follow the scores alone, one after the other.
        live: which columns of a row count, where a mask leaves some out; None where all may.
    """

    scores: Product
    stages: tuple[Stage, ...]
    out: Product
    tail: tuple[str, ...]
    weights: int
    row_dim: int
    column_dim: int
    after_scores: tuple[str, ...]
    live: Band | None


def find_chain(mod: Any, name: str) -> Chain | None:
    """Returns the chain that ends in the product of that block; None if there is none."""
    statements = list(_statements(mod["main"].body))
    last = next((statement for statement in statements if statement.name == name), None)
    if last is None:
        return None
    for left, right in _operands(last):
        chain = _chain(statements, last, left, right)
        if chain is not None:
            return chain
    return None


def _statements(body: Any) -> Iterator[Statement]:
    tvm = import_tvm()
    import tvm_ffi

    for realize, loops in blocks(body):
        block = realize.block
        store = block.body
        if not isinstance(store, tvm.tirx.BufferStore) or len(block.writes) != 1:
            continue
        variables = tuple(iter_var.var for iter_var in block.iter_vars)
        places = [
            next((p for p, loop in enumerate(loops) if loop.loop_var.same_as(value)), None)
            for value in realize.iter_values
        ]
        extents = [getattr(iter_var.dom.extent, "value", None) for iter_var in block.iter_vars]
        if len(loops) != len(variables) or None in places or len(set(places)) != len(places) or None in extents:
            continue
        loads: list[Any] = []
        tvm_ffi.structural_walk(store.value, (tvm.ir.TensorLoad, loads.append), order="pre")
        reducing = tuple(i for i, v in enumerate(block.iter_vars) if int(v.iter_type) == REDUCTION)
        own = [load for load in loads if not load.source.same_as(store.buffer)]
        if len(own) < len(loads) and not reducing:
            continue  # updated in place
        yield Statement(
            str(block.name_hint),
            block,
            variables,
            tuple(int(e) for e in extents if e is not None),
            reducing,
            tuple(p for p in places if p is not None),
            store.value,
            tuple(store.indices),
            tuple(own),
        )


def _operands(statement: Statement) -> list[tuple[Any, Any]]:
    """Returns the operands of a product, either of them first; none if the block is no product of two buffers."""
    value = statement.value
    if statement.block.init is None or len(statement.reducing) != 1 or type(value).__name__ != "Add":
        return []
    terms = [term for term in (value.a, value.b) if type(term).__name__ != "TensorLoad"]
    if len(terms) != 1 or type(terms[0]).__name__ != "Mul":
        return []
    a, b = _uncast(terms[0].a), _uncast(terms[0].b)
    if type(a).__name__ != "TensorLoad" or type(b).__name__ != "TensorLoad" or a.source.same_as(b.source):
        return []
    return [(a, b), (b, a)]


def _uncast(expr: Any) -> Any:
    return expr.value if type(expr).__name__ == "Cast" else expr


def _used(statement: Statement, load: Any) -> set[int]:
    """Returns the positions of the iteration variables in a load's indices."""
    tirx = import_tvm().tirx
    inside = [v for index in load.indices for v in tirx.analysis.undefined_vars(index)]
    inside += [index for index in load.indices if isinstance(index, tirx.Var)]
    return {p for p in (statement.position(v) for v in inside) if p is not None}


def _product(statement: Statement, left: Any, right: Any, row: int | None = None) -> Product | None:
    """Returns the product with these operands; its rows are the last variable that only the left one has.

    Args:
        statement: the block.
        left, right: its operands.
        row: the variable of the rows, if it is known.
    """
    (reduced,) = statement.reducing
    in_left, in_right = _used(statement, left), _used(statement, right)
    if reduced not in in_left or reduced not in in_right:
        return None
    only_left = [
        p for p in (statement.position(index) for index in left.indices) if p is not None and p not in in_right
    ]
    only_right = sorted(in_right - in_left)
    row = only_left[-1] if row is None and only_left else row
    if row not in only_left or len(only_right) != 1:
        return None
    column = only_right[0]
    places = [statement.position(index) for index in right.indices]
    results = statement.positions(statement.indices)
    if column not in places or reduced not in places or results is None:
        return None
    shared = tuple(i for i in range(len(statement.variables)) if i not in (row, column, reduced))
    return Product(
        statement.name,
        row,
        column,
        reduced,
        shared,
        statement.loops,
        _read_of(statement, right.source),
        places.index(column),
        places.index(reduced),
        len(places),
        results.index(row),
        results.index(column),
        statement.extents,
    )


@dataclass
class _Walk:
    """From the second product's left operand back to the first product."""

    statements: list[Statement]
    dims: dict[Any, tuple[int, int | None]] = field(default_factory=dict)  # buffer -> its dimensions of rows, columns
    scores: tuple[Product, Statement] | None = None
    stages: dict[str, Stage] = field(default_factory=dict)

    def maker(self, buffer: Any) -> Statement | None:
        return next((s for s in self.statements if s.buffer.same_as(buffer)), None)

    def visit(self, buffer: Any, dims: tuple[int, int | None]) -> bool:
        """Returns whether a buffer and everything that it is made from is row-wise down to the scores."""
        if buffer in self.dims:
            return self.dims[buffer] == dims
        self.dims[buffer] = dims
        statement = self.maker(buffer)
        places = statement.positions(statement.indices) if statement is not None else None
        if statement is None or places is None:
            return False
        row, column = places[dims[0]], None if dims[1] is None else places[dims[1]]
        if _operands(statement):
            return self._is_scores(statement, row, column)
        if len(statement.reducing) > 1 or (statement.reducing and column is not None):
            return False
        column = statement.reducing[0] if statement.reducing else column
        over = -1
        if statement.reducing:
            read = next((x.source for x in statement.loads if column in _used(statement, x)), None)
            if read is None or self.maker(read) is None:
                return False
            over = _read_of(statement, read)
        self.stages[statement.name] = Stage(
            statement.name, row, column, statement.loops, bool(statement.reducing), over, statement
        )
        return all(self._reads(statement, load, row, column) for load in statement.loads)

    def _reads(self, statement: Statement, load: Any, row: int, column: int | None) -> bool:
        if self.maker(load.source) is None or row not in _used(statement, load):
            return True  # an argument, or something that is the same for all rows
        places = statement.positions(load.indices)
        if places is None or row not in places:
            return False
        return self.visit(load.source, (places.index(row), places.index(column) if column in places else None))

    def visit_row(self, statement: Statement, row_dim: int) -> bool:
        """Returns whether what a block behind the second product reads once per row comes from the scores, too."""
        places = statement.positions(statement.indices) or ()
        row = places[row_dim]
        per_row = [load for load in statement.loads if len(load.indices) < len(statement.indices)]
        return all(self._reads(statement, load, row, None) for load in per_row)

    def _is_scores(self, statement: Statement, row: int, column: int | None) -> bool:
        for left, right in _operands(statement):
            product = _product(statement, left, right, row)
            if product is not None and product.column == column and self.scores is None:
                self.scores = product, statement
                return True
        return False


def _chain(statements: list[Statement], last: Statement, left: Any, right: Any) -> Chain | None:
    out = _product(last, left, right)
    places = last.positions(left.indices)
    if out is None or places is None or out.reduced not in places:
        return None
    walk = _Walk(statements)
    row_dim, column_dim = places.index(out.row), places.index(out.reduced)
    tail = _tail(statements, last)
    if tail is None or not walk.visit(left.source, (row_dim, column_dim)) or walk.scores is None:
        return None
    if not all(walk.visit_row(statement, out.result_row) for statement in tail):
        return None
    stages = tuple(walk.stages[s.name] for s in statements if s.name in walk.stages)
    square = [buffer for buffer, (_, column) in walk.dims.items() if column is not None]
    alike = all(walk.dims[b] == (row_dim, column_dim) and len(b.shape) == len(places) for b in square)
    if not alike or not any(stage.reduces for stage in stages):
        return None
    scores, first = walk.scores
    after = _after(statements, first, {stage.name: stage for stage in stages})
    live = live_band(after, stages, left.source, scores.extents[scores.row], scores.extents[scores.column])
    return Chain(
        scores,
        stages,
        out,
        tuple(statement.name for statement in tail),
        _read_of(last, left.source),
        row_dim,
        column_dim,
        tuple(stage.name for stage in after),
        live,
    )


def _read_of(statement: Statement, buffer: Any) -> int:
    return next(i for i, region in enumerate(statement.block.reads) if region.source.same_as(buffer))


def _readers(statements: list[Statement], buffer: Any) -> list[Statement]:
    return [s for s in statements if any(load.source.same_as(buffer) for load in s.loads)]


def _after(statements: list[Statement], first: Statement, stages: Mapping[str, Stage]) -> list[Stage]:
    """Returns the elementwise stages that follow the scores, each the only reader of the one before."""
    found: list[Stage] = []
    buffer = first.buffer
    while True:
        readers = _readers(statements, buffer)
        stage = stages.get(readers[0].name) if len(readers) == 1 else None
        made = [] if stage is None else [x for x in stage.statement.loads if not x.source.same_as(buffer)]
        if stage is None or stage.reduces or stage.column is None:
            return found
        if any(s.buffer.same_as(load.source) for s in statements for load in made):
            return found
        found.append(stage)
        buffer = stage.statement.buffer


def _tail(statements: list[Statement], last: Statement) -> tuple[Statement, ...] | None:
    """Returns the elementwise blocks after the second product; None if it is read by anything else."""
    found: list[Statement] = []
    buffer = last.buffer
    while readers := _readers(statements, buffer):
        plain = tuple(range(len(last.indices)))
        reads = [x for x in readers[0].loads if x.source.same_as(buffer)]
        places = [readers[0].positions(x.indices) for x in reads] + [readers[0].positions(readers[0].indices)]
        if len(readers) > 1 or readers[0].loops != plain or any(at != plain for at in places):
            return None
        found.append(readers[0])
        buffer = readers[0].buffer
    return tuple(found)
