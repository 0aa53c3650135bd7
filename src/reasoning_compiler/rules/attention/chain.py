"""Finding softmax(Q·Kᵀ)·V in a function: two products with row-wise blocks between them, by their data flow alone.

Rows are those of Q, columns are the keys: a column of the scores is a row of K and of V. Names play no part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reasoning_compiler.ir.statements import Statement, elementwise_reader, maker, readers, statements
from reasoning_compiler.ir.walk import factors
from reasoning_compiler.rules.attention.mask import Band, live_band


@dataclass(frozen=True)
class Part:
    """A statement of the chain: which of its iteration variables walks rows, and which columns; None for no columns."""

    statement: Statement
    row: int
    column: int | None

    @property
    def name(self) -> str:
        """The block's name."""
        return self.statement.name

    @property
    def num_rows(self) -> int:
        """The extent of its rows."""
        return self.statement.extents[self.row]


@dataclass(frozen=True)
class Product(Part):
    """One of the two contractions. Only its left operand has the row, only its right one the column.

    Args:
        reduced: the variable that is summed over.
        left, right: the loads of its operands.
    """

    column: int
    reduced: int
    left: Any
    right: Any

    @property
    def shared(self) -> tuple[int, ...]:
        """All other variables, as heads."""
        own = (self.row, self.column, self.reduced)
        return tuple(i for i in range(len(self.statement.variables)) if i not in own)

    @property
    def num_columns(self) -> int:
        """The extent of its columns."""
        return self.statement.extents[self.column]

    @property
    def num_reduced(self) -> int:
        """How many terms it sums up."""
        return self.statement.extents[self.reduced]

    @property
    def right_order(self) -> tuple[int, ...]:
        """The dimensions of the right operand, those of columns and of terms last."""
        walked = [self.statement.position(index) for index in self.right.indices]
        last = (walked.index(self.column), walked.index(self.reduced))
        return (*(i for i in range(len(walked)) if i not in last), *last)

    @property
    def result(self) -> tuple[int, int]:
        """Which dimensions of the result, and of all buffers of its shape between the products, row and column walk."""
        walked = self.statement.positions(self.statement.indices) or ()
        return walked.index(self.row), walked.index(self.column)


@dataclass(frozen=True)
class Stage(Part):
    """A block between the products.

    Args:
        over: which of its reads has rows and columns; -1 where what it writes has.
    """

    over: int

    @property
    def reduces(self) -> bool:
        """Whether it reduces over the columns."""
        return bool(self.statement.reducing)


@dataclass(frozen=True)
class Chain:
    """softmax(Q·Kᵀ)·V, or anything else that is row-wise between two products and reduces over the rows.

    Args:
        scores: the first product.
        stages: the blocks between, in program order.
        out: the second product.
        tail: names of elementwise blocks after it, in order.
        after_scores: names of the stages that follow the scores alone, one after the other.
        live: which columns of a row count, where a mask leaves some out; None where all may.
    """

    scores: Product
    stages: tuple[Stage, ...]
    out: Product
    tail: tuple[str, ...]
    after_scores: tuple[str, ...]
    live: Band | None


def find_chain(mod: Any, name: str) -> Chain | None:
    """Returns the chain that ends in the product of that block; None if there is none."""
    found = list(statements(mod["main"].body))
    last = next((statement for statement in found if statement.name == name), None)
    chains = (_chain(found, last, left, right) for left, right in _operands(last)) if last is not None else ()
    return next((chain for chain in chains if chain is not None), None)


def _operands(statement: Statement) -> list[tuple[Any, Any]]:
    """Returns the operands of a product, either of them first; none if the block is no product of two buffers."""
    found = factors(statement.block) if statement.block.init is not None and len(statement.reducing) == 1 else None
    return [] if found is None else [found, found[::-1]]


def _product(statement: Statement, left: Any, right: Any, row: int | None = None) -> Product | None:
    """Returns the product with these operands; its rows are the last variable that only the left one has.

    Args:
        statement: the block.
        left, right: its operands.
        row: the variable of the rows, if it is known.
    """
    (reduced,) = statement.reducing
    in_left, in_right = statement.used(left), statement.used(right)
    plain = [p for p in map(statement.position, left.indices) if p is not None and p not in in_right]
    row = plain[-1] if row is None and plain else row
    only_right = in_right - in_left
    if row not in plain or len(only_right) != 1 or reduced not in in_left & in_right:
        return None
    (column,) = only_right
    walked = [statement.position(index) for index in right.indices]
    if column not in walked or reduced not in walked or statement.positions(statement.indices) is None:
        return None
    return Product(statement, row, column, reduced, left, right)


