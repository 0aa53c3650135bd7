"""The parameters of a named kernel: read from its signature, checked, and written into its spec."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, get_args, get_origin, get_type_hints

import numpy as np

from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.machine import import_tvm
from reasoning_compiler.workload.primfunc import LAYOUT_FREE_ATTR, arguments, require_tunable
from reasoning_compiler.workload.workload import Draw, Workload

if TYPE_CHECKING:
    from tvm.te import Tensor

P = ParamSpec("P")

# TVM's loop variables have 32 bits.
_MAX_SIZE = 2**31 - 1


@dataclass(frozen=True)
class Parameter:
    """One parameter of a named kernel.

    Args:
        name: as in the spec and in Python.
        default: its value where none is given.
        choices: the allowed values; empty for a size.
    """

    name: str
    default: int | bool | str
    choices: tuple[bool | str, ...] = ()

    @property
    def allowed(self) -> str:
        """What values are allowed, in words."""
        if not self.choices:
            return f"a whole number from 1 to {_MAX_SIZE}"
        return "one of " + ", ".join(_text(choice) for choice in self.choices)

    def from_text(self, text: str) -> int | bool | str:
        """Returns the value that a spec's text means, or the text itself where it means none."""
        for choice in self.choices:
            if text.lower() == _text(choice).lower():
                return choice
        return int(text) if not self.choices and text.isdecimal() else text

    def allows(self, value: Any) -> bool:
        """Returns whether `value` is of the right type and in range."""
        if self.choices:
            return any(value == choice and type(value) is type(choice) for choice in self.choices)
        return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MAX_SIZE

    def __str__(self) -> str:
        return f"{self.name}={_text(self.default)}"


@dataclass(frozen=True)
class Definition:
    """A kernel as tensor expressions.

    Args:
        tensors: the arguments in order, placeholders first, the output last.
        flops: of one run.
        reference: computes the outputs in NumPy, in the `dtype` that it is given; integers exactly.
        weights: which of the tensors are constant.
        draws: see `Workload`.
    """

    tensors: list[Tensor]
    flops: int
    reference: Callable[..., list[np.ndarray]]
    weights: tuple[Tensor, ...] = ()
    draws: Mapping[str, Draw] = field(default_factory=dict)


def kernel(define: Callable[P, Definition]) -> Callable[P, Workload]:
    """Returns a function of the same parameters that makes the workload which `define` defines.

    The workload's name is the function's, with dashes. Wrong parameters raise UsageError; they are judged by the
    annotations: `int` means a size of at least 1, `bool` and `Literal` their values.
    """
    name = define.__name__.replace("_", "-")
    table = {parameter.name: parameter for parameter in parameters_of(define)}

    @functools.wraps(define)
    def make(*args: P.args, **kwargs: P.kwargs) -> Workload:
        given = _bind(name, table, args, kwargs)
        definition = define(**given)
        te = import_tvm().te
        func = te.create_prim_func(definition.tensors).with_attr("global_symbol", "main")
        indices = [i for i, t in enumerate(definition.tensors) if any(t.same_as(w) for w in definition.weights)]
        if indices:
            func = func.with_attr(LAYOUT_FREE_ATTR, indices)
        require_tunable(func, name)
        settings = ",".join(f"{key}={_text(value)}" for key, value in given.items())
        return Workload(
            name=name,
            mod=import_tvm().IRModule({"main": func}),
            arguments=arguments(func),
            flops=definition.flops,
            reference=partial(definition.reference, dtype=np.float64),
            good_order=partial(definition.reference, dtype=np.float32),
            spec=f"{name}[{settings}]" if settings else name,
            draws=definition.draws,
        )

    return make


def parameters_of(function: Callable[..., Any]) -> tuple[Parameter, ...]:
    """Returns the parameters of a kernel's function, in order."""
    hints = get_type_hints(inspect.unwrap(function))
    return tuple(
        Parameter(p.name, p.default, _choices(hints[p.name])) for p in inspect.signature(function).parameters.values()
    )


def first_line(function: Callable[..., Any]) -> str:
    """Returns the first line of a function's docstring, without its full stop."""
    return (function.__doc__ or "").strip().partition("\n")[0].rstrip(".")


def _choices(annotation: Any) -> tuple[bool | str, ...]:
    if annotation is bool:
        return (True, False)
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _bind(
    name: str, table: dict[str, Parameter], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, int | bool | str]:
    if len(args) > len(table):
        raise UsageError(f"`{name}` takes at most {len(table)} parameters, not {len(args)}: {_listing(table)}")
    given = dict(zip(table, args, strict=False))
    for key, value in kwargs.items():
        if key not in table:
            raise UsageError(f"`{name}` has no parameter `{key}`; it has {_listing(table)}")
        if key in given:
            raise UsageError(f"`{name}` is given `{key}` twice; give it once")
        given[key] = value
    for key, value in given.items():
        if not table[key].allows(value):
            raise UsageError(f"`{key}` of `{name}` is {value!r}; it must be {table[key].allowed}")
    return {key: given[key] for key in table if key in given}


def _listing(table: dict[str, Parameter]) -> str:
    return ", ".join(map(str, table.values()))


def _text(value: int | bool | str) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
