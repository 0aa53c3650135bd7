"""What a question to a model costs beside the model's own time: prompt, protocol, parsing, checking, transcript.

    python benchmarks/llm_overhead.py [--samples 16] [WORKLOAD ...]

Whole runs with the real client and a server on this machine that answers after 100 ms, one question at a time, nobody
standing in; only the hardware is a fake one. The overhead of a proposal is its time less the server's, from the moment
it is asked for until the search could take it in; the first one of a run, which opens the connection and looks at what
each structure brings, is told of apart. So is the part in which TVM applies what the model proposes: whoever proposes a
program, it is applied once before it is measured, and kept. The target is 50 ms a call without that part.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import publish, spread
from scripted import engineer, late, served, serving

from reasoning_compiler.measure import instrument
from reasoning_compiler.proposer.llm.proposer import LLMProposer
from reasoning_compiler.session import LLMSettings, tune
from reasoning_compiler.space.space import Space

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
    worst = max(row["later_secs"]["median"] for row in rows.values())
    publish("llm_overhead", {"samples": given.samples, "worst_median_secs": worst, "kernels": rows})


def overhead(spec: str, samples: int) -> dict[str, Any]:
    """Returns the seconds of a call beside the server's time: of the first, of later ones, and what applying took."""
    asked: list[tuple[float, float]] = []
    applied: list[tuple[float, float]] = []
    propose, why_not = LLMProposer.propose, Space.why_not

    def applying(self: Space, *args: Any) -> Any:
        started = time.perf_counter()
        try:
            return why_not(self, *args)
        finally:
            applied.append((started, time.perf_counter()))

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
        LLMProposer.propose, Space.why_not = timed, applying  # type: ignore[method-assign]
        try:
            tune(spec, out=Path(folder) / "run", samples=samples, llm=llm, proposer="random")
        finally:
            LLMProposer.propose, Space.why_not = propose, why_not  # type: ignore[method-assign]
        spans = list(server.spans)
    secs, applying_secs = [], []
    for start, end in asked:
        inside = [stop - begin for begin, stop in spans if start <= begin and stop <= end + 0.01]
        if inside:  # a call that the end of the run cut off has none
            of_it = sum(stop - begin for begin, stop in applied if start <= begin and stop <= end)
            applying_secs.append(of_it / len(inside))
            secs.append((end - start - sum(inside) - of_it) / len(inside))
    row = {
        "calls": len(spans),
        "first_secs": secs[0],
        "later_secs": spread(secs[1:]),
        "applying_secs": spread(applying_secs[1:]),
    }
    print(spec, row, flush=True)
    return row


if __name__ == "__main__":
    main()