@dataclass
class _Walk:
    """From the second product's left operand back to the first product."""

    statements: list[Statement]
    dims: dict[Any, tuple[int, int | None]] = field(default_factory=dict)  # buffer -> its dimensions of rows, columns
    scores: Product | None = None
    stages: dict[str, Stage] = field(default_factory=dict)

    def visit(self, buffer: Any, dims: tuple[int, int | None]) -> bool:
        """Returns whether a buffer and everything that it is made from is row-wise down to the scores."""
        if buffer in self.dims:
            return self.dims[buffer] == dims
        self.dims[buffer] = dims
        statement = maker(self.statements, buffer)
        places = statement.positions(statement.indices) if statement is not None else None
        if statement is None or places is None:
            return False
        row, column = places[dims[0]], None if dims[1] is None else places[dims[1]]
        if _operands(statement):
            return self._is_scores(statement, row, column)
        if len(statement.reducing) > 1 or (statement.reducing and column is not None):
            return False
        over = -1
        if statement.reducing:
            (column,) = statement.reducing
            read = next((x.source for x in statement.loads if column in statement.used(x)), None)
            if read is None or maker(self.statements, read) is None:
                return False
            over = statement.read_of(read)
        self.stages[statement.name] = Stage(statement, row, column, over)
        return all(self._reads(statement, load, row, column) for load in statement.loads)

    def _reads(self, statement: Statement, load: Any, row: int, column: int | None) -> bool:
        if maker(self.statements, load.source) is None or row not in statement.used(load):
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
                self.scores = product
                return True
        return False


def _chain(among: list[Statement], last: Statement, left: Any, right: Any) -> Chain | None:
    out = _product(last, left, right)
    places = last.positions(left.indices)
    if out is None or places is None or out.reduced not in places:
        return None
    walk = _Walk(among)
    row_dim, column_dim = places.index(out.row), places.index(out.reduced)
    tail = _tail(among, last)
    if tail is None or not walk.visit(left.source, (row_dim, column_dim)) or walk.scores is None:
        return None
    if not all(walk.visit_row(statement, out.result[0]) for statement in tail):
        return None
    stages = tuple(walk.stages[s.name] for s in among if s.name in walk.stages)
    square = [buffer for buffer, (_, column) in walk.dims.items() if column is not None]
    alike = all(walk.dims[b] == (row_dim, column_dim) and len(b.shape) == len(places) for b in square)
    if not alike or not any(stage.reduces for stage in stages):
        return None
    after = _after(among, walk.scores.statement, walk.stages)
    live = live_band(after, stages, left.source, walk.scores.num_rows, walk.scores.num_columns)
    names = tuple(statement.name for statement in tail), tuple(stage.name for stage in after)
    return Chain(walk.scores, stages, out, *names, live)


def _after(among: list[Statement], first: Statement, stages: Mapping[str, Stage]) -> list[Stage]:
    """Returns the elementwise stages that follow the scores, each the only reader of the one before."""
    found: list[Stage] = []
    buffer = first.buffer
    while True:
        reading = readers(among, buffer)
        stage = stages.get(reading[0].name) if len(reading) == 1 else None
        if stage is None or stage.reduces or stage.column is None:
            return found
        others = [load.source for load in stage.statement.loads if not load.source.same_as(buffer)]
        if any(maker(among, other) is not None for other in others):
            return found
        found.append(stage)
        buffer = stage.statement.buffer


def _tail(among: list[Statement], last: Statement) -> tuple[Statement, ...] | None:
    """Returns the elementwise blocks after the second product; None if it is read by anything else."""
    found: list[Statement] = []
    buffer = last.buffer
    while readers(among, buffer):
        reader = elementwise_reader(among, buffer)
        if reader is None:
            return None
        found.append(reader)
        buffer = reader.buffer
    return tuple(found)
