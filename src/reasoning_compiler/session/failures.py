"""What to tell people of a task of which nothing can be handed out."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from reasoning_compiler.core.measurements import FailureKind, Measurement

_LOOK_AT: dict[FailureKind, str] = {
    "illegal": "TVM refuses its own schedules; try another --seed",
    "build": "`reasonc doctor` tries the compiler; with a --target of your own, see that it is this machine's",
    "crash": "`reasonc doctor` runs a kernel on this machine; then try smaller shapes",
    "timeout": "give a longer --timeout, or try smaller shapes",
    "wrong_result": "look whether the kernel, its reference and its tolerance belong together",
    "nonfinite": "look whether the kernel overflows where its reference does not",
    "device": "see that the device is there and has memory and disk left, with `reasonc doctor`",
}


def why_nothing(measured: Collection[Measurement], folder: Path) -> str:
    """Returns what went wrong with most programs, and where to look.

    Args:
        measured: of the task's programs, the untuned one not among them.
        folder: of the session.
    """
    failures = [measurement.failure for measurement in measured if measurement.failure]
    kinds = Counter(failure.kind for failure in failures)
    told = [f"{count} {kind}" for kind, count in kinds.most_common()]
    told += [f"{len(measured) - len(failures)} not verified"] if len(measured) > len(failures) else []
    if failures:
        (kind, _), *_ = kinds.most_common(1)
        (message, _), *_ = Counter(f.message for f in failures if f.kind == kind).most_common(1)
        said, look = f"most said: {message or 'nothing'}", _LOOK_AT[kind]
    else:
        said, look = "none of them failed" if measured else "nothing could be proposed", "see `reasonc doctor`"
    return (
        f"none of {len(measured)} programs could be measured and verified ({', '.join(told) or 'there were none'}); "
        f"{said}. What to do: {look}. All of it: `reasonc report {shlex.quote(str(folder))}`"
    )


def why_not_again(timed: Sequence[Measurement], folder: Path) -> str:
    """Returns what to say where the best programs fail when they are measured once more.

    Args:
        timed: what became of them.
        folder: of the session.
    """
    failures = (m.failure for m in timed if m.failure is not None)
    said = next((f"{failure.kind}: {failure.message}" for failure in failures), "they cannot be built again")
    return (
        f"the best programs worked during the search and fail now ({said}); look at {folder}, or run `reasonc doctor`"
    )
