"""Does the search search? On recorded landscapes of real kernels, over paired seeds, without hardware.

Each file in `landscapes/` holds every program of a small space with the time that it took (`reasonc record`). A run's
result is how many times as slow as the landscape's best its winner is, in logarithms. Tree search in which the expert
proposes must beat tree search in which chance proposes, and that must beat chance without a tree.
"""

from __future__ import annotations

import math
import tempfile
from functools import cache
from pathlib import Path

from reasoning_compiler.experiment.cell import cell_of
from reasoning_compiler.experiment.landscape import Landscape
from reasoning_compiler.experiment.landscape_file import read_landscape
from reasoning_compiler.experiment.recorded import search
from reasoning_compiler.experiment.variants import methods
from reasoning_compiler.tuner.settings import Settings

LANDSCAPES = Path(__file__).parent / "landscapes"
KERNELS = ("attention", "conv", "gemm", "mlp")
SAMPLES, SEEDS = 16, 24


@cache
def landscape(kernel: str) -> Landscape:
    return read_landscape(LANDSCAPES / f"{kernel}.landscape.gz")


@cache
def losses(kernel: str, method: str) -> tuple[float, ...]:
    """Returns for each seed the logarithm of the winner's time over the best one's."""
    place = landscape(kernel)
    (variant,) = methods([method], Settings(samples=SAMPLES))
    found = []
    for seed in range(SEEDS):
        with tempfile.TemporaryDirectory() as folder:
            run = search(place, variant.seeded(seed, key=place.workload.key), Path(folder) / "run")
        found.append(math.log(cell_of(run, method, workload=kernel).best_secs[-1] / place.best_secs))
    return tuple(found)
