"""A slow model beside the hardware: how long measurement idles while answers are under way.

    python benchmarks/llm_overlap.py [--delay 5] [--samples 32] [--repeats 3] [WORKLOAD]

Four ways to spend the same samples: "overlapped" is the tuner as it is, in which the expert fills in at most half of
them; "filled" lets it fill in nine in ten; "sequential" asks, waits, measures, and asks again; "expert" has no model,
which is the least that a run can take. The model is a server on this machine that answers
each question after the delay. Idle is the time between the first question and the last sample in which an answer was
under way and nothing was built or run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import publish, spread
from scripted import engineer, late, run, served, serving

from reasoning_compiler.core.steps import Step
from reasoning_compiler.measure import instrument
from reasoning_compiler.session import model, tune

Span = tuple[float, float]
MEASURING: list[Span] = []


class Watched(instrument.Instrument):
    """An instrument that notes when it is at work."""

    def measure(self, *args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return super().measure(*args, **kwargs)
        finally:
            MEASURING.append((started, time.perf_counter()))

    def measure_untuned(self) -> Any:
        started = time.perf_counter()
        try:
            return super().measure_untuned()
        finally:
            MEASURING.append((started, time.perf_counter()))


class Sequential:
    """Asks the model for a batch, waits, has it measured, and asks again."""

    def __init__(self, search: Any, proposer: Any, *, children: int, **_: Any) -> None:
        self._search, self._proposer, self._children = search, proposer, children

    def first_look(self) -> None:
        """Does nothing: the first question is asked when the first batch is."""

    def tend(self) -> None:
        """Does nothing while a batch is measured."""

    def ask(self, num: int) -> list[Step]:
        """Returns the next batch, when the model has proposed it."""
        while self._search.num_waiting < num:
            expansion = self._search.next_expansion(max_num=self._children)
            if expansion is None:
                break
            draws = self._search.draws(expansion)
            self._search.expand(expansion, self._proposer.propose(expansion.context, expansion.num, draws))
        return self._search.pick(num)

    def close(self, *, at_rest: bool) -> None:
        """Ends the client."""
        self._proposer.close()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("workload", nargs="?", default="gemm[512,4096,1024]")
    arguments.add_argument("--delay", type=float, default=5.0)
    arguments.add_argument("--samples", type=int, default=32)
    arguments.add_argument("--repeats", type=int, default=3)
    given = arguments.parse_args()
    instrument.Instrument = Watched  # type: ignore[misc]
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in ("overlapped", "filled", "sequential", "expert")}
    for repeat in range(given.repeats):
        for way, found in rows.items():
            found.append(spend(way, given.workload, samples=given.samples, delay=given.delay, seed=repeat))
            print(way, found[-1], flush=True)
    record = {name: {key: spread([row[key] for row in found]) for key in found[0]} for name, found in rows.items()}
    publish("llm_overlap", {"workload": given.workload, "samples": given.samples, "delay_secs": given.delay} | record)


def spend(way: str, workload: str, *, samples: int, delay: float, seed: int) -> dict[str, float]:
    """Returns figures of one run: wall seconds, idle seconds and share, calls, and programs of the model's."""
    MEASURING.clear()
    thinker = model.Thinker
    with tempfile.TemporaryDirectory() as folder, serving(late(served(engineer, seed=seed), delay)) as server:
        out = Path(folder) / "run"
        started = time.perf_counter()
        try:
            if way == "expert":
                result = tune(workload, out=out, samples=samples, seed=seed)
            else:
                model.Thinker = Sequential if way == "sequential" else thinker  # type: ignore[assignment, misc]
                share = 0.9 if way == "filled" else 0.5
                result = run(workload, server, out=out, samples=samples, seed=seed, share=share)
        finally:
            model.Thinker = thinker  # type: ignore[misc]
        wall_secs = time.perf_counter() - started
        last_sample = MEASURING[-1][1]
        first_call = min((start for start, _ in server.spans), default=last_sample)
        under_way = clipped(server.spans, first_call, last_sample)
        idle_secs = covered(under_way) - covered(overlaps(under_way, MEASURING))
        steps = [step for step in result.run.steps if step.measurement is not None]
        return {
            "wall_secs": wall_secs,
            "search_secs": last_sample - MEASURING[0][0],
            "idle_secs": idle_secs,
            "idle_share": idle_secs / max(last_sample - first_call, 1e-9),
            "calls": len(server.spans),
            "measured_of_the_model": sum(step.proposer == "llm" for step in steps),
        }


def covered(spans: list[Span]) -> float:
    """Returns how many seconds lie in any of the spans."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def overlaps(some: list[Span], others: list[Span]) -> list[Span]:
    """Returns the times in one of `some` and one of `others`."""
    both = [(max(a[0], b[0]), min(a[1], b[1])) for a in some for b in others]
    return [span for span in both if span[0] < span[1]]


def clipped(spans: list[Span], start: float, end: float) -> list[Span]:
    return overlaps(spans, [(start, end)])


if __name__ == "__main__":
    main()
