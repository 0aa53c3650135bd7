"""Layouts of buffers as people write them: a list, or the text of a lambda. Nothing of it is executed."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

_MAX_CHARS = 400
_OPERATORS: Mapping[type[ast.operator], str] = {ast.FloorDiv: "/", ast.Div: "/", ast.Mod: "%"}


def read_layout(written: str | Sequence[int | str], names: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Returns a layout as programs keep it: what each new dimension holds, as in ("1/32", "0", "1%32").

    Args:
        written: a list of old dimensions and parts of them, each by number or by name, as `[1, "0/8", "0%8"]`; or a
            text, as "lambda n, k: (n // 8, k, n % 8)" or "k, n".
        names: for each old dimension, the names that it goes by; may be empty.

    Raises:
        ValueError: it is none of these; says which part is not.
    """
    known = {str(d): d for d in range(len(names))} | {n: d for d, own in enumerate(names) for n in own}
    if not isinstance(written, str):
        return tuple(_part(_parsed(str(part)), known) for part in written)
    body = _parsed(written)
    if isinstance(body, ast.Lambda):
        parameters = [argument.arg for argument in body.args.args]
        if len(parameters) != len(names):
            raise ValueError(f"the lambda has {len(parameters)} parameters, and the buffer {len(names)} dimensions")
        known, body = {name: d for d, name in enumerate(parameters)}, body.body
    parts = body.elts if isinstance(body, ast.Tuple | ast.List) else [body]
    return tuple(_part(part, known) for part in parts)


def split_dimension(text: str) -> tuple[int, str, int]:
    """Returns the old dimension, "/" or "%" or "", and the number after it, of a part of a layout as "1/32"."""
    for operator in "/%":
        if operator in text:
            dimension, _, by = text.partition(operator)
            return int(dimension), operator, int(by)
    return int(text), "", 1


def _parsed(text: str) -> ast.expr:
    try:
        if len(text) > _MAX_CHARS:
            raise ValueError
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(f"`{text[:60]}` is no part of a layout") from None


def _part(part: ast.expr, known: Mapping[str, int]) -> str:
    if isinstance(part, ast.Constant) and isinstance(part.value, str):
        part = _parsed(part.value)
    if isinstance(part, ast.BinOp) and type(part.op) in _OPERATORS:
        by = part.right.value if isinstance(part.right, ast.Constant) else None
        if isinstance(by, int) and 0 < by < 1_000_000:
            return f"{_dimension(part.left, known)}{_OPERATORS[type(part.op)]}{by}"
    return str(_dimension(part, known))


def _dimension(part: ast.expr, known: Mapping[str, int]) -> int:
    name = ast.unparse(part)
    if name not in known:
        raise ValueError(f"`{name[:60]}` is no dimension of the buffer; there are {', '.join(known)}")
    return known[name]
