"""Named random streams: every random draw comes from a stream that the run's seed and a name determine."""

from __future__ import annotations

import hashlib

import numpy as np


def stream(seed: int, *name: str | int) -> np.random.Generator:
    """Returns the generator of the stream `name` of a run.

    The same seed and name give the same stream in every process and under every `PYTHONHASHSEED`. A counter as
    the last part of the name makes a stream a draw: then a resumed run needs no saved generator state.

    Args:
        seed: the run's seed, any integer.
        name: what the stream is for, most general part first, as in `stream(7, "expand", 12)`.
    """
    text = "\x1f".join(str(part) for part in (seed, *name))
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little"))
