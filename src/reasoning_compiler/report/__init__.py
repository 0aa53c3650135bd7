"""What a run has to say: its journal, turned into numbers and text."""

from __future__ import annotations

from reasoning_compiler.report.summary import Summary, summarize
from reasoning_compiler.report.text import to_json, to_text

__all__ = ["Summary", "summarize", "to_json", "to_text"]
