"""What matters to a search with a language model: ablations with scripted models on the recorded landscapes.

    python benchmarks/llm_ablations.py [--samples 24] [--repeats 3]

Nothing is measured: `tests/landscapes/` answers for the hardware, and scripts behind a server (the rules of
`tests/llm/scripted_models.py`, which see nothing but the prompt) stand for the models. So this says what context, model
and fallback are worth to a reader that makes much of its prompt ("engineer"), to one that names legal values by chance
("chance"), and to one that talks nonsense ("nonsense", for which the fallback is all). What they are worth to a real
model, it does not say.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from kept import store
from scripted import Script, chance, engineer, nonsense, served, serving

from reasoning_compiler.experiment import ablate
from reasoning_compiler.session import LLMSettings, Settings

ROOT = Path(__file__).parents[1]
LANDSCAPES = sorted((ROOT / "tests" / "landscapes").glob("*.landscape.gz"))
MODELS = {"engineer": engineer, "chance": chance, "nonsense": nonsense}
ABLATIONS = {"context-depth": ("engineer", ()), "model": ("engineer", tuple(MODELS)), "fallback": ("nonsense", ())}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--samples", type=int, default=24)
    arguments.add_argument("--repeats", type=int, default=3)
    given = arguments.parse_args()
    command = f"python benchmarks/llm_ablations.py --samples {given.samples} --repeats {given.repeats}"
    with serving(by_name) as server:
        for what, (model, values) in ABLATIONS.items():
            # Nobody stands in for the model where it has something usable: what is compared is the model.
            llm = LLMSettings(model, base_url=server.base_url, expert_share=0.0)
            with tempfile.TemporaryDirectory() as folder:
                results = ablate(
                    [str(path) for path in LANDSCAPES],
                    what,
                    values,
                    settings=Settings(samples=given.samples, proposer="random"),
                    repeats=given.repeats,
                    llm=llm,
                    out=Path(folder) / "out",
                    command=command,
                )
            text = json.dumps(results).replace(server.base_url, "http://127.0.0.1/v1")
            store(f"llm_{what.replace('-', '_')}", json.loads(text))


def by_name(request: dict[str, Any]) -> Script:
    """Returns the answer of the model that the request names."""
    return served(MODELS[request["model"]], seed=0)(request)


if __name__ == "__main__":
    main()
