"""Packed weights, kept for the next programs that read them in the same layout.

Packing reads and writes every weight once, at the speed of memory: 50 ms for half a gigabyte. Programs that follow each
other in a search differ in a decision or two, and mostly share their layouts.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import tvm

from reasoning_compiler.codegen.signature import KernelArgument
from reasoning_compiler.measure.workers.memory import Memory, allocate

_LAYOUTS = 4  # of each argument: in a search of 48 programs they make three of four packings needless, 8 no more


class PackedWeights:
    """The last few layouts of each weight.

    Args:
        device: where they are.
        max_bytes: the most that they may take together; the layouts of the last program are kept in any case.
    """

    def __init__(self, device: Any, *, max_bytes: int) -> None:
        self._device, self._max_bytes = device, max_bytes
        self._kept: dict[int, OrderedDict[str, Memory]] = {}
        self._num_bytes = 0
        self.packing_secs = 0.0
        """Spent so far in what programs bring along to lay their weights out."""

    def get(self, index: int, argument: KernelArgument, pack: Callable[[Any], None], *, alone: bool = True) -> Any:
        """Returns an argument in the layout that a program takes it in, which no program may change.

        Args:
            index: the argument's.
            argument: as the program takes it.
            pack: fills the tensor that it is given.
            alone: the programs before will not run again, and what they read may be overwritten.
        """
        kept = self._kept.setdefault(index, OrderedDict())
        if argument.layout in kept:
            kept.move_to_end(argument.layout)
            return kept[argument.layout].tensor
        if not (alone and argument.layout):
            packed = allocate(argument.packed_shape, argument.packed_dtype, self._device)
        else:
            packed = kept[argument.layout] = self._room(kept, argument)
        packed.allow_writing(True)
        started = time.perf_counter()
        pack(packed.tensor)
        self.packing_secs += time.perf_counter() - started
        packed.allow_writing(False)
        return packed.tensor

    def _room(self, kept: OrderedDict[str, Memory], argument: KernelArgument) -> Memory:
        """Returns memory for a layout, in the memory of the one that must go for it where that fits.

        The system has to clear fresh memory page by page, which for a large weight takes longer than to pack it.
        """
        num_bytes = math.prod(argument.packed_shape) * tvm.DataType(argument.packed_dtype).bits // 8
        while kept and (len(kept) >= _LAYOUTS or self._num_bytes + num_bytes > self._max_bytes):
            _, old = kept.popitem(last=False)
            same = old.viewed_as(argument.packed_shape, argument.packed_dtype)
            if same is not None:
                return same
            self._num_bytes -= math.prod(old.tensor.shape) * tvm.DataType(str(old.tensor.dtype)).bits // 8
        self._num_bytes += num_bytes
        return allocate(argument.packed_shape, argument.packed_dtype, self._device)
