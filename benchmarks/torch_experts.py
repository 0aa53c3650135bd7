"""What experts with uneven token counts take in PyTorch, in a loop, for uneven_experts.py: prints seconds as JSON.

    python benchmarks/torch_experts.py HIDDEN WIDTH THREADS ROWS...

ROWS are how many rows each expert gets.
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise

import torch
import torch._inductor.config
from torch import nn
from torch.nn.functional import silu
from torch_product import secs


class Experts(nn.Module):
    """Each expert computes its rows; one without rows is left out."""

    def __init__(self, hidden: int, width: int, rows: list[int]) -> None:
        super().__init__()
        self.ends = [sum(rows[:i]) for i in range(len(rows) + 1)]
        self.gate, self.up = (nn.ModuleList(nn.Linear(hidden, width, bias=False) for _ in rows) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(width, hidden, bias=False) for _ in rows)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = []
        for expert, (start, end) in enumerate(pairwise(self.ends)):
            if end > start:
                own = x[start:end]
                parts.append(self.down[expert](silu(self.gate[expert](own)) * self.up[expert](own)))
        return torch.cat(parts)


def main() -> None:
    hidden, width, threads, *rows = map(int, sys.argv[1:])
    torch.set_num_threads(threads)
    torch._inductor.config.freezing = True
    model, x = Experts(hidden, width, rows).eval(), torch.randn(sum(rows), hidden)
    compiled = torch.compile(model)
    with torch.no_grad():
        print(json.dumps({"eager": secs(lambda: model(x)), "compiled": secs(lambda: compiled(x))}))


if __name__ == "__main__":
    main()
