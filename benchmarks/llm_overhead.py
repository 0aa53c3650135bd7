"""What a question to a model costs beside the model's own time: prompt, protocol, parsing, checking, transcript.

    python benchmarks/llm_overhead.py [--samples 16] [WORKLOAD ...]

Whole runs with the real client and a server on this machine that answers after 100 ms, one question at a time, nobody
standing in; only the hardware is a fake one. The overhead of a proposal is its time less the server's, from the moment
it is asked for until the search could take it in; the first one of a run, which opens the connection and looks at what
each structure brings, is told of apart. The target is 50 ms a call.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import publish, spread
from scripted import engineer, late, served, serving

from reasoning_compiler.measure import instrument
from reasoning_compiler.proposer.llm.proposer import LLMProposer
from reasoning_compiler.tuner import LLMSettings, tune

from fake_instrument import FakeInstrument  # isort: skip

KERNELS = ("llama3-attention", "deepseek-moe", "flux-attention", "flux-conv", "llama4-mlp", "gemm[512,4096,1024]")
ANSWER_SECS = 0.1


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("workloads", nargs="*", default=KERNELS)
    arguments.add_argument("--samples", type=int, default=16)
    given = arguments.parse_args()
    instrument.Instrument = FakeInstrument  # type: ignore[assignment, misc]
    rows = {spec: overhead(spec, given.samples) for spec in given.workloads}
    worst = max(row["secs_per_call"] for row in rows.values())
    publish("llm_overhead", {"samples": given.samples, "worst_secs_per_call": worst, "kernels": rows})


def overhead(spec: str, samples: int) -> dict[str, Any]:
    """Returns the seconds beside the server's time: for each call of a run, for the first, and their spread."""
    asked: list[tuple[float, float]] = []
    propose = LLMProposer.propose

    def timed(self: LLMProposer, *args: Any) -> Any:
        started = time.perf_counter()
        try:
            return propose(self, *args)
        finally:
            asked.append((started, time.perf_counter()))

    with tempfile.TemporaryDirectory() as folder, serving(late(served(engineer, seed=0), ANSWER_SECS)) as server:
        llm = LLMSettings(
            "scripted",
            base_url=server.base_url,
            max_prompt_tokens=8000,
            max_concurrent_calls=1,
            expert_share=0.0,
        )
        LLMProposer.propose = timed  # type: ignore[method-assign]
        try:
            tune(spec, out=Path(folder) / "run", samples=samples, llm=llm, proposer="random")
        finally:
            LLMProposer.propose = propose  # type: ignore[method-assign]
        spans = list(server.spans)
    secs = []
    for start, end in asked:
        inside = [stop - begin for begin, stop in spans if start <= begin and stop <= end + 0.01]
        if inside:  # a call that the end of the run cut off has none
            secs.append((end - start - sum(inside)) / len(inside))
    row = {
        "calls": len(spans),
        "secs_per_call": statistics.mean(secs),
        "first_secs": secs[0],
        "later_secs": spread(secs[1:]),
    }
    print(spec, row, flush=True)
    return row


if __name__ == "__main__":
    main()
