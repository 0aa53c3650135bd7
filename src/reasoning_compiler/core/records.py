"""Records as JSON: objects with a key for each field, read back by what the fields' annotations say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import cache
from itertools import repeat
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

R = TypeVar("R", bound="Record")


class Record:
    """Base of the frozen dataclasses that become JSON objects; lists stand for tuples."""

    def to_json(self) -> dict[str, Any]:
        """Returns what `from_json` reads."""
        return {field.name: plain(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_json(cls: type[R], obj: dict[str, Any]) -> R:
        """Returns the record of an object, without which fields have their defaults.

        Raises:
            KeyError, TypeError, ValueError: the object is of another kind.
        """
        return cls(**read_all(cls, obj))

    @classmethod
    def within(cls: type[R], obj: dict[str, Any]) -> R:
        """Returns the record of an object that holds other things beside its fields. Raises as `from_json`."""
        return cls.from_json({field.name: obj[field.name] for field in fields(cls) if field.name in obj})


def plain(value: Any) -> Any:
    """Returns what JSON can hold of a value that may be a record, or hold some; the `default` of `json.dumps`."""
    if hasattr(value, "to_json"):
        return value.to_json()
    if isinstance(value, tuple | list):
        return [plain(each) for each in value]
    return {name: plain(each) for name, each in value.items()} if isinstance(value, dict) else value


def read_all(annotated: type | Callable[..., Any], obj: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of a class, or the keyword arguments of a function, from JSON."""
    kinds = _kinds(annotated)
    return {name: _read(kinds.get(name, Any), value) for name, value in obj.items()}


_kinds = cache(get_type_hints)


def _read(kind: Any, value: Any) -> Any:
    """Returns a value of a type from JSON: of a record, a tuple of some type, one of these or None; else itself."""
    if not isinstance(value, dict | list):
        return value
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    record = next((each for each in kinds if hasattr(each, "from_json")), None)
    if record is not None:
        return record.from_json(value)
    if isinstance(value, dict) or kind is Any:
        return value
    members = next((get_args(each) for each in kinds if get_origin(each) is tuple), (object,))
    return tuple(map(_read, repeat(members[0]) if len(members) < 2 or members[1] is ... else members, value))
