"""Attention fused over rows: found by its data flow (`chain.py`, `mask.py`), scheduled (`schedule.py`), sized
(`sizes.py`), and offered (`rule.py`)."""

from reasoning_compiler.rules.attention.rule import FusedAttention

RULE = FusedAttention
