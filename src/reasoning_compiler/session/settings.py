"""What a session is told to do, and what it tells those who watch it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from reasoning_compiler.core.errors import UsageError
from reasoning_compiler.core.records import Record
from reasoning_compiler.core.steps import Step
from reasoning_compiler.measure.executors.tracker import Devices
from reasoning_compiler.proposer.llm.settings import LLMSettings
from reasoning_compiler.search.config import SearchConfig

PROPOSERS = ("expert", "random")
PRESETS = ("default", "paper")
_REPLAY = "replay:"
_OPTIONAL = ("minutes", "patience", "threads")


@dataclass(frozen=True)
class Settings(Record):
    """What a session is told to do.

    Args:
        samples: programs to measure, of all tasks together, the untuned ones not counted; ≥ 1.
        minutes: stop after this much time; None for no limit.
        patience: a task gets no more after this many of its samples in a row that brought nothing clearly faster; None
            for never.
        proposer: "expert" or "random"; with `llm`, who stands in for the model. Or "replay:RUN" for a run folder:
            what that run proposed and picked, whoever it was, is done again and measured anew.
        llm: the language model that proposes; None for none.
        preset: "default", or "paper" for the paper's own method, which needs `llm`.
        seed: of every random draw.
        batch: programs measured between two looks at the tree; ≥ 1.
        threads: threads that a program may use; None for every physical core.
        target: the TVM target as JSON or by name; None for the machine's own.
        machine: what programs are tuned for, as the name of a preset; None for this machine. Another machine's
            programs can only be measured on devices.
        rpc: where TVM's RPC tracker is, as HOST:PORT; programs are then measured on its devices. None for here.
        key: under which the devices have registered at the tracker.
        timeout_secs: the longest that one program may take in the runner.
        prior: whether predictions start from the analysis; without it, they come from measurements alone.
        flush_cache: whether each timing begins with cold caches, as where the program runs seldom or among others.
        search: see `SearchConfig`.

    Raises:
        UsageError: a value is out of range; the text names it and what is allowed.
    """

    samples: int = 64
    minutes: float | None = None
    patience: int | None = None
    proposer: str = "expert"
    llm: LLMSettings | None = None
    preset: str = "default"
    seed: int = 0
    batch: int = 4
    threads: int | None = None
    target: str | None = None
    machine: str | None = None
    rpc: str | None = None
    key: str | None = None
    timeout_secs: float = 30.0
    prior: bool = True
    flush_cache: bool = False
    search: SearchConfig = field(default_factory=SearchConfig)

    def __post_init__(self) -> None:
        for name in ("samples", "batch", "patience", "threads"):
            value = getattr(self, name)
            if value is None and name in _OPTIONAL:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(f"`{name}` is {value!r}; it must be a whole number of at least 1")
        for name in ("minutes", "timeout_secs"):
            value = getattr(self, name)
            if value is None and name in _OPTIONAL:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise UsageError(f"`{name}` is {value!r}; it must be a number above 0, and finite")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise UsageError(f"`seed` is {self.seed!r}; it must be a whole number")
        if not isinstance(self.flush_cache, bool):
            raise UsageError(f"`flush_cache` is {self.flush_cache!r}; it must be true or false")
        if self.proposer not in PROPOSERS and not self.replayed:
            raise UsageError(f"`proposer` is {self.proposer!r}; allowed: {', '.join(PROPOSERS)}, or replay:RUN")
        if (self.rpc is None) != (self.key is None):
            raise UsageError("`rpc` and `key` go together: the tracker as HOST:PORT, and the devices' name there")
        if self.rpc is None and self.machine is not None:
            raise UsageError("`machine` is another one than this: give `--rpc HOST:PORT --key KEY` to measure on it")
        if self.devices is not None and self.flush_cache:
            raise UsageError("`flush_cache` empties this machine's caches, and programs run on devices: leave it out")
        if self.preset not in PRESETS:
            raise UsageError(f"`preset` is {self.preset!r}; allowed: {', '.join(PRESETS)}")
        if self.replayed and self.llm is not None:
            raise UsageError("`proposer` replay:RUN repeats a run without its model: leave `--llm` out")
        if self.preset == "paper" and self.llm is None and not self.replayed:
            raise UsageError("`preset` paper needs a model: give `--llm PROVIDER:MODEL` or `--proposer replay:RUN`")

    @property
    def devices(self) -> Devices | None:
        """Where programs are measured; None for here. Raises UsageError where `rpc` or `key` cannot be one."""
        return None if self.rpc is None else Devices.parse(self.rpc, self.key or "")

    @property
    def replayed(self) -> str:
        """The folder of the run that is repeated; empty for none."""
        return self.proposer.removeprefix(_REPLAY) if self.proposer.startswith(_REPLAY) else ""


Doing = Literal["starting", "untuned", "thinking", "measuring", "confirming", "saving", "done"]


@dataclass(frozen=True)
class Progress:
    """What a session tells those who watch it.

    Args:
        doing: what it is at.
        folder: the session's folder; empty where it has yet to be chosen.
        num_samples: programs measured so far, of all tasks.
        max_samples: of the session.
        task: which task this is about; empty where there is one only, or for none.
        untuned_secs: the untuned program's latency; None before it is known, or where it failed.
        best_secs: the best so far; None before there is one.
        last: the program measured last; None where this is about something else.
        improved: whether that one is the new best.
        notice: something that the user should know, said once; else empty.
        elapsed_secs: since the session began, pauses left out.
    """

    doing: Doing
    folder: str
    num_samples: int
    max_samples: int
    task: str = ""
    untuned_secs: float | None = None
    best_secs: float | None = None
    last: Step | None = None
    improved: bool = False
    notice: str = ""
    elapsed_secs: float = 0.0
