"""The named workloads, and how the text on a command line becomes a workload."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from reasoning_compiler.core.arguments import Argument
from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.workload import kernels
from reasoning_compiler.workload.parameters import Parameter, first_line, parameters_of
from reasoning_compiler.workload.user import from_file, names_a_file
from reasoning_compiler.workload.workload import Workload


@dataclass(frozen=True)
class Entry:
    """A named workload.

    Args:
        name: as in specs.
        make: the function in Python.
        full_size: the spec of the published model's full size.
    """

    name: str
    make: Callable[..., Workload]
    full_size: str

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return parameters_of(self.make)

    @property
    def doc(self) -> str:
        return first_line(self.make)


CATALOGUE: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("llama3-attention", kernels.llama3_attention, "llama3-attention[seq_len=4096]"),
        Entry("deepseek-moe", kernels.deepseek_moe, "deepseek-moe[num_experts=8]"),
        Entry("flux-attention", kernels.flux_attention, "flux-attention[text_len=512,image_tokens=4096]"),
        Entry("flux-conv", kernels.flux_conv, "flux-conv[height=128,width=128]"),
        Entry("llama4-mlp", kernels.llama4_mlp, "llama4-mlp[tokens=2048]"),
        Entry("routed-experts", kernels.routed_experts, "routed-experts[blocks=128,num_experts=128]"),
        Entry("gemm", kernels.gemm, "gemm[512,4096,1024]"),
    )
}
"""The paper's five kernels in the order of its tables, experts with uneven counts and a plain matrix product."""


def in_a_line(workload: Workload) -> str:
    """Returns a workload's shapes, FLOPs and bytes; no array is made."""
    inputs = " ".join(_shape(a) for a in workload.arguments if a.role != "output")
    outputs = " ".join(_shape(a) for a in workload.arguments if a.role == "output")
    note = " (* constant)" if any(a.role == "weight" for a in workload.arguments) else ""
    return f"{inputs} -> {outputs}{note}, {_quantity(workload.flops or 0, 'FLOP')}, {_quantity(workload.bytes, 'B')}"


def parse(text: str) -> Workload:
    """Returns the workload that a text names.

    Args:
        text: a name of the catalogue, as "llama3-attention", perhaps with parameters, as
            "llama3-attention[seq_len=512]" or, by position, "gemm[512,4096,1024]"; or a file and what to take from
            it, as "kernels.py:my_matmul".

    Raises:
        UsageError: there is no such workload, parameter or file, or a value is not allowed.
    """
    text = text.strip()
    if names_a_file(text):
        return from_file(text)
    name, bracket, rest = text.partition("[")
    name = name.strip()
    if not name:
        raise UsageError(f"`{text}` names no workload; `reasonc workloads` lists them all")
    entry = CATALOGUE.get(name.lower().replace("_", "-"))
    if entry is None:
        raise UsageError(f"there is no workload `{name}`{_nearest(name)}; `reasonc workloads` lists them all")
    if not bracket:
        return entry.make()
    if not rest.endswith("]"):
        raise UsageError(f"`{text}` is not closed; write {entry.name}[name=value,...]")
    return _with_parameters(entry, rest[:-1])


def _with_parameters(entry: Entry, settings: str) -> Workload:
    table = {parameter.name: parameter for parameter in entry.parameters}
    by_position: list[int | bool | str] = []
    by_name: dict[str, int | bool | str] = {}
    for setting in filter(None, (part.strip() for part in settings.split(","))):
        key, equals, value = (part.strip() for part in setting.partition("="))
        if equals:
            if key in by_name:
                raise UsageError(f"`{entry.name}` is given `{key}` twice; give it once")
            by_name[key] = table[key].from_text(value) if key in table else value
        elif by_name:
            raise UsageError(f"`{setting}` of `{entry.name}` stands after a named parameter; write name={setting}")
        else:
            parameter = entry.parameters[len(by_position) : len(by_position) + 1]
            by_position.append(parameter[0].from_text(key) if parameter else key)
    return entry.make(*by_position, **by_name)


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name.lower().replace("_", "-"), CATALOGUE, n=3, cutoff=0.4)
    near += [known for known in CATALOGUE if known not in near and name and name.lower() in known]
    return f"; the nearest are {', '.join(near)}" if near else f"; there are {', '.join(CATALOGUE)}"


def _shape(argument: Argument) -> str:
    mark = "*" if argument.role == "weight" else ""
    return f"{argument.name}{mark}{list(argument.shape)}"


def _quantity(value: float, unit: str) -> str:
    for prefix in ("", "k", "M", "G"):
        if value < 1000:
            return f"{value:.3g} {prefix}{unit}"
        value /= 1000
    return f"{value:.3g} T{unit}"
