"""Prompt tokens of a call: ours against the paper's own prompt, on the paper's five kernels.

    python benchmarks/llm_prompt_tokens.py [--samples 32] [WORKLOAD ...]

Both methods run whole, with a model that draws its answers; only the hardware is a fake one, since the length of a
prompt does not depend on how fast programs are. Tokens are counted with OpenAI's o200k_base where `tiktoken` and that
vocabulary are at hand, else as a third of the characters. The target is a ratio of at least 5.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import publish
from scripted import Respond, Script, chance, run, served, serving

from reasoning_compiler.measure import instrument
from reasoning_compiler.proposer.llm.calls import estimate_tokens
from reasoning_compiler.proposer.llm.transcript import Exchange, read_transcript

from fake_instrument import FakeInstrument  # isort: skip

KERNELS = ("llama3-attention", "deepseek-moe", "flux-attention", "flux-conv", "llama4-mlp")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("workloads", nargs="*", default=KERNELS)
    arguments.add_argument("--samples", type=int, default=32)
    given = arguments.parse_args()
    instrument.Instrument = FakeInstrument  # type: ignore[assignment, misc]
    counter, count = token_counter()
    rows = {spec: compare(spec, given.samples, count) for spec in given.workloads}
    ratios = [row["ratio"] for row in rows.values()]
    publish(
        "llm_prompt_tokens",
        {
            "samples": given.samples,
            "counted_with": counter,
            "least_ratio": min(ratios),
            "geomean_ratio": math.exp(statistics.mean(map(math.log, ratios))),
            "kernels": rows,
        },
    )


def token_counter() -> tuple[str, Callable[[str], int]]:
    """Returns how tokens are counted, in words and as a function."""
    try:
        import tiktoken

        encoding = tiktoken.get_encoding("o200k_base")
    except Exception:  # no package, no vocabulary, no network
        return "characters / 3", estimate_tokens
    return "o200k_base", lambda text: len(encoding.encode(text))


def compare(spec: str, samples: int, count: Callable[[str], int]) -> dict[str, Any]:
    """Returns tokens of calls, of both prompts, and their ratio."""
    ours = figures(spec, samples, served(chance, seed=0), "default", count)
    paper = figures(spec, samples, mutators(0), "paper", count)
    row = {"ours": ours, "paper": paper, "ratio": paper["tokens_per_call"]["mean"] / ours["tokens_per_call"]["mean"]}
    print(f"{spec}: {row['ratio']:.2f} times as many", flush=True)
    return row


def figures(spec: str, samples: int, respond: Respond, preset: str, count: Callable[[str], int]) -> dict[str, Any]:
    """Returns a run's calls, the tokens of their prompts, and tokens in all for each measured program."""
    with tempfile.TemporaryDirectory() as folder, serving(respond) as server:
        result = run(spec, server, out=Path(folder) / "run", samples=samples, preset=preset)
        exchanges = read_transcript(result.folder / "transcript.jsonl")
    prompts = [tokens(e, count) for e in exchanges if e.repair_of is None]
    everything = sum(tokens(e, count) + count(e.answer or "") for e in exchanges)
    return {
        "calls": len(exchanges),
        "repairs": len(exchanges) - len(prompts),
        "tokens_per_call": {"mean": statistics.mean(prompts), "min": min(prompts), "max": max(prompts)},
        "tokens_per_measured_program": everything / result.run.num_samples,
    }


def tokens(exchange: Exchange, count: Callable[[str], int]) -> int:
    return sum(count(message.text) for message in exchange.messages)


def mutators(seed: int) -> Respond:
    """Returns answers in the paper's form: a sequence of names."""
    rng = random.Random(seed)
    names = ("TileSize", "Unroll", "ComputeLocation", "Parallel")

    def respond(request: dict[str, Any]) -> Script:
        drawn = ", ".join(rng.choices(names, k=3))
        return Script(f"The loops may be tiled differently.\nTransformations to apply: {drawn}")

    return respond


if __name__ == "__main__":
    main()
